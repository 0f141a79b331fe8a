"""Every way a script may end, by every way in: what was reported has arrived, and it ends."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import OURS, bootstrap, logged, methods, parsed, run_script

HEAD = """
import asyncio, logging, os, signal, sys, threading, time
from asyncpipes import PipesContext, open_pipes

def work(pipes):
    for n in range(300):
        pipes.log.info("%d", n)
    pipes.report_asset_check("done", True, asset_key="a")

def chatter(pipes):
    while True:
        try:
            pipes.log.info("chatter")
        except Exception as error:
            print("chatter:", error, file=sys.stderr)

def kill(number):
    os.kill(os.getpid(), number)
"""

#: {sync} and {async_} are what the block ends by; {forever} is waiting.
WAYS = {
    "with": HEAD
    + """
with open_pipes() as pipes:
    work(pipes)
    {sync}
""",
    "asyncio.run": HEAD
    + """
async def main():
    async with open_pipes() as pipes:
        work(pipes)
        {async_}
asyncio.run(main())
""",
    "uvloop": HEAD
    + """
import uvloop
async def main():
    async with open_pipes() as pipes:
        work(pipes)
        {async_}
uvloop.run(main())
""",
    "another thread": HEAD
    + """
def main():
    with open_pipes() as pipes:
        work(pipes)
        {sync}
thread = threading.Thread(target=main, daemon=True)
thread.start()
while thread.is_alive():
    thread.join(0.01)
""",
}
NOT_CLOSED = "not closed"
CLEAN = "clean"
FAILED = "failed"


@dataclass(frozen=True)
class End:
    """How a block ends, and what is to come of it.

    Attributes:
        code: the end of the block; ``{forever}`` in it stands for waiting.
        status: the process's return code.
        closed: how its context closes.
        in_thread: both of them, where the context was entered in another thread.
    """

    code: str
    status: int
    closed: str
    in_thread: tuple[int, str]


TERM, INT = int(signal.SIGTERM), int(signal.SIGINT)
ENDS = {
    "the block's end": End("pass", 0, CLEAN, (0, CLEAN)),
    "SIGTERM": End(f"kill({TERM}); {{forever}}", -TERM, FAILED, (-TERM, NOT_CLOSED)),
    "SIGINT": End(f"kill({INT}); {{forever}}", -INT, FAILED, (-INT, NOT_CLOSED)),
    "sys.exit(0)": End("sys.exit(0)", 0, CLEAN, (0, CLEAN)),
    "sys.exit(3)": End("sys.exit(3)", 3, FAILED, (0, FAILED)),
    "os._exit": End("os._exit(5)", 5, NOT_CLOSED, (5, NOT_CLOSED)),
    "an exception": End("raise ValueError('no')", 1, FAILED, (0, FAILED)),
    "a daemon thread that logs": End(
        "threading.Thread(target=chatter, args=(pipes,), daemon=True).start()",
        0,
        CLEAN,
        (0, CLEAN),
    ),
}


def run(tmp_path: Path, code: str, **messages: Any) -> tuple[int, list[dict[str, Any]], str]:
    file = tmp_path / "messages"
    file.touch()
    environment = bootstrap({"path": str(file), **messages}, asset_keys=None)
    done = run_script(code, environment)
    return done.returncode, parsed(file.read_bytes()), done.stderr


def check(messages: list[dict[str, Any]], closed: str) -> None:
    """All that counts as reported is there, once and in order."""
    names = methods(messages)
    check = names.index("report_asset_check")
    # The result was with the channel when its call returned, so all before it was too.
    assert logged(messages[:check]) == [str(n) for n in range(300)]
    assert names[0] == "opened"
    assert [m["seq"] for m in messages] == list(range(1, len(messages) + 1))
    if closed == NOT_CLOSED:
        assert "closed" not in names
    else:
        assert names.index("closed") == len(names) - 1
        exception = messages[-1]["params"].get("exception")
        assert (exception is None) == (closed == CLEAN)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[pytest.mark.host] * (way == "uvloop")) for way in WAYS]
)
def test_leaving(tmp_path: Path, way: str, end: str) -> None:
    ending = ENDS[end]
    code = WAYS[way]
    for place, forever in (("{sync}", "time.sleep(600)"), ("{async_}", "await asyncio.sleep(600)")):
        code = code.replace(place, ending.code.replace("{forever}", forever))
    status, messages, stderr = run(tmp_path, code, **OURS)
    in_thread = way == "another thread"
    expected = ending.in_thread if in_thread else (ending.status, ending.closed)
    assert status == expected[0], stderr
    check(messages, expected[1])
    assert "asyncpipes:" not in stderr
    assert "chatter" not in stderr  # logging after the end does nothing


@pytest.mark.parametrize("reason", ["task.cancel()", "the loop is stopped by its runner"])
def test_a_cancelled_main_task(tmp_path: Path, reason: str) -> None:
    cancel = (
        "asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)"
        if reason == "task.cancel()"
        else "asyncio.get_running_loop().call_soon(kill, signal.SIGINT)"
    )
    code = WAYS["asyncio.run"].replace("{async_}", f"{cancel}; await asyncio.sleep(600)")
    status, messages, stderr = run(tmp_path, code, **OURS)
    assert status == (1 if reason == "task.cancel()" else -INT), stderr
    check(messages, FAILED)
    assert messages[-1]["params"]["exception"]["name"] == "CancelledError"


def test_a_daemon_thread_that_logs_while_the_interpreter_ends(tmp_path: Path) -> None:
    """The context is never left: what was accepted before the exit is there, whole."""
    code = HEAD + (
        "pipes = open_pipes()\n"
        "pipes.__enter__()\n"
        "work(pipes)\n"
        "threading.Thread(target=chatter, args=(pipes,), daemon=True).start()\n"
    )
    status, messages, stderr = run(tmp_path, code, **OURS)
    assert (status, stderr) == (0, "")
    check(messages, NOT_CLOSED)


def test_leaving_is_bounded_by_close_timeout(tmp_path: Path) -> None:
    """A channel that never returns: an error in the end, and the exit of the process."""
    code = (
        HEAD
        + """
