"""asyncpipes.external: leaving the block under anyio, in time, and beside other contexts."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from asyncpipes.errors import BootstrapEncodingError, InvalidParameterError
from asyncpipes.external import waiting
from asyncpipes.external.connection import PipesContext
from asyncpipes.external.context import open_pipes
from asyncpipes.external.stdio import StreamCapture
from asyncpipes.protocol.messages import PLAIN_TAIL, encode_head
from tests.support import (
    PATIENCE,
    GatedWriter,
    RecordingWriter,
    bootstrap,
    encoded,
    in_thread,
    logged,
    methods,
    parsed,
    run_script,
    wait_until,
)

HEAD = """
import asyncio, os, signal, sys, threading
from asyncpipes import open_pipes
def default(): return signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
"""


def launched(writer: Any, **options: Any) -> PipesContext:
    return open_pipes(params_loader=bootstrap({}), message_writer=writer, **options)


@pytest.mark.host
@pytest.mark.parametrize("raises", [False, True])
async def test_an_anyio_scope_keeps_its_cancellation(raises: bool) -> None:
    """No CancelledError may come out of the scope."""
    import anyio

    writer = GatedWriter()
    pipes = launched(writer)

    async def release() -> None:
        while not pipes.is_closed:
            await asyncio.sleep(0)
        scope.cancel()
        for _ in range(50):  # turns in which anyio could ask anew
            await asyncio.sleep(0)
        writer.open_for_good()

    with anyio.CancelScope() as scope:
        helper = asyncio.create_task(release())
        try:
            async with pipes:
                if raises:
                    raise ValueError("mine")
                scope.cancel()
                await anyio.sleep_forever()
        except ValueError:
            assert raises
    await asyncio.sleep(0)
    await helper
    if sys.version_info >= (3, 11):
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
    assert methods(writer.messages)[-1] == "closed"


@pytest.mark.host
async def test_under_an_anyio_scope_waiting_does_not_spin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import anyio

    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waits = 0
    wait = asyncio.wait

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal waits
        waits += 1
        return await wait(*args, **options)

    async def finish() -> None:
        for _ in range(100):
            await asyncio.sleep(0)
        future.set_result(None)

    monkeypatch.setattr(asyncio, "wait", counted)
    helper = asyncio.create_task(finish())
    with anyio.CancelScope() as scope:
        scope.cancel()
        assert await waiting.uncancelled(future) is None
    await helper
    assert waits == 1


async def test_a_function_that_raises_does_not_swallow_the_cancellation() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def fails() -> None:
        begun.set()
        assert go_on.wait(PATIENCE)
        raise ValueError("mine")

    async def script() -> None:
        with pytest.raises(ValueError, match="mine"):
            await waiting.in_thread(fails)
        await asyncio.Event().wait()

    task = asyncio.create_task(script())
    await asyncio.to_thread(begun.wait, PATIENCE)
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("stuck", [True, False])
async def test_closed_is_sent_whatever_the_captures_do(
    stuck: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def stop(self: StreamCapture) -> None:
        if not stuck:
            raise OSError("no such descriptor")
        release.wait(PATIENCE)

    # The captures' part of close_timeout, the rest of which `closed` has.
    assert launched(RecordingWriter(), close_timeout=4)._capture_timeout == 2
    monkeypatch.setattr(PipesContext, "_capture_timeout", 0.1)
    monkeypatch.setattr(StreamCapture, "start", lambda self: None)
    monkeypatch.setattr(StreamCapture, "stop", stop)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1))
    writer = RecordingWriter()
    async with launched(writer, capture_stdio=True, close_timeout=PATIENCE):
        busy = loop.run_in_executor(None, release.wait, PATIENCE)
    assert not release.is_set()
    assert methods(writer.messages)[-1] == "closed"
    release.set()
    await busy


class Joined(GatedWriter):
    """A file that others have written to before, towards a stock host: writes are stuck."""

    joined = True

    def __init__(self) -> None:
        super().__init__(immediate=True)


@pytest.mark.parametrize("way", ["with", "async with"])
def test_a_failure_that_is_told_in_the_log_waits_no_longer_than_any(way: str) -> None:
    """The last message of a writer that has joined others is a log line."""
    writer = Joined()
    pipes = launched(writer, close_timeout=0.2)

    async def in_async_with() -> None:
        async with pipes:
            raise ValueError("mine")

    def in_with() -> None:
        with pipes:
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        in_thread(in_with if way == "with" else lambda: asyncio.run(in_async_with()))
    assert pipes.is_closed
    assert writer.batches == [], "the write has not returned"
    writer.open_for_good()
    wait_until(lambda: writer.closed == 1, "the writer is released")


def test_a_failure_that_is_told_in_the_log_is_told_once(tmp_path: Path) -> None:
    """Ctrl-C comes while the line is being written, and leaving goes on."""
    code = """
from asyncpipes.channels.file_writer import FileWriter
write = FileWriter.write
def interrupted(self, lines):
    if b"left its pipes" in lines:
        FileWriter.write = write
        # Again and again: one that comes just before the wait begins does not end it.
        while not handled.wait(0.05):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    write(self, lines)
FileWriter.write = interrupted
handled = threading.Event()
def handle(*_):
    if not handled.is_set():
        handled.set()
        raise KeyboardInterrupt
signal.signal(signal.SIGINT, handle)
try:
    with open_pipes(params_loader=env("a")):
        raise ValueError("mine")
