"""What the tests of the host side share: child scripts, and questions about processes."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
import threading
from collections.abc import Callable, Collection, Coroutine, Generator, Sequence
from pathlib import Path
from typing import Any

from asyncpipes.channels.base import ChannelReader
from asyncpipes.channels.file import FileChannel
from tests.support import PATIENCE

#: A child that knows the wire and nothing else: it starts fast, and can write what no
#: library would. ``emit(method, **params)`` appends a message, ``raw(bytes)`` any bytes.
RAW = """
import base64, json, os, signal, sys, time, zlib

def _param(name):
    return json.loads(zlib.decompress(base64.b64decode(os.environ[name])))

FD = os.open(_param("DAGSTER_PIPES_MESSAGES")["path"], os.O_WRONLY | os.O_APPEND)

def context():
    params = _param("DAGSTER_PIPES_CONTEXT")
    return params["data"] if "data" in params else json.load(open(params["path"]))

def raw(data):
    while data:
        data = data[os.write(FD, data):]

def message(method, **params):
    line = {"__dagster_pipes_version": "0.1", "method": method, "params": params}
    return json.dumps(line).encode() + b"\\n"

def emit(method, **params):
    raw(message(method, **params))

def opened():
    emit("opened", extras={})

def closed():
    emit("closed")

def log(text, level="INFO"):
    emit("log", message=text, level=level)

def custom(*payloads):
    raw(b"".join(message("report_custom_message", payload=p) for p in payloads))

def wait_for(fifo):
    open(fifo).read()

"""


def raw_child(body: str, *, options: Sequence[str] = ("-S", "-E")) -> list[str]:
    """The command of a child that runs ``body`` after :data:`RAW`."""
    return [sys.executable, *options, "-c", RAW + textwrap.dedent(body)]


def script(tmp_path: Path, body: str, name: str = "external_code.py") -> list[str]:
    """The command of a script that is written to ``tmp_path``."""
    path = tmp_path / name
    path.write_text(textwrap.dedent(body))
    return [sys.executable, str(path)]


class Gate:
    """What a child waits for: it reads a FIFO, which ends when the test opens the gate."""

    def __init__(self, directory: Path, name: str = "gate") -> None:
        self.path = str(directory / name)
        os.mkfifo(self.path)

    async def open(self) -> None:
        """Let go of the child that waits, or will wait."""
        await asyncio.to_thread(lambda: os.close(os.open(self.path, os.O_WRONLY)))


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; the limit only keeps a broken test from running for ever."""
    try:
        async with asyncio_timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"never came true: {what}") from None


class asyncio_timeout:  # asyncio.timeout, which Python 3.10 has not
    """Cancel the block after some seconds, and raise TimeoutError."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._expired = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None

        def expire() -> None:
            self._expired = True
            task.cancel()

        self._handle = asyncio.get_running_loop().call_later(self._seconds, expire)

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._handle.cancel()
        if self._expired and kind is asyncio.CancelledError:
            raise TimeoutError


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def group_members(group: int) -> list[int]:
    """The living processes of a process group."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[2]) == group and fields[0] not in "ZX":
                members.append(int(entry.name))
    return members


def join_all_but(before: Collection[threading.Thread]) -> None:
    """Wait for the end of the threads that were not there ``before``.

    Those of worker pools, and those that say that they are done before they end, are told to
    go and joined by nobody.
    """
    for thread in set(threading.enumerate()) - set(before):
        thread.join(PATIENCE)
        assert not thread.is_alive(), thread


class FailingChannel(FileChannel):
    """Its reader raises ``error`` once it has given data ``gives`` times.

    In whatever way it is read: to wait for data or to take what is there depends on the moment
    at which a script ends.
    """

    def __init__(self, error: Exception, *, gives: int = 0) -> None:
        super().__init__()
        self.failing = asyncio.Event()
        self._error = error
        self._gives = gives

    async def open_reader(self) -> ChannelReader:
        reader = await super().open_reader()
        read_available, given = reader.read_available, 0

        async def read_or_fail() -> bytes:
            nonlocal given
            # More, where one call makes another: to take over a reading that was cancelled.
            if given >= self._gives:
                self.failing.set()
                raise self._error
            data = await read_available()
            given += bool(data)
            return data

        reader.read_available = read_or_fail  # type: ignore[method-assign]  # by which it waits, too
        return reader


class Stepped:
    """Awaits a coroutine, and says so each time before it gives way to the loop."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at_await: Callable[[], None]) -> None:
        self._coroutine = coroutine
        self._at_await = at_await

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        send: Callable[[Any], Any] = steps.send
        argument: Any = None
        while True:
            try:
                waited_for = send(argument)
            except StopIteration as stop:
                return stop.value
            self._at_await()
            send = steps.send
            try:
                argument = yield waited_for
            except BaseException as error:
                send, argument = steps.throw, error