from tests.support import GatedWriter
try:
    with open_pipes(message_writer=GatedWriter(), close_timeout=0.2) as pipes:
        pipes.log.info("never written")
except Exception as error:
    print(type(error).__name__, error.undelivered, file=sys.stderr)
sys.exit(4)
"""
    )
    status, messages, stderr = run(tmp_path, code, **OURS)
    assert (status, messages) == (4, [])
    assert stderr.splitlines() == ["ChannelError 1"]


def test_the_bootstrap_names_a_file_that_is_gone(tmp_path: Path) -> None:
    environment = bootstrap({"path": str(tmp_path / "gone" / "messages")})
    done = run_script("import asyncpipes; asyncpipes.open_pipes().__enter__()", environment)
    assert done.returncode == 1
    assert f"cannot open the messages file {tmp_path}" in done.stderr


@pytest.mark.parametrize("size", [10, 5_000, 20_000, 100_000])
@pytest.mark.parametrize("failing", [False, True])
def test_towards_a_stock_host_nothing_follows_closed(
    tmp_path: Path, size: int, failing: bool
) -> None:
    """No filler of the file's layout either: it would be an unexpected message."""
    end = f"raise ValueError('x' * {size})" if failing else "pass"
    code = WAYS["with"].replace("{sync}", f"pipes.report_custom_message('x' * {size}); {end}")
    status, messages, _ = run(tmp_path, code)
    assert status == int(failing)
    names = methods(messages)
    assert names.count("closed") == 1
    assert names[-1] == "closed"
    payload = next(m["params"] for m in messages if m["method"] == "report_custom_message")
    assert payload == {"payload": "x" * size}


@pytest.mark.parametrize("way", ["with", "asyncio.run"])
@pytest.mark.parametrize("number", [TERM, INT])
def test_a_signal_while_the_block_is_left(tmp_path: Path, way: str, number: int) -> None:
    """All that was accepted goes out first, and `closed`; then the process ends by it."""
    slow = f"""
from asyncpipes.channels.file_writer import FileWriter
write, signalled = FileWriter.write, []

def slow(self, lines):
    if b'"closed"' in lines and not signalled:
        signalled.append(True)
        kill({number})
        time.sleep(0.2)  # time for the handler, in another thread than this
    write(self, lines)

FileWriter.write = slow
"""
    code = WAYS[way].replace("{sync}", "pass").replace("{async_}", "pass")
    code = code.replace(HEAD, HEAD + slow)
    status, messages, stderr = run(tmp_path, code, **OURS)
    assert status == -number, stderr
    check(messages, CLEAN)
