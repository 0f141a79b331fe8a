"""``python -m benchmarks loss``: it counts what is lost, ends when it should, and ours is 0."""

from __future__ import annotations

import json
import platform
import re
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


def may_lose(file_system: str) -> set[str]:
    """The patterns that a stock host may tear here, of those that our script writes.

    Lines of up to a page it can tear nowhere. Longer ones are claimed for what they were
    measured on, ext4 with the large folios of Linux 6.18, and what is newer must not be worse.
    Elsewhere (tmpfs, an older kernel, the overlay of a container) their loss fails no test.
    """
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    assert version, platform.release()
    if file_system == "ext4" and (int(version[1]), int(version[2])) >= (6, 18):
        return set()
    return {"20KB", "100KB", "mixed"}


def test_ours_loses_nothing_under_dagsters_own_client_where_that_is_claimed(
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
    assert lossy <= may_lose(results["file_system"])
    assert code == bool(lossy)


@pytest.mark.parametrize(
    ("file_system", "release", "claimed"),
    [
        ("ext4", "6.18.5-cloud-amd64", True),
        ("ext4", "7.0.0", True),
        ("ext4", "6.6.1", False),
        ("tmpfs", "6.18.5", False),
        ("overlay", "6.18.5", False),
    ],
)
def test_the_claim_is_for_the_file_system_that_was_measured(
    monkeypatch: pytest.MonkeyPatch, file_system: str, release: str, claimed: bool
) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    assert may_lose(file_system) == (set() if claimed else {"20KB", "100KB", "mixed"})


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


@pytest.mark.parametrize(
    ("lossy_rounds", "options", "code"),
    [(ENOUGH, [], 0), (ENOUGH - 1, [], 1), (0, [], 1), (0, ["--quick"], 0)],
)
def test_too_few_losses_of_stock_show_nothing_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lossy_rounds: int,
    options: list[str],
    code: int,
) -> None:
    measured_as(monkeypatch, *[made_up(7)] * lossy_rounds, made_up(0))
    assert main(["loss", "--rounds", "1", "--max-rounds", "6", *options]) == code
    said = capsys.readouterr().err
    assert (f"only {lossy_rounds} of 6 runs of the stock script were lossy" in said) is bool(code)


def test_what_is_printed_says_how_many_rounds_there_were(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured_as(monkeypatch, made_up(7))
    assert main(["loss", "--rounds", "6"]) == 0
    assert capsys.readouterr().out.startswith("6 rounds; CPython ")


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
