"""``python -m benchmarks loss``: it counts what is lost, ends when it should, and ours is 0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import loss
from benchmarks.__main__ import main
from benchmarks.loss import ENOUGH, LossReport, Run, file_system, measure_loss
from benchmarks.patterns import PATTERNS, WAYS, pattern

pytestmark = pytest.mark.host

MACHINE: dict[str, Any] = {"python": "P", "cpus": 2, "platform": "L", "packages": {}}


def made_up(lost_by_stock: int, lost_by_ours: int = 0, failure: str = "") -> list[dict[str, Any]]:
    return [
        {
            "pattern": "20KB",
            "way": "burst",
            "subject": subject,
            "messages": 500,
            "lost": lost,
            "failure": failure if subject == "ours" else "",
        }
        for subject, lost in (("stock", lost_by_stock), ("ours", lost_by_ours))
    ]


def measured_as(monkeypatch: pytest.MonkeyPatch, *rounds: list[dict[str, Any]]) -> None:
    """Give these rounds; the last one again and again."""
    left = list(rounds)

    def measure(*_: object) -> dict[str, Any]:
        return {"runs": left.pop(0) if len(left) > 1 else left[0]}

    monkeypatch.setattr(loss, "measure", measure)


def test_ours_loses_nothing_under_dagsters_own_client(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A short one, with real processes: every pattern in every way, by both scripts."""
    path = tmp_path / "loss.json"
    code = main(["loss", "--quick", "--json", str(path)])
    results = json.loads(path.read_text())
    assert results["table"] in capsys.readouterr().out
    seen = [(run["pattern"], run["way"], run["subject"]) for run in results["runs"]]
    assert sorted(seen) == sorted(
        (each.name, way, subject)
        for each in PATTERNS
        for way in WAYS
        for subject in ("ours", "stock")
    )
    for run in results["runs"]:
        assert run["messages"] == pattern(run["pattern"]).size(100)
        assert not run["failure"]
    lossy = {run["pattern"] for run in results["runs"] if run["subject"] == "ours" and run["lost"]}
    # Lines over a page can be torn where single pages become visible.
    may_lose = {"20KB", "100KB", "mixed"} if results["file_system"] == "tmpfs" else set()
    assert lossy <= may_lose
    assert code == bool(lossy)


def test_it_goes_on_until_stock_has_lost_often_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    measured_as(monkeypatch, made_up(0), made_up(0), made_up(7))
    report, numbers = LossReport(MACHINE, 1), list[int]()
    measure_loss(report, rounds=3, most_rounds=50, done=numbers.append)
    assert numbers == list(range(1, 2 + ENOUGH + 1))
    assert len(report.lossy("stock")) == ENOUGH


def test_it_does_all_rounds_and_no_more_than_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    measured_as(monkeypatch, made_up(7))
    report = LossReport(MACHINE, 1)
    measure_loss(report, rounds=8, most_rounds=50, done=lambda _: None)
    assert len(report.of("stock")) == 8
    measured_as(monkeypatch, made_up(0))
    report = LossReport(MACHINE, 1)
    measure_loss(report, rounds=3, most_rounds=4, done=lambda _: None)
    assert len(report.of("stock")) == 4


@pytest.mark.parametrize(("lost", "failure"), [(3, ""), (0, "it failed")])
def test_a_loss_of_ours_is_an_error_and_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lost: int, failure: str
) -> None:
    measured_as(monkeypatch, made_up(7, lost, failure))
    assert main(["loss", "--rounds", "1", "--max-rounds", "2"]) == 1
    output = capsys.readouterr().out
    assert f"ours, 20KB, burst, round 1: {lost} messages lost. {failure}" in output


def test_the_table_counts_runs_and_messages() -> None:
    report = LossReport(MACHINE, 1)
    for number in (1, 2, 3):
        runs = made_up(7 * (number > 1))
        report.runs += [Run(round=number, **run) for run in runs]
    rows = {line.split(" | ")[0]: line.split(" | ")[1:] for line in report.table().splitlines()}
    assert rows["| 500 x 20 KB, in bursts"] == ["3", "2", "14", "0", "0 |"]
    assert rows["| 500 x 20 KB, each flushed"] == ["0", "0", "0", "0", "0 |"]
    assert rows["| all"] == ["3", "2", "14", "0", "0 |"]


def test_payloads_are_the_same_each_time_and_of_the_sizes_that_are_said() -> None:
    for each in PATTERNS:
        first = list(each.payloads(50))
        assert first == list(each.payloads(50))
        assert [payload["index"] for payload in first] == list(range(each.size(50)))
    assert {len(json.dumps(payload)) for payload in pattern("20KB").payloads(50)} <= set(
        range(19_900, 20_000)
    )
    sizes = [len(payload["text"]) for payload in pattern("mixed").payloads(10)]
    assert min(sizes) < 1_000
    assert max(sizes) > 18_000


def test_loss_stands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loss", "emit"]) == 2
    assert "loss" in capsys.readouterr().err


def test_the_file_system_is_named() -> None:
    assert file_system("/proc/self") == "proc"
