"""The benchmarks run, give real numbers, and notice a message that is lost."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.cases import CASES, Case, Metric, Sizes, Subject
from benchmarks.launching import environment
from benchmarks.message import (
    LINE_BYTES,
    LostMessageError,
    check_file,
    check_indices,
    lost_at_end,
    write_backlog,
)
from benchmarks.runner import BenchmarkError, Measurement, Report, run_round
from benchmarks.subjects import view
from benchmarks.table import print_report, ratio

pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[2]
SIZES = Sizes(messages=200, host_messages=1_000, latency_messages=20, bursts=2, imports=1)

#: A script that reports a hundred messages but for the one that is named first.
LOSING_SCRIPT = """
import sys, time
from dagster_pipes import open_dagster_pipes
from benchmarks.message import payload

with open_dagster_pipes() as pipes:
    started = time.monotonic()
    for index in range(100):
        if index != int(sys.argv[1]):
            pipes.report_custom_message(payload(index))
print(started)
"""
LOSING_SUBJECT = """
import sys
from benchmarks.subjects.emit import timed

def middle(messages):
    return timed([sys.executable, {script!r}, "7"], messages, ours=False)

def last(messages):
    return timed([sys.executable, {script!r}, "99"], messages, ours=False)

def none(messages):
    return timed([sys.executable, {script!r}, "100"], messages, ours=False)
