"""The long proofs' own machinery: what it counts, and that a step that hangs is ended."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import soak
from tests.soak import Done, Figure
from tests.support import wait_until


@pytest.mark.parametrize(
    ("closing", "code", "failures"),
    [
        ("59 passed, 968 deselected in 180.23s (0:03:00)", 0, 0),
        ("==== 1 failed, 59 passed, 2 errors in 1.00s ====", 1, 3),
        ("2 errors in 1.00s", 2, 2),
        ("10 passed in 1.00s", 1, 1),
        ("no tests ran in 0.01s", 5, 1),
        ("", None, 1),
    ],
)
def test_failures_are_counted(closing: str, code: int | None, failures: int) -> None:
    assert Done(f"E   3 failed in vain\n{closing}\n", code).failures == failures


def test_the_closing_line_is_read() -> None:
    done = Done("7 failed, 1 passed in 2s\n4 passed, 3 deselected, 2 xfailed in 1.00s\n", 0)
    assert done.counts() == {"passed": 4, "deselected": 3, "xfailed": 2}


def test_a_step_runs_to_its_end() -> None:
    done = soak.run(["-c", "import sys; print('out'); sys.exit(3)"], 60)
    assert (done.output, done.code) == ("out\n", 3)


def test_a_step_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    program = f"""if True:
        import os, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        with open({str(tmp_path / "begun")!r}, "w") as file:
            file.write(str(child.pid))
        os.rename({str(tmp_path / "begun")!r}, {str(tmp_path / "pid")!r})
        time.sleep(600)
    """
    for seconds in (1, 4, 16, 64):  # a busy machine may take long to get so far
        done = soak.run(["-c", program], seconds)
        assert done.code is None
        assert done.failures == 1
        if (tmp_path / "pid").exists():
            break
    pid = (tmp_path / "pid").read_text()
    wait_until(lambda: not _is_running(pid), f"process {pid} is gone")


def _is_running(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # what nobody has waited for yet


def test_the_table() -> None:
    figures = [Figure("a", "3 rounds", "0", False), Figure("b", "1 run", "2", True)]
    assert soak.table(figures).splitlines() == [
        "| what | how often | failures |",
        "|---|---|---|",
        "| a | 3 rounds | 0 |",
        "| b | 1 run | 2 |",
    ]


def test_the_worst_step_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = {
        "good": lambda options: Figure("good", f"{options.rounds}", "0", False),
        "bad": lambda options: Figure("bad", f"{options.rounds}", "1", True),
    }
    monkeypatch.setattr(soak, "STEPS", steps)
    assert soak.main(["good", "--rounds", "7"]) == 0
    assert "| good | 7 | 0 |" in capsys.readouterr().out
    assert soak.main([]) == 1
    assert "| bad | 5 | 1 |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        soak.main(["absent"])


def test_what_is_run_is_there() -> None:
    assert [
        path for path in (*soak.REPEATED, *soak.LATE) if not os.path.exists(soak.ROOT / path)
    ] == []


OPTIONS = argparse.Namespace(
    examples=2_000, rounds=5, loss_rounds=5, minutes=30.0, deadline=float("inf")
)


def loss_run(number: int, subject: str, lost: int = 0) -> dict[str, Any]:
    return {"round": number, "subject": subject, "messages": 500, "lost": lost, "failure": ""}


def made_up(arguments: Sequence[str], seconds: float) -> Done:
    """What a step's command would print, and write, if all went well."""
    if "--json" in arguments:
        path = Path(arguments[arguments.index("--json") + 1])
        runs = [loss_run(1, "stock", 7), loss_run(1, "ours"), loss_run(2, "stock")]
        path.write_text(json.dumps({"runs": [*runs, loss_run(2, "ours")]}))
    return Done("  - 2,000 passing examples, 0 failing examples\n4 passed in 1.00s\n", 0)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    monkeypatch.setattr(soak, "run", made_up)
    return {name: step(OPTIONS) for name, step in soak.STEPS.items()}


def test_what_each_step_counts(figures: dict[str, Figure]) -> None:
    assert {name: each.extent for name, each in figures.items()} == {
        "properties": "2,000 random examples of 1 properties",
        "long": "4 tests",
        "loss": "2 rounds, 2 runs, 1,000 messages",
        "late": "4 tests",
        "repeated": "5 rounds, 20 tests",
    }
    assert "`python -m benchmarks loss --rounds 5`" in figures["loss"].what
    assert figures["loss"].failures == (
        "0 lossy runs, 0 messages lost (`dagster_pipes` beside it: 1 lossy runs, 7 messages lost)"
    )
    assert not any(each.failed for each in figures.values())


def test_the_table_of_the_readme_is_of_these_steps(figures: dict[str, Figure]) -> None:
    readme = (soak.ROOT / "README.md").read_text()
    assert readme.count("\n".join(soak.HEADING)) == 1
    rows = readme.split("\n".join(soak.HEADING))[1].split("\n\n")[0].strip().splitlines()
    printed = {each.what.partition("--rounds")[0] for each in figures.values()}
    assert {row.split(" | ")[0].removeprefix("| ").partition("--rounds")[0] for row in rows} <= (
        printed
    )


def test_no_round_is_begun_that_may_be_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 750 seconds three rounds of 170 leave too few for a fourth, if it is slower."""
    now = 0.0

    def run(arguments: Sequence[str], seconds: float) -> Done:
        nonlocal now
        assert seconds >= 1.4 * 170
        now += 170
        return Done("4 passed in 170.00s\n", 0)

    monkeypatch.setattr(soak, "run", run)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    options = argparse.Namespace(**{**vars(OPTIONS), "deadline": 750.0})
    assert soak.repeated(options).extent == "3 rounds, 12 tests"