except KeyboardInterrupt:
    print("interrupted")
"""
    first = encode_head("opened", {"extras": {}}) + PLAIN_TAIL
    (tmp_path / "a").write_bytes(first)
    done = run(tmp_path, code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")
    messages = parsed((tmp_path / "a").read_bytes())
    assert methods(messages) == ["opened", "log"]
    assert "left its pipes context with an exception" in logged(messages)[0]


@pytest.mark.parametrize(
    "options",
    [
        {"close_timeout": float("inf")},
        {"close_timeout": float("nan")},
        {"close_timeout": threading.TIMEOUT_MAX * 2},
        {"capture_stdio": "yes"},
        {"handle_signals": 1},
        {"register_stock": None},
        {"message_writer": "stdout"},
        {"message_writer": RecordingWriter},
    ],
)
def test_wrong_options_are_refused_at_the_call(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameterError, match=next(iter(options))):
        open_pipes(**options)


@pytest.mark.parametrize("exc", [ValueError("mine"), {"message": "mine", "name": "E", "stack": []}])
def test_close_takes_an_exception(exc: Any) -> None:
    writer = RecordingWriter()
    pipes = launched(writer).__enter__()
    with pytest.raises(InvalidParameterError, match="exc"):
        pipes.close("mine")  # type: ignore[arg-type]  # what is refused
    pipes.close(exc)
    assert "mine" in writer.messages[-1]["params"]["exception"]["message"]


@pytest.mark.parametrize("in_file", [True, False])
def test_an_object_that_is_no_context_data_is_refused(tmp_path: Path, in_file: bool) -> None:
    file = tmp_path / "other.json"
    file.write_text('{"a": 1}')
    params = {"path": str(file)} if in_file else {"data": {"a": 1}}
    environment = {**bootstrap({}), "DAGSTER_PIPES_CONTEXT": encoded(params)}
    with pytest.raises(
        BootstrapEncodingError, match=str(file) if in_file else "DAGSTER_PIPES_CONTEXT"
    ):
        open_pipes(params_loader=environment, message_writer=RecordingWriter()).__enter__()


@pytest.mark.host
def test_stock_contexts_that_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    import dagster_pipes

    stock: Any = dagster_pipes.PipesContext
    monkeypatch.setattr(stock, "_instance", None)
    first = launched(RecordingWriter(), register_stock=True).__enter__()
    second = launched(RecordingWriter(), register_stock=True).__enter__()
    first.close()
    assert stock._instance is second
    second.close()
    assert stock._instance is None


# SIGTERM.


def run(tmp_path: Path, code: str) -> Any:
    where = f"def env(name): return {{'a': {bootstrap({'path': str(tmp_path / 'a')})!r},"
    where += f" 'b': {bootstrap({'path': str(tmp_path / 'b')})!r}}}[name]\n"
    return run_script(HEAD + where + code, {})


@pytest.mark.parametrize("first_ends", [True, False])
def test_sigterm_closes_every_open_context(tmp_path: Path, first_ends: bool) -> None:
    code = f"""
async def one(name, ready, go):
    async with open_pipes(params_loader=env(name)):
        ready.set()
        await go.wait()
async def main():
    a, b, go, never = (asyncio.Event() for _ in range(4))
    first = asyncio.create_task(one("a", a, go if {first_ends} else never))
    second = asyncio.create_task(one("b", b, never))
    await a.wait(); await b.wait()
    go.set()
    if {first_ends}:
        await first
    assert not default()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.Event().wait()
asyncio.run(main())
"""
    done = run(tmp_path, code)
    assert done.returncode == -signal.SIGTERM, done.stderr
    for name in "ab":
        last = parsed((tmp_path / name).read_bytes())[-1]
        assert last["method"] == "closed"
        assert ("exception" in last["params"]) is (name == "b" or not first_ends)


@pytest.mark.parametrize("then", ["default", "again"])
def test_a_context_that_is_closed_in_another_thread(tmp_path: Path, then: str) -> None:
    end = {
        "default": "os.kill(os.getpid(), signal.SIGTERM); sys.exit(3)",
        "again": "p = open_pipes(params_loader=env('b')).__enter__(); p.close(); assert default()",
    }[then]
    code = f"""
p = open_pipes(params_loader=env("a")).__enter__()
t = threading.Thread(target=p.close); t.start(); t.join()
assert p.is_closed
{end}
"""
    done = run(tmp_path, code)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM if then == "default" else 0, "")


def test_a_context_that_is_entered_in_another_thread_leaves_sigterm_alone(tmp_path: Path) -> None:
    """No handler can be set there: the process dies of it, and the context never closes."""
    code = """
p = open_pipes(params_loader=env("a"))
t = threading.Thread(target=p.__enter__); t.start(); t.join()
p.report_asset_check("c", True, asset_key="orders")
assert default()
os.kill(os.getpid(), signal.SIGTERM)
sys.exit(3)
"""
    done = run(tmp_path, code)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")
    messages = parsed((tmp_path / "a").read_bytes())
    assert [m["method"] for m in messages] == ["opened", "report_asset_check"]


def test_a_handler_set_inside_the_block_stays(tmp_path: Path) -> None:
    code = """
mine = lambda *_: None
with open_pipes(params_loader=env("a")):
    signal.signal(signal.SIGTERM, mine)
assert signal.getsignal(signal.SIGTERM) is mine
"""
    done = run(tmp_path, code)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.path.exists(tmp_path / "a")
