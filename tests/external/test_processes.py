"""The external side in real processes: crashes, signals, blocked loops, captured output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import (
    OURS,
    PATIENCE,
    bootstrap,
    logged,
    methods,
    parsed,
    run_script,
    started_script,
    wait_for_line,
)

pytestmark = pytest.mark.usefixtures("guarded_scripts")

HEAD = """
import asyncio, logging, os, signal, subprocess, sys, threading, time
from asyncpipes import PipesContext, open_pipes
"""

#: The same script for each way in: {body} is its block, "here" shows that it has begun.
WAYS = {
    "with": HEAD
    + """
with open_pipes() as pipes:
    pipes.report_custom_message("here")
    {sync}
""",
    "async with": HEAD
    + """
async def main():
    async with open_pipes() as pipes:
        pipes.report_custom_message("here")
        {async_}
asyncio.run(main())
""",
    "async with, uvloop": HEAD
    + """
import uvloop
async def main():
    async with open_pipes() as pipes:
        pipes.report_custom_message("here")
        {async_}
uvloop.run(main())
""",
}
EACH_WAY = pytest.mark.parametrize(
    "way",
    [
        "with",
        "async with",
        pytest.param("async with, uvloop", marks=pytest.mark.host),
    ],
)


def script(way: str, sync: str, async_: str | None = None) -> str:
    return WAYS[way].replace("{sync}", sync).replace("{async_}", async_ or sync)


def environment(file: Path, **messages: Any) -> dict[str, str]:
    return bootstrap({"path": str(file), **OURS, **messages}, asset_keys=None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "messages"
    file.touch()
    return file


@EACH_WAY
def test_100_materializations_survive_os_exit(file: Path, way: str) -> None:
    report = (
        "[pipes.report_asset_materialization({'n': n}, asset_key=f'a{n}') for n in range(100)];"
        "os._exit(0)"
    )
    done = run_script(script(way, report), environment(file))
    assert (done.returncode, done.stderr) == (0, "")
    messages = parsed(file.read_bytes())
    assert methods(messages) == [
        "opened",
        "report_custom_message",
        *["report_asset_materialization"] * 100,
    ]
    assert [m["params"]["asset_key"] for m in messages[2:]] == [f"a{n}" for n in range(100)]


@EACH_WAY
def test_checks_and_what_was_flushed_survive_sigkill(file: Path, way: str) -> None:
    first = "pipes.report_asset_check('c', True, asset_key='a'); pipes.log.info('flushed');"
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    code = script(way, f"{first} pipes.flush(); {kill}", f"{first} await pipes.flush(); {kill}")
    done = run_script(code, environment(file))
    assert done.returncode == -signal.SIGKILL
    assert methods(parsed(file.read_bytes()))[-2:] == ["report_asset_check", "log"]


@EACH_WAY
def test_a_log_line_leaves_while_the_script_blocks(file: Path, way: str) -> None:
    """The script goes on when it is told, and it is told when its line has been seen."""
    code = script(way, "pipes.log.info('before'); sys.stdin.readline(); pipes.log.info('after')")
    with started_script(code, environment(file)) as process:
        wait_for_line(file, "before")
        assert process.poll() is None
        assert b"after" not in file.read_bytes()
        process.communicate("go on\n", timeout=PATIENCE)
    assert process.returncode == 0
    assert logged(parsed(file.read_bytes())) == ["before", "after"]


WAIT = ("time.sleep(600)", "await asyncio.sleep(600)")


@EACH_WAY
def test_sigterm_closes_and_stays_the_cause_of_death(file: Path, way: str) -> None:
    with started_script(script(way, *WAIT), environment(file)) as process:
        wait_for_line(file, "here")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGTERM
    last = parsed(file.read_bytes())[-1]
    assert last["method"] == "closed"
    assert last["params"]["exception"]["message"].startswith("terminated by SIGTERM: ")


@EACH_WAY
def test_a_finally_of_the_body_may_still_report(file: Path, way: str) -> None:
    body = "\n        ".join(
        ["try:", "    {wait}", "finally:", "    pipes.report_custom_message('cleaned up')"]
    )
    sync = body.replace("\n        ", "\n    ").replace("{wait}", WAIT[0])
    code = script(way, sync, body.replace("{wait}", WAIT[1]))
    with started_script(code, environment(file)) as process:
        wait_for_line(file, "here")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGTERM
    messages = parsed(file.read_bytes())
    assert [m["params"].get("payload") for m in messages[1:-1]] == ["here", "cleaned up"]


@pytest.mark.parametrize(
    "way", ["async with", pytest.param("async with, uvloop", marks=pytest.mark.host)]
)
def test_a_second_sigterm_ends_a_blocked_loop_at_once(file: Path, way: str) -> None:
    """A loop that is blocked cannot be cancelled, so the second one must not wait for it."""
    block = (
        "guard = signal.getsignal(signal.SIGTERM);"
        "signal.signal(signal.SIGTERM, lambda *a: (guard(*a), os.write(1, b'first\\n')));"
        "pipes.log.info('blocked'); time.sleep(600)"
    )
    with started_script(script(way, block), environment(file)) as process:
        wait_for_line(file, "blocked")
        assert process.stdout is not None
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "first\n"
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == -signal.SIGTERM
    assert "closed" not in methods(parsed(file.read_bytes()))


def test_sigterm_while_another_tasks_context_is_open_loses_none_of_its_lines(file: Path) -> None:
    other = file.with_name("other")
    code = (
        HEAD
        + f"""