"""


@pytest.fixture
def losing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with subjects that lose the message they are named after."""
    script = tmp_path / "losing_script.py"
    script.write_text(LOSING_SCRIPT)
    (tmp_path / "losing_subject.py").write_text(LOSING_SUBJECT.format(script=str(script)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "losing_subject"


def case_of(target: str) -> Case:
    return Case(
        "losing",
        "a case of one subject",
        lambda sizes: 100,
        (Metric("per_second", "messages/s"),),
        (
            Subject(
                "stock",
                target,
            ),
        ),
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What ``python -m benchmarks --quick`` printed, and its JSON."""
    path = tmp_path_factory.mktemp("benchmarks") / "results.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--messages", "200", "--json", str(path)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def test_every_row_has_real_numbers(quick: tuple[str, dict[str, Any]]) -> None:
    rows = quick[1]["table"]
    expected = [
        (case.name, subject.label, metric.key)
        for case in CASES
        for metric in case.metrics
        for subject in case.subjects
    ]
    assert [(row["case"], row["subject"], row["metric"]) for row in rows] == expected
    for row in rows:
        assert math.isfinite(row["value"]), row
        assert 0 < row["low"] <= row["value"] <= row["high"], row
        if row["subject"].startswith("ours"):
            assert row["against_stock"] > 0, row
            assert row["target"], row


def test_shares_of_the_floor_are_where_a_floor_is(quick: tuple[str, dict[str, Any]]) -> None:
    shares = {(r["case"], r["subject"]): r["share_of_floor"] for r in quick[1]["table"]}
    for case in CASES:
        for subject in case.subjects:
            assert (shares[case.name, subject.label] is not None) == bool(subject.floor)


def test_every_round_is_there_with_what_it_measured(quick: tuple[str, dict[str, Any]]) -> None:
    measured = {(m["case"], m["subject"]): m["numbers"] for m in quick[1]["measurements"]}
    assert len(measured) == sum(len(case.subjects) for case in CASES)
    assert measured["emit", "stock"]["messages"] == 50
    assert measured["emit", "floor"]["messages"] == 200
    assert measured["host", "ours, stock lines"]["messages"] == 1_000
    assert measured["stall", "ours"]["messages"] == 3_000
    for numbers in measured.values():
        assert all(math.isfinite(value) for value in numbers.values()), numbers


def test_the_output_tells_the_machine_and_the_targets(quick: tuple[str, dict[str, Any]]) -> None:
    output, results = quick
    assert results["machine"]["python"] in output
    assert f"{results['machine']['cpus']} CPUs" in output
    for text in ("at least 10 x", "at least 35 %", "at most 1.1 x", *(c.title for c in CASES)):
        assert text in output


@pytest.mark.parametrize("which", ["middle", "last"])
def test_a_subject_that_loses_a_message_fails_the_run(
    losing: str, which: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--rounds", "1"], [case_of(f"{losing}:{which}")]) == 1
    output = capsys.readouterr()
    assert "messages were lost" in output.err
    assert "messages/s" not in output.out


def test_the_same_subject_without_a_loss_passes(
    losing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--rounds", "1"], [case_of(f"{losing}:none")]) == 0
    assert "messages/s" in capsys.readouterr().out


def test_the_error_names_the_message(losing: str) -> None:
    with pytest.raises(BenchmarkError, match="message 8 came where message 7 belongs"):
        list(run_round(1, [case_of(f"{losing}:middle")], SIZES))


def test_only_the_stock_host_may_lose(quick: tuple[str, dict[str, Any]]) -> None:
    tolerant = [
        (m["case"], m["subject"]) for m in quick[1]["measurements"] if "lost" in m["numbers"]
    ]
    assert sorted(tolerant) == [("latency", "stock"), ("run", "stock")]


def test_only_the_end_may_be_lost() -> None:
    assert lost_at_end([0, 1, 2], 5) == 2
    assert lost_at_end([0, 1, 2], 3) == 0
    with pytest.raises(LostMessageError):
        lost_at_end([0, 2], 3)


def test_a_subject_that_fails_says_why(losing: str) -> None:
    with pytest.raises(BenchmarkError, match="has no attribute 'nowhere'"):
        list(run_round(1, [case_of(f"{losing}:nowhere")], SIZES))


def test_rounds_turn_around(losing: str) -> None:
    subjects = tuple(Subject(label, f"{losing}:none") for label in ("first", "second"))
    case = replace(case_of(""), subjects=subjects)
    order = [m.subject for number in (1, 2) for m in run_round(number, [case], SIZES)]
    assert order == ["first", "second", "second", "first"]


def test_the_table_divides_medians_and_counts_lossy_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = Case(
        "case",
        "a case",
        lambda sizes: 1,
        (Metric("per_second", "messages/s", "at least 10 x", "at least 35 %"),),
        (Subject("ours", "", floor="floor"), Subject("stock", ""), Subject("floor", "")),
    )
    values = {"ours": (500, 600, 9_000), "stock": (50, 50, 1), "floor": (1_000, 1_200, 1_300)}
    report = Report({"python": "P", "cpus": 2, "platform": "L", "packages": {}}, SIZES)
    for subject, numbers in values.items():
        for number, value in enumerate(numbers, 1):
            numbers_of_round = {"per_second": float(value), "lost": 4.0 * (subject == "stock")}
            measured = Measurement(number, "case", subject, numbers_of_round)
            report.measurements.append(measured)
    ours, stock, _ = report.rows([case])
    assert (ours.value, ours.low, ours.high) == (600, 500, 9_000)
    assert (ours.against_stock, ours.share_of_floor) == (12, 0.5)
    assert (stock.against_stock, stock.share_of_floor) == (None, None)
    print_report(report, [case], 3)
    assert "stock: 12 messages were lost, in 3 of 3 runs" in capsys.readouterr().out


def test_a_subject_may_have_a_base_of_its_own() -> None:
    metric = Metric("per_second", "messages/s")
    subjects = (Subject("ours", ""), Subject("ours, small", "", base="small"))
    bases = (Subject("stock", ""), Subject("small", ""))
    case = Case("case", "a case", lambda sizes: 1, (metric,), (*subjects, *bases))
    report = Report({}, SIZES)
    for subject, value in {"ours": 60, "ours, small": 3, "stock": 20, "small": 2}.items():
        report.measurements.append(Measurement(1, "case", subject, {"per_second": value}))
    assert [row.against_stock for row in report.rows([case])] == [3, 1.5, None, None]


def test_the_view_is_measured_with_tables_too(quick: tuple[str, dict[str, Any]]) -> None:
    rows = {row["subject"]: row for row in quick[1]["table"] if row["case"] == "view"}
    for live, bare in (
        ("ours, live view", "bare run()"),
        ("ours, live view, tables", "bare run(), tables"),
        ("ours, live view, few tables", "bare run(), few tables"),
    ):
        assert rows[live]["against_stock"] == rows[live]["value"] / rows[bare]["value"]
    measured = [m for m in quick[1]["measurements"] if m["case"] == "view"]
    counts = {m["subject"]: m["numbers"]["messages"] for m in measured}
    assert counts["ours, live view, tables"] == counts["bare run(), tables"] == 100
    assert view.table(7)["raw_value"]["records"][3]["order"] == 7003


def test_the_last_that_the_view_says_is_what_counts() -> None:
    text = "2 materializations, 1,999 log lines\r\x1b[J1 materialization, 12,000 log lines\n"
    assert view.counted(text, "log line") == 12_000
    assert view.counted(text, "materialization") == 1
    assert view.counted("", "log line") == 0
    with pytest.raises(LostMessageError, match="1 materializations were counted, and 2 were"):
        view.check(1, 2, "materializations")


@pytest.mark.parametrize(
    ("value", "text"), [(12.34, "12.34 x"), (1.0, "1.00 x"), (0.5, "1/2.0"), (0.08, "1/12.5")]
)
def test_ratios_are_said_as_people_do(value: float, text: str) -> None:
    assert ratio(value) == text


@pytest.mark.parametrize("extended", [False, True])
def test_a_backlog_is_what_was_asked_for(tmp_path: Path, extended: bool) -> None:
    path = tmp_path / "messages"
    write_backlog(str(path), 100_001, extended=extended)
    check_file(str(path), 100_001)
    lines = path.read_bytes().splitlines(keepends=True)
    assert [json.loads(lines[at])["method"] for at in (0, -1)] == ["opened", "closed"]
    assert (len(lines[-2]) == LINE_BYTES) is not extended
    if extended:
        assert [json.loads(line)["seq"] for line in lines] == list(range(1, 100_004))


@pytest.mark.parametrize("indices", [[], [0, 1], [0, 2, 1], [0, 1, 1, 2], [1, 2, 3], [0, 1, 2, 3]])
def test_a_wrong_count_or_order_is_a_loss(indices: list[int]) -> None:
    with pytest.raises(LostMessageError):
        check_indices(indices, 3)


def test_a_torn_line_is_a_loss(tmp_path: Path) -> None:
    path = tmp_path / "messages"
    write_backlog(str(path), 3, extended=False)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LostMessageError, match="a line is not JSON"):
        check_file(str(path), 3)


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err


def test_help_explains_the_clocks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    output = capsys.readouterr().out
    for case in CASES:
        assert f"  {case.name} " in output
