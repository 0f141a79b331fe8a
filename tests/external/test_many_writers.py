"""Many processes that open pipes on one file, as a stock host's workers do.

How long they wait for each other, as shipped, is looked at beside a writer that is stopped.
Beside those that work they are as patient as the tests: where a busy machine keeps one in its
write for longer than they wait, the others write out of turn, and then no layout is promised.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from asyncpipes.channels import file_writer
from tests.layouts import crossing, room_is_good, stripped
from tests.support import PATIENCE, bootstrap, methods, started_script

PAGE = os.sysconf("SC_PAGE_SIZE")

#: Results of many sizes, each of which is written by the call that reports it.
HEAD = """
import json, os, signal, sys, threading, time
from asyncpipes import open_pipes

def report(pipes, name, number):
    text = "x" * (number * 577 % 3_000)
    pipes.report_asset_materialization({"text": text}, asset_key=f"{name}_{number}")

def go():
    print("ready", flush=True)
    sys.stdin.readline()
"""


#: For writers that take turns whatever the machine does with one of them.
PATIENT = f"""
from asyncpipes.channels import file_writer
file_writer.LOCK_SECONDS = file_writer.STALLED_SECONDS = {PATIENCE}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "messages"


@contextmanager
def workers(path: Path, *scripts: str) -> Iterator[list[subprocess.Popen[str]]]:
    """The scripts, all of them as far as ``go()``."""
    environment = bootstrap({"path": str(path)}, asset_keys=None)
    with ExitStack() as stack:
        processes = [
            stack.enter_context(started_script(HEAD + script, environment)) for script in scripts
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield processes


def start(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def end(process: subprocess.Popen[str]) -> str:
    """What it has printed until its end, a clean one."""
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stderr) == (0, "")
    return stdout


def messages_of(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stripped(data)]


def reported(messages: list[dict[str, Any]]) -> dict[str, list[int]]:
    """The numbers of each worker's results, in the order in which they stand in the file."""
    numbers: dict[str, list[int]] = {}
    for message in messages:
        if message["method"] == "report_asset_materialization":
            name, number = message["params"]["asset_key"].split("_")
            numbers.setdefault(name, []).append(int(number))
    return numbers


REPORTS = (
    PATIENT
    + """
go()
with open_pipes() as pipes:
    for number in range({results}):
        report(pipes, {name}, number)
"""
)


def test_no_line_of_24_busy_writers_crosses_a_page_and_none_is_lost(path: Path) -> None:
    results = 200
    scripts = [REPORTS.format(name=name, results=results) for name in range(24)]
    with workers(path, *scripts) as processes:
        for process in processes:
            start(process)
        for process in processes:
            end(process)
    data = path.read_bytes()
    assert crossing(data, PAGE) == []
    assert room_is_good(len(data), PAGE)
    messages = messages_of(data)
    assert reported(messages) == {str(name): list(range(results)) for name in range(24)}
    assert methods(messages).count("opened") == 1
    assert methods(messages)[0] == "opened"


# What a machine with too few processors does to a writer: it has laid its lines out, and
# others have the time to write elsewhere before it appends them.
HELD_UP = (
    PATIENT
    + """
real = os.write
def held_up(fd, data):
    if b"report_asset_materialization" in bytes(data):
        time.sleep(0.3)
    return real(fd, data)
os.write = held_up

go()
with open_pipes() as pipes:
    for number in (5, 10, 15):  # of 2,885, 2,770 and 2,655 bytes
        report(pipes, 0, number)
"""
)

REPORTS_MEANWHILE = (
    PATIENT
    + """
go()
with open_pipes() as pipes:
    number = 0
    while not os.path.exists({done!r}):
        report(pipes, {name}, number)
        number += 1
        time.sleep(0.001)
    print(number)
"""
)


def test_no_line_of_a_writer_that_is_held_up_in_its_write_crosses_a_page(path: Path) -> None:
    done = path.with_name("done")
    scripts = [REPORTS_MEANWHILE.format(name=name, done=str(done)) for name in (1, 2, 3)]
    with workers(path, HELD_UP, *scripts) as processes:
        for process in processes:
            start(process)
        end(processes[0])
        done.touch()
        counts = [int(end(process)) for process in processes[1:]]
    data = path.read_bytes()
    assert crossing(data, PAGE) == []
    numbers = reported(messages_of(data))
    assert numbers.pop("0") == [5, 10, 15]
    assert numbers == {str(name): list(range(count)) for name, count in enumerate(counts, 1)}


STOPPED = """
with open_pipes() as pipes:
    pipes.flush()
    go()
    real = os.write
    def stopped(fd, data):
        os.write = real
        # Not by os.kill(): another thread might take it, while this one writes.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        return real(fd, data)
    os.write = stopped
    report(pipes, 0, 0)
"""

REPORTS_ON = """
import fcntl
flock, looks = fcntl.flock, 0
def counted(*args):
    global looks
    looks += 1
    return flock(*args)
fcntl.flock = counted

with open_pipes() as pipes:
    pipes.flush()
    go()
    of_each = []
    for number in range(50):
        looks = 0
        report(pipes, {name}, number)
        of_each.append(looks)
    print(json.dumps(of_each))
"""


def test_beside_a_writer_that_is_stopped_in_its_write_reports_go_on(path: Path) -> None:
    """All 50 wait once, together: each for itself would take a minute.

    It is told by their looks at the lock, of which a wait has many, and not by a clock: no
    look that is waited for takes less than a pause, however long a busy machine makes it.
    """
    scripts = [REPORTS_ON.format(name=name) for name in (1, 2, 3)]
    with workers(path, STOPPED, *scripts) as [stopped, *others]:
        start(stopped)
        _, status = os.waitpid(stopped.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        for process in others:
            start(process)
        looks = [json.loads(end(process)) for process in others]
        everything = {str(name): list(range(50)) for name in (1, 2, 3)}
        assert reported(messages_of(path.read_bytes())) == everything
        stopped.send_signal(signal.SIGCONT)
        end(stopped)
    longest_wait = file_writer.LOCK_SECONDS / file_writer._LONGEST_PAUSE
    for first, *rest in looks:
        assert 1 < first < longest_wait + 10, "the first pauses are shorter"
        assert rest == [1] * 49, "whoever has waited in vain looks once"
    assert reported(messages_of(path.read_bytes())) == {"0": [0], **everything}