async def second(ready):
    async with open_pipes(params_loader={environment(other)!r}) as pipes:
        await pipes.flush()
        while not pipes._outbox._idle:
            await asyncio.sleep(0)
        pipes._outbox._idle = False  # so that nothing wakes its thread
        [pipes.log.info(str(n)) for n in range(100)]
        ready.set()
        await asyncio.Event().wait()

async def main():
    ready = asyncio.Event()
    async with open_pipes(params_loader={environment(file)!r}) as pipes:
        task = asyncio.create_task(second(ready))
        await ready.wait()
        pipes.report_custom_message("here")
        await asyncio.Event().wait()
asyncio.run(main())
"""
    )
    with started_script(code, {}) as process:
        wait_for_line(file, "here")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGTERM
    assert methods(parsed(file.read_bytes()))[-1] == "closed"
    assert logged(parsed(other.read_bytes())) == [str(n) for n in range(100)]


def test_a_handler_of_the_users_stays(file: Path) -> None:
    code = (
        HEAD
        + """
def mine(*_): os.write(1, b"mine\\n")
signal.signal(signal.SIGTERM, mine)
with open_pipes() as pipes:
    assert signal.getsignal(signal.SIGTERM) is mine
    os.kill(os.getpid(), signal.SIGTERM)
assert signal.getsignal(signal.SIGTERM) is mine
"""
    )
    done = run_script(code, environment(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, "mine\n", "")


@pytest.mark.parametrize("how", ["thread", "option"])
def test_no_handler_in_a_thread_or_when_told_so(file: Path, how: str) -> None:
    code = (
        HEAD
        + """
def run():
    with open_pipes(handle_signals=%s):
        print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
%s
"""
        % (
            ("True", "t = threading.Thread(target=run); t.start(); t.join()")
            if how == "thread"
            else ("False", "run()")
        )
    )
    done = run_script(code, environment(file))
    assert (done.returncode, done.stdout) == (0, "True\n")


def test_the_handler_is_gone_after_the_block(file: Path) -> None:
    code = script("with", "assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL")
    code += "\nassert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL"
    assert run_script(code, environment(file)).returncode == 0


@EACH_WAY
@pytest.mark.parametrize(("status", "clean"), [(0, True), (3, False)])
def test_sys_exit(file: Path, way: str, status: int, clean: bool) -> None:
    done = run_script(script(way, f"sys.exit({status})"), environment(file))
    assert (done.returncode, done.stderr) == (status, "")
    last = parsed(file.read_bytes())[-1]
    assert last["method"] == "closed"
    assert ("exception" not in last["params"]) is clean


def test_a_context_that_is_never_left_is_drained_at_exit(file: Path) -> None:
    code = (
        HEAD
        + """
pipes = open_pipes().__enter__()
pipes.flush()
while not pipes._outbox._idle:
    time.sleep(0)
pipes._outbox._idle = False  # so that nothing wakes its thread
[pipes.log.info(str(n)) for n in range(500)]
"""
    )
    done = run_script(code, environment(file))
    assert (done.returncode, done.stderr) == (0, "")
    messages = parsed(file.read_bytes())
    assert logged(messages) == [str(n) for n in range(500)]
    assert methods(messages)[-1] == "log", "nobody closed it, and the outcome must say so"


def test_a_fork_that_exits_does_not_write_its_parents_lines(file: Path) -> None:
    code = (
        HEAD
        + """
with open_pipes() as pipes:
    pipes.flush()
    with pipes._outbox._write_lock:
        pipes.log.info("once")
        child = os.fork()
        if not child:
            import atexit
            atexit._run_exitfuncs()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
