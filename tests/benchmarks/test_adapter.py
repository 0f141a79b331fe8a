"""``python -m benchmarks dagster``: its parts run, give real numbers, and tell what was lost."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import adapter
from benchmarks.__main__ import main
from benchmarks.adapter import DAGSTER, PARTS, DagsterReport, Work, measure_dagster
from benchmarks.cases import Subject
from benchmarks.launching import environment
from benchmarks.runner import BenchmarkError

pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[2]
MACHINE: dict[str, Any] = {"python": "P", "cpus": 2, "platform": "L", "packages": {}}
CLIENTS = ("stock", "async", "sync")
SCRIPTS = ("dagster_pipes", "asyncpipes")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What ``python -m benchmarks dagster --quick`` printed, and its JSON."""
    path = tmp_path_factory.mktemp("benchmarks") / "results.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", DAGSTER, "--quick", "--json", str(path)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def made_up(lost_by_stock: int, lost_by_ours: int = 0, failure: str = "") -> dict[str, Any]:
    """A round of ``loss``."""
    return {
        "runs": [
            {
                "client": client,
                "script": script,
                "messages": 500,
                "lost": lost_by_stock if client == "stock" else lost_by_ours,
                "failure": "" if client == "stock" else failure,
            }
            for script in SCRIPTS
            for client in CLIENTS
        ]
    }


def rows(table: str) -> dict[str, list[str]]:
    """The cells of a table in Markdown by its first column; of several lines, the last."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return {first: others for first, *others in lines}


def test_its_tables_are_printed_as_they_are_in_the_json(
    quick: tuple[str, dict[str, Any]],
) -> None:
    output, results = quick
    assert len(results["tables"]) == len(PARTS)
    for table in results["tables"]:
        assert table in output
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert output.startswith(results["machine"]["python"])


def test_every_client_runs_every_script_and_ours_lose_nothing(
    quick: tuple[str, dict[str, Any]],
) -> None:
    runs = quick[1]["loss"]
    assert [(run["script"], run["client"]) for run in runs] == [
        (script, client) for script in SCRIPTS for client in CLIENTS
    ]
    for run in runs:
        assert run["messages"] == 5
        assert not run["failure"]
        assert not run["lost"] or run["client"] == "stock"


def test_scripts_at_once_have_real_numbers(quick: tuple[str, dict[str, Any]]) -> None:
    many = quick[1]["many"]
    assert len(many) == 5
    for [numbers] in many.values():
        assert numbers["scripts"] == 3
        assert all(math.isfinite(number) for number in numbers.values())
        assert numbers["cpu_seconds"] > 0
        assert numbers["seconds"] > 0
        assert numbers["lag_median_ms"] <= numbers["lag_max_ms"]


def test_the_result_behind_the_lines_came_while_the_script_waited(
    quick: tuple[str, dict[str, Any]],
) -> None:
    [numbers] = quick[1]["backlog"]
    assert numbers["lines"] == 200
    assert numbers["in_log"] + numbers["in_stderr"] == 200
    assert 0 < numbers["late_ms"] < 300_000  # else the script did not wait for it
    assert numbers["rest_seconds"] > 0


@pytest.mark.parametrize(("lost", "failure"), [(3, ""), (0, "it failed")])
def test_a_loss_of_ours_is_an_error_and_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lost: int, failure: str
) -> None:
    monkeypatch.setattr(adapter, "measure", lambda *_: made_up(7, lost, failure))
    assert main([DAGSTER, "loss", "--rounds", "1"]) == 1
    output = capsys.readouterr().out
    assert f"sync, dagster_pipes script, round 1: {lost} messages lost. {failure}" in output


def test_a_loss_of_stocks_is_counted_and_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(adapter, "measure", lambda *_: made_up(7))
    assert main([DAGSTER, "loss", "--rounds", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| `dagster.PipesSubprocessClient` | `dagster_pipes` | 3 | 3 | 21 |" in lines
    assert "| `asyncpipes.dagster.PipesSubprocessClient` | `asyncpipes` | 3 | 0 | 0 |" in lines


def test_a_subject_that_fails_ends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(*_: object) -> dict[str, Any]:
        raise BenchmarkError("it took too long")

    monkeypatch.setattr(adapter, "measure", measure)
    assert main([DAGSTER, "backlog"]) == 1
    output = capsys.readouterr()
    assert "it took too long" in output.err
    assert not output.out


def test_rounds_turn_around_and_ratios_are_of_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def measure(subject: Subject, size: int) -> dict[str, float]:
        order.append(subject.label)
        assert size == 7
        number = (len(order) - 1) // 5
        seconds = (10.0, 2.0, 4.0)[number] if "bare" in subject.label else 5.0
        return {"seconds": seconds, "cpu_seconds": 1, "lag_median_ms": 0.5, "lag_max_ms": 1234}

    monkeypatch.setattr(adapter, "measure", measure)
    report = DagsterReport(MACHINE, Work(scripts=7))
    seen: list[tuple[int, str]] = []
    measure_dagster(report, parts=["many"], rounds=3, done=lambda *each: seen.append(each))
    assert order[5:10] == order[4::-1]
    assert seen == [(1, "many"), (2, "many"), (3, "many")]
    [table] = report.tables()
    bare, *ours, lines = list(rows(table).values())[2:]
    assert bare[0] == "4 (2 to 10)"
    assert [cells[1] for cells in ours] == ["1.25 (0.50 to 2.50)"] * 3
    assert bare[1].strip() == lines[1].strip() == ""
    assert lines[-1] == "1,234 (1,234 to 1,234)"


@pytest.mark.parametrize("names", [[DAGSTER, "emit"], ["loss", DAGSTER]])
def test_it_stands_alone_but_for_its_parts(
    names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(names) == 2
    assert DAGSTER in capsys.readouterr().err


def test_help_tells_the_parts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    output = capsys.readouterr().out
    for part in PARTS:
        assert f"  {part} " in output
