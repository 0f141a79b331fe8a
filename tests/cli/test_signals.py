"""Signals, and outputs that stall: the command ends when it is told to."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from asyncpipes.cli.leaving import ENDING_SIGNALS
from tests.support import PATIENCE, wait_until
from tests.support_host import is_alive

from .terminal import asyncpipes_command, environment

pytestmark = pytest.mark.host

TALKATIVE = """
import os, signal, sys
from asyncpipes import open_pipes
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
with open_pipes(handle_signals=False) as pipes:
    open("pid", "w").write(f"{os.getpid()}\\n")
    while True:
        pipes.log.info("x" * 1000)
"""


#: Says that it was told to end, and does not.
DEAF = """
import signal, time
from asyncpipes import open_pipes
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # of all threads
with open_pipes(handle_signals=False) as pipes:
    pipes.log.info("here")
    signal.sigwait([signal.SIGINT])
    pipes.log.info("told")
    time.sleep(3600)
"""


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """As they were, after a test that has handled them in this process."""
    before = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    jobs = [{"command": [sys.executable, "talkative.py"], "grace": 3600}]
    (tmp_path / "jobs.json").write_text(json.dumps({"job": jobs}))
    return tmp_path


def started(here: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """The command, with a stdout of which nobody takes more than the first byte."""
    return begun(here, asyncpipes_command("run", *arguments))


def begun(here: Path, command: list[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, cwd=here, env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.read(1)
    return process


def pid_of(here: Path) -> int:
    pid = here / "pid"
    wait_until(lambda: pid.exists() and pid.read_text().endswith("\n"), "the script has begun")
    return int(pid.read_text())


ALONE = ["--grace", "3600", "--", sys.executable, "talkative.py"]


@pytest.mark.parametrize(
    "arguments",
    [ALONE, ["--json", *ALONE], ["--file", "jobs.json"], ["--json", "--file", "jobs.json"]],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_ends_it_at_once(
    here: Path, arguments: list[str], number: signal.Signals
) -> None:
    process = started(here, *arguments)
    try:
        pid = pid_of(here)
        process.send_signal(number)
        # The grace is an hour, so that only a second one can end it. Two that come at the
        # same time are one, so it may take more than that.
        while is_alive(pid):
            process.send_signal(number)
            time.sleep(0.01)
        process.wait(timeout=PATIENCE)
        assert process.returncode == 128 + number
        assert not is_alive(pid)
        assert process.stderr is not None
        what = b"interrupted" if number == signal.SIGINT else b"terminated"
        told = process.stderr.read()
        assert what in told or b"interrupted twice" in told, told
        assert b"Traceback" not in told
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def test_nohup_stays_nohup(here: Path) -> None:
    """A signal that is ignored when the command starts stays ignored."""
    (here / "quick.py").write_text(
        "import os, signal\nfrom asyncpipes import open_pipes\n"
        "with open_pipes() as pipes:\n"
        "    os.kill(os.getppid(), signal.SIGHUP)\n"
        "    pipes.log.info('went on')\n"
    )
    done = subprocess.run(
        ["nohup", *asyncpipes_command("run", "--", sys.executable, "quick.py")],
        capture_output=True, text=True, cwd=here, env=environment(), timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done
    assert "went on" in done.stdout


def test_ctrl_c_of_validate_is_no_bad_line(here: Path) -> None:
    os.mkfifo(here / "fifo")
    process = subprocess.Popen(
        asyncpipes_command("validate", "fifo"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=here, env=environment(),
    )  # fmt: skip
    with process, open(here / "fifo", "wb"):  # which waits until the command has opened it
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert err == b"asyncpipes: interrupted\n"


def test_a_recording_that_stalls_does_not_hold_the_command(here: Path) -> None:
    # Its first line does not fit into a pipe. What comes after it is more than is kept for the
    # recording, and still so little that all is read in no time once the script is dead.
    script = TALKATIVE.replace("    open(", "    pipes.log.info('x' * 1_000_000)\n    open(")
    script = script.replace("while True:", "for _ in range(1_000):")
    (here / "talkative.py").write_text(f"{script}    __import__('time').sleep(3600)\n")
    os.mkfifo(here / "fifo")
    command = asyncpipes_command("run", "--record", "fifo", *ALONE)
    with (
        subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=here, env=environment()
        ) as process,
        open(here / "fifo", "rb", buffering=0) as fifo,
    ):
        while b"xx" not in (taken := fifo.read(1000)):  # the rest waits to be taken
            assert taken
        pid = pid_of(here)
        while is_alive(pid):
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert b"asyncpipes: cannot write to fifo: it has stalled" in err


@pytest.fixture
def stalled() -> Iterator[threading.Event]:
    """For calls that never return, until the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_what_stalls_is_left_to_itself(
    stalled: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncpipes.cli import leaving

    assert leaving.in_time(lambda: None)
    monkeypatch.setattr(leaving, "PATIENCE", 0.05)
    assert not leaving.in_time(stalled.wait)


def test_where_at_once_takes_long_the_last_resort_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from asyncpipes.cli import running

    assert running._TOGETHER == 0.5, "what the README promises"
    monkeypatch.setattr(running, "PATIENCE", 0.0)
    monkeypatch.setattr(running, "_TOGETHER", 3600.0)

    async def main() -> None:
        called = asyncio.Event()
        interrupts = running.Interrupts()
        interrupts.at_last = called.set
        interrupts.install()
        for _ in range(2):  # one for timeout(1), which signals a process and its group
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.01)
        assert not called.is_set()
        monkeypatch.setattr(running, "_TOGETHER", 0.0)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.01)
        await asyncio.wait_for(called.wait(), PATIENCE)
        assert interrupts.number == signal.SIGTERM

    asyncio.run(main())


