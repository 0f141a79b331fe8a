"""The output of the process that a session launches: its stdout and stderr.

They are always drained, whatever becomes of it, since a full pipe would stop the
process.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import queue
import select
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import IO

import anyio
from anyio import CancelScope, to_thread

from ..protocol.events import Stream

#: What is read at once from a pipe: as much as a Linux pipe holds by default.
_READ_BYTES = 65536
#: How much of stderr is kept for error messages, in bytes.
TAIL_BYTES = 4096
#: The longest line that is held back to be forwarded whole, in bytes.
_LINE_BYTES = 65536
#: Reads of what is left in a pipe that others still hold: 1 MiB, the most that a
#: Linux pipe can be made to hold.
_LAST_READS = 16

_POSIX = os.name == "posix"


class OutputPipe:
    """One of the process's output streams: a pipe, read on the loop without blocking it."""

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe()
        if _POSIX:
            os.set_blocking(self._read_end, False)

    def close_write_end(self) -> None:
        """The process has its copy: ours would keep the pipe open for ever."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def close(self) -> None:
        """Close both ends. Idempotent."""
        self.close_write_end()
        if self._read_end >= 0:
            os.close(self._read_end)
            self._read_end = -1

    async def read(self) -> bytes:
        """Wait for output; ``b""`` once all who could write have closed it."""
        if not _POSIX:  # no readiness for pipes there: a thread waits in the read
            return await to_thread.run_sync(
                os.read, self._read_end, _READ_BYTES, abandon_on_cancel=True
            )
        # A turn for the loop, and a chance to cancel: a process that writes as fast as
        # this reads would never let it wait.
        await asyncio.sleep(0)
        while (data := self.read_available()) is None:
            await anyio.wait_readable(self._read_end)
        return data

    def read_available(self) -> bytes | None:
        """Output that is there now; None if there is none yet."""
        try:
            return os.read(self._read_end, _READ_BYTES)
        except BlockingIOError:
            return None


Sink = Callable[[bytes], Awaitable[None]]


async def drain(pipe: OutputPipe, sink: Sink, reading: CancelScope) -> None:
    """Hand all output to ``sink`` until the pipe ends; close it then.

    Other processes may hold it after the one has ended: once ``reading`` is cancelled
    only what is there already is taken.
    """
    try:
        with reading:
            while data := await pipe.read():
                with CancelScope(shield=True):  # what was read must not be lost
                    await sink(data)
        if reading.cancelled_caught and _POSIX:
            rest = b""
            # Whoever goes on writing may never stop, so there is a bound.
            for _ in range(_LAST_READS):
                if not (data := pipe.read_available() or b""):
                    break
                rest += data
            with CancelScope(shield=True):
                await sink(rest)
    finally:
        pipe.close()


class WholeLines:
    """Hands output on in whole lines, so that no two streams, nor events, tear each other's.

    A line above 64 KiB goes on in pieces.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks
        self._held = b""

    async def __call__(self, data: bytes) -> None:
        data = self._held + data
        end = data.rfind(b"\n") + 1
        if not end and len(data) > _LINE_BYTES:
            end = len(data)
        self._held = data[end:]
        await self._hand_on(data[:end])

    async def finish(self) -> None:
        """Hand on what came after the last newline."""
        held, self._held = self._held, b""
        await self._hand_on(held)

    async def _hand_on(self, data: bytes) -> None:
        if data:
            for sink in self._sinks:
                await sink(data)


class ExpendableThread:
    """Runs one call after another in a thread that the interpreter does not wait for.

    A write to a pipe that nobody reads never returns, and no thread can be ended from
    outside: were it one of a pool, the program could not exit.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, call: Callable[[], None]) -> None:
        """Run it; cancelling that leaves the call to itself."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def report(error: BaseException | None) -> None:
            if done.done():
                return  # cancelled: nobody waits
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def run() -> None:
            error: BaseException | None = None
            try:
                call()
            except BaseException as raised:
                error = raised
            try:
                loop.call_soon_threadsafe(report, error)
            except RuntimeError:
                pass  # the loop is closed: nobody waits

        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()
        self._calls.put(run)
        await done

    def close(self) -> None:
        """Let the thread end after what it has to do. Idempotent."""
        self._calls.put(None)

    def _serve(self) -> None:
        while call := self._calls.get():
            call()


class Forward:
    """Copies output to the host's own stdout or stderr, whole lines at a time.

    Where nobody reads that, it waits, and so does the script, as if it wrote there
    itself; from :meth:`limit` on no write may take longer than ``patience`` seconds.

    Attributes:
        gave_up: one did; nothing is forwarded any more.
    """

    def __init__(self, stream: Stream, patience: float) -> None:
        self.stream = stream
        self.gave_up = False
        self._patience = patience
        self._is_limited = False
        self._writing: CancelScope | None = None
        self._thread = ExpendableThread(f"asyncpipes {stream}")

    def limit(self) -> None:
        """The process has ended, or is being ended: have no more than ``patience``."""
        self._is_limited = True
        if self._writing is not None:
            self._writing.deadline = _now() + self._patience

    def close(self) -> None:
        """Let the thread go."""
        self._thread.close()

    async def __call__(self, data: bytes) -> None:
        if self.gave_up:
            return
        with CancelScope(shield=True) as self._writing:
            if self._is_limited:
                self._writing.deadline = _now() + self._patience
            # The terminal or pipe behind our stdout may be slow, or stall.
            await self._thread.run(lambda: write_out(self.stream, data))
        self.gave_up = self._writing.cancelled_caught
        self._writing = None


def _now() -> float:
    """The clock of anyio's deadlines. To be asked outside of tasks too, as ``stop()`` is from
    a signal's callback: there anyio does not know everywhere which loop runs.
    """
    return asyncio.get_running_loop().time()


def write_out(stream: Stream, data: bytes) -> None:
    """Write to this process's own stdout or stderr; nothing happens if that is closed. Blocks."""
    target: IO[str] | None = getattr(sys, stream)
    if target is None:
        return  # a host without standard streams
    try:
        if target is getattr(sys, f"__{stream}__"):
            # Past Python's text layer, which is not made for two threads, as if the
            # script had the stream itself: bytes as they are, whatever the encoding.
            _write_all(target.fileno(), data)
        else:  # somebody put another in its place, which takes text
            target.write(_for_encoding(data, getattr(target, "encoding", None)))
            target.flush()
    except (OSError, ValueError):
        pass  # our own output is closed: the script must not suffer for it


def _for_encoding(data: bytes, encoding: str | None) -> str:
    """``data`` as text that ``encoding`` can hold; what it cannot is shown as an escape."""
    text = data.decode("utf-8", "backslashreplace")
    return text.encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # somebody made it non-blocking
            select.select([], [descriptor], [])


class Capture:
    """Makes output into text, piece by piece; a character may be cut between two reads."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    async def __call__(self, data: bytes) -> None:
        for start in range(0, len(data), _READ_BYTES):
            if text := self._decoder.decode(data[start : start + _READ_BYTES]):
                self._take(text)

    def finish(self) -> None:
        """Hand on what may be left of a character."""
        if text := self._decoder.decode(b"", final=True):
            self._take(text)


class Tail:
    """Keeps the last of what went by."""

    def __init__(self) -> None:
        self._data = b""

    async def __call__(self, data: bytes) -> None:
        self._data = (self._data + data)[-TAIL_BYTES:]

    @property
    def text(self) -> str:
        """What is kept, as text."""
        return self._data.decode("utf-8", "replace")