"""
    )
    done = run_script(code, environment(file))
    assert done.returncode == 0, done.stderr
    assert logged(parsed(file.read_bytes())) == ["once"]


# Captured output.

PRINTS = (
    "print('printed', flush=True); os.write(1, b'written\\n');"
    "subprocess.run(['echo', 'by a child']); print('unterminated', end='');"
    "print('to stderr', file=sys.stderr)"
)


def captured(messages: list[dict[str, Any]], stream: str) -> str:
    records = [m["params"] for m in messages if m["method"] == "log_external_stream"]
    return "".join(p["text"] for p in records if p["stream"] == stream)


@EACH_WAY
def test_stdout_and_stderr_are_copied_into_the_channel(file: Path, way: str) -> None:
    code = script(way, PRINTS) + "\nprint(' after')"
    done = run_script(code, environment(file, include_stdio_in_messages=True))
    assert done.returncode == 0
    text = "printed\nwritten\nby a child\nunterminated"
    assert done.stdout == f"{text} after\n"
    assert done.stderr == "to stderr\n"
    messages = parsed(file.read_bytes())
    assert captured(messages, "stdout") == text
    assert captured(messages, "stderr") == "to stderr\n"
    assert methods(messages)[-1] == "closed"


def test_nothing_is_captured_unless_somebody_asks(file: Path) -> None:
    done = run_script(script("with", PRINTS), environment(file))
    assert "written" in done.stdout
    assert captured(parsed(file.read_bytes()), "stdout") == ""


@pytest.mark.parametrize("asked", [True, False])
def test_capture_stdio_overrides_the_host(file: Path, asked: bool) -> None:
    code = HEAD + f"with open_pipes(capture_stdio={asked}): print('x')"
    done = run_script(code, environment(file, include_stdio_in_messages=not asked))
    assert done.stdout == "x\n"
    assert captured(parsed(file.read_bytes()), "stdout") == ("x\n" if asked else "")


def test_capturing_starts_no_process_and_puts_everything_back(file: Path) -> None:
    code = (
        HEAD
        + """
from pathlib import Path
children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
before = {name: os.readlink(f"/proc/self/fd/{name}") for name in "12"}
fds = sorted(os.listdir("/proc/self/fd"))
with open_pipes():
    assert children.read_text() == "", "a child process"
    assert os.readlink("/proc/self/fd/1") != before["1"]
assert {name: os.readlink(f"/proc/self/fd/{name}") for name in "12"} == before
assert sorted(os.listdir("/proc/self/fd")) == fds
for thread in set(threading.enumerate()) - {threading.current_thread()}:
    thread.join(60)  # the outbox's has told that it is done, and is on its way out
assert threading.active_count() == 1
"""
    )
    done = run_script(code, environment(file, include_stdio_in_messages=True))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_megabyte_of_multi_byte_text_comes_through_whole(file: Path) -> None:
    code = (
        HEAD
        + "with open_pipes(): sys.stdout.reconfigure(encoding='utf-8'); print('ä€😀' * 110_000)"
    )
    done = run_script(
        code, {**environment(file, include_stdio_in_messages=True), "PYTHONIOENCODING": "utf-8"}
    )
    assert done.returncode == 0
    assert captured(parsed(file.read_bytes()), "stdout") == "ä€😀" * 110_000 + "\n"


def test_a_child_that_outlives_the_block_does_not_hold_it(file: Path) -> None:
    code = (
        HEAD
        + """
with open_pipes():
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
print("left", flush=True)
child.communicate(b"late")
"""
    )
    done = run_script(code, environment(file, include_stdio_in_messages=True))
    assert done.returncode == 0
    assert done.stdout.startswith("left\n")
    assert methods(parsed(file.read_bytes()))[-1] == "closed"


def test_a_context_that_is_never_left_still_prints(file: Path) -> None:
    code = HEAD + "pipes = open_pipes().__enter__(); print('x' * 200_000, end='')"
    done = run_script(code, environment(file, include_stdio_in_messages=True))
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 200_000, "")
    assert len(captured(parsed(file.read_bytes()), "stdout")) == 200_000


def test_two_contexts_that_capture_end_in_any_order(file: Path) -> None:
    second = environment(file.with_name("other"), include_stdio_in_messages=True)
    code = (
        HEAD
        + f"""
first = open_pipes().__enter__()
second = open_pipes(params_loader={second!r}).__enter__()
print("both", flush=True)
first.close()
print("one", flush=True)
second.close()
print("none", flush=True)
"""
    )
    done = run_script(code, environment(file, include_stdio_in_messages=True))
    assert (done.returncode, done.stdout, done.stderr) == (0, "both\none\nnone\n", "")
    assert captured(parsed(file.read_bytes()), "stdout") == "both\n"


def test_closed_streams_are_no_reason_to_fail(file: Path) -> None:
    code = script("with", "pipes.log.info('x')")
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$0" "$@" >&- 2>&-', sys.executable, "-c", code],
        env={**os.environ, **environment(file, include_stdio_in_messages=True)},
    )
    assert process.wait(PATIENCE) == 0
    assert logged(parsed(file.read_bytes())) == ["x"]


def test_a_reader_of_stdout_that_goes_does_not_end_the_reports(file: Path) -> None:
    code = (
        HEAD
        + """
with open_pipes() as pipes:
    pipes.report_custom_message("here")
    sys.stdin.readline()
    os.write(1, b"unheard")
"""
    )
    with started_script(code, environment(file, include_stdio_in_messages=True)) as process:
        wait_for_line(file, "here")
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    assert captured(parsed(file.read_bytes()), "stdout") == "unheard"