#: The command, for which signals are one as long as a machine may take for the second.
PATIENT = """
from asyncpipes.cli import main, running
running._TOGETHER = 3600.0
main.main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_two_signals_at_the_same_time_are_one(here: Path, number: signal.Signals) -> None:
    """timeout(1) signals the command, and then its group."""
    (here / "talkative.py").write_text(
        "import os, time\n"
        "from asyncpipes import open_pipes\n"
        "with open_pipes() as pipes:\n"
        "    try:\n"
        "        open('pid', 'w').write('1\\n')\n"
        "        time.sleep(3600)\n"
        "    finally:\n"
        "        time.sleep(0.5)\n"
        "        print('put away')\n"
    )
    process = begun(here, [sys.executable, "-c", PATIENT, "run", *ALONE])
    pid_of(here)
    process.send_signal(number)
    time.sleep(0.005)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert b"put away" in out
    assert b"signal 9" not in out + err


def test_a_script_in_the_background_of_a_shell_script(here: Path) -> None:
    """It has inherited that SIGINT is ignored, and ends all the same."""
    (here / "quiet.py").write_text(
        "import time\n"
        "from asyncpipes import open_pipes\n"
        "with open_pipes() as pipes:\n"
        "    time.sleep(3600)\n"
    )
    arguments = ["run", "--timeout", "2", "--grace", "3600", "--", sys.executable, "quiet.py"]
    line = f"{shlex.join(asyncpipes_command(*arguments))} & wait $!"
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, timeout=PATIENCE, cwd=here,
        env=environment(),
    )  # fmt: skip
    assert done.returncode == 124, done
    assert "took longer than its timeout of 2 seconds" in done.stdout


def test_all_outcomes_of_jobs_that_were_interrupted_twice(here: Path) -> None:
    job = {"command": [sys.executable, "talkative.py"], "grace": 3600}
    (here / "jobs.json").write_text(json.dumps({"job": [job, job, job]}))
    (here / "talkative.py").write_text(DEAF)
    process = subprocess.Popen(
        asyncpipes_command("run", "--json", "--file", "jobs.json", "--jobs", "2"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=here, env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    rows: list[dict[str, Any]] = []
    for message in ("here", "told"):
        while sum(row.get("message") == message for row in rows) < 2:
            rows.append(json.loads(process.stdout.readline()))
        if message == "told":
            time.sleep(0.8)  # more than between two signals that are one
        process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE)
    rows += map(json.loads, out.splitlines())
    ends = {row["job"]: row for row in rows if row["event"] == "outcome"}
    assert process.returncode == 130
    assert sorted(ends) == ["job 1", "job 2", "job 3"]
    assert [ends[f"job {number}"].get("signal") for number in (1, 2, 3)] == [9, 9, None]
    assert "it was not started" in ends["job 3"]["reasons"][0]


@pytest.mark.parametrize("comes", ["while it prints", "before it prints"])
def test_printing_ends_with_the_patience(
    stalled: threading.Event, monkeypatch: pytest.MonkeyPatch, comes: str
) -> None:
    from asyncpipes.cli import running

    monkeypatch.setattr(running, "PATIENCE", 0.05)
    printed: list[int] = []

    async def main() -> None:
        interrupts = running.Interrupts()
        interrupts.install()
        if comes == "before it prints":
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0)
            assert interrupts.number == signal.SIGINT
        task = asyncio.create_task(interrupts.printing(stalled.wait))
        await asyncio.sleep(0)
        if comes == "while it prints":
            os.kill(os.getpid(), signal.SIGINT)
        assert not await asyncio.wait_for(task, PATIENCE)
        # And nothing is printed after that, since it would stall as well.
        assert not await interrupts.printing(lambda: printed.append(1))
        stalled.set()

    asyncio.run(main())
    assert printed == []


def test_each_has_the_whole_patience_from_its_turn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from anyio import create_task_group

    from asyncpipes.cli import running

    printed: list[int] = []
    printed_before: list[int] = []

    def printed_by(self: running.Interrupts) -> float:
        printed_before.append(len(printed))
        return float("inf")

    monkeypatch.setattr(running.Interrupts, "_printed_by", printed_by)

    async def main() -> None:
        interrupts = running.Interrupts()
        interrupts.number = signal.SIGINT
        async with create_task_group() as group:
            for number in range(3):
                group.start_soon(interrupts.printing, partial(printed.append, number))

    asyncio.run(main())
    assert sorted(printed) == [0, 1, 2]
    assert printed_before == [0, 1, 2], "none of them begins to count while others print"


def test_endings_that_were_not_printed_are_an_output_that_has_stalled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from asyncpipes.cli import jobs, running
    from asyncpipes.cli.display import Display
    from asyncpipes.cli.jobs_file import Job
    from asyncpipes.cli.jobs_view import PrintedJobs

    async def stalled(self: running.Interrupts, call: object) -> bool:
        return False

    monkeypatch.setattr(running.Interrupts, "printing", stalled)
    job = Job("one", running.Script([sys.executable, "-c", "pass"]))
    shown = PrintedJobs([job], Display("lines", "DEBUG"))
    asyncio.run(jobs._run_all([job], 1, running.Request(), shown, running.Interrupts()))
    assert job.state == "failed"
    assert shown.error == "it has stalled"


def test_a_second_signal_cuts_off_who_is_slow() -> None:
    from asyncpipes.cli.running import _Running
    from asyncpipes.host.subscription import Subscription

    slow = Subscription("printer")
    _Running([slow]).kill()
    assert slow.detached


@pytest.mark.parametrize("command", ["validate", "replay"])
def test_ctrl_c_where_nobody_reads_what_a_file_holds(here: Path, command: str) -> None:
    (here / "file").write_bytes(b"garbage\n" * 100_000)
    process = subprocess.Popen(
        asyncpipes_command(command, "file"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, cwd=here, env=environment(),
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=PATIENCE)
        assert process.stderr.read() == b"asyncpipes: interrupted\n"
    assert process.returncode == 130
