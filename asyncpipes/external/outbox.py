"""The outbox: what a script reports waits here until the channel has it.

::

    any thread ──put()──▶ lines ──thread "asyncpipes-outbox"──▶ writer.write(batch)
                            └──── a result on an immediate channel: inline ────▲

A thread of its own and not a task: async scripts block their loop all the time (a
pandas call, a model load), and a log line must leave all the same. ``put`` is an
append under a lock; the thread joins what has gathered meanwhile into one write.

Results are written before the call returns where the channel is immediate. The
thread alone lost all of 100 materializations in 30 of 30 runs that ended in
``os._exit``; inline writes lost none.

The buffer is bounded, and what happens at the bound depends on what is put and
from where; see :class:`Kind`.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Generator
from enum import Enum

from ..channels.base import ChannelWriter
from ..errors import BufferFullError, ChannelError
from ..protocol.messages import PLAIN_TAIL, encode_log_head, extension_tail

#: Transient faults of a channel are tried again for this long, in seconds, before the
#: channel counts as failed. A full disk is often cleared within seconds; a script
#: that can report nothing should not wait for it much longer.
RETRY_SECONDS = 10.0
_FIRST_RETRY = 0.05
_LONGEST_RETRY = 1.0

#: The loop's thread gives way at an ``await`` after this long without having done so,
#: in seconds: half of what DESIGN allows between two checkpoints, since the caller
#: spends as much again between its awaits.
_YIELD_AFTER = 0.001


class Kind(Enum):
    """What is put, for the policy above the limit.

    ========= ======================== =============================================
    kind      from other threads       on a running event loop's thread
    ========= ======================== =============================================
    RESULT    always accepted          always accepted
    CUSTOM    blocks                   accepted; BufferFullError above twice the limit
    RECORD    blocks                   dropped and counted
    CAPTURE   dropped and counted      dropped and counted
    ========= ======================== =============================================

    CAPTURE is copied standard output. It never blocks: its thread must keep
    draining the pipe that the script's ``print`` writes to.
    """

    RESULT = "result"
    CUSTOM = "custom"
    RECORD = "record"
    CAPTURE = "capture"


class Outbox:
    """Accepts messages from any thread and writes them, in order, from its own.

    Args:
        writer: the channel's end, opened already; closed by the outbox.
        name: the ``writer`` id towards a host of ours; None towards a stock host.
        max_bytes: the buffer's limit.
    """

    def __init__(self, writer: ChannelWriter, name: str | None, max_bytes: int) -> None:
        self._writer = writer
        self._name = name
        self._max_bytes = max_bytes
        # Guards all down to the blank line. Held for an append, never for I/O.
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._bytes = 0  # in _lines, _batch and _joined
        self._accepted = 0
        self._delivered = 0
        self._dropped = 0
        self._dropped_told = 0
        self._closing = False
        self._failure: ChannelError | None = None
        self._idle = False
        self._room_waiters: list[Callable[[], None]] = []
        self._flush_waiters: list[tuple[int, Callable[[], None]]] = []

        # Held while a batch is written; guards what is taken out of _lines for that:
        # the lines, and the first of them joined for one write.
        self._write_lock = threading.Lock()
        self._batch: list[bytes] = []
        self._joined = b""
        self._joined_count = 0

        # A binary semaphore: released when the idle thread gets work.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._thread = threading.Thread(target=self._run, name="asyncpipes-outbox", daemon=True)
        self._on_closed: Callable[[], None] = _nothing
        self.room = Room(self)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def failure(self) -> ChannelError | None:
        """What made the channel fail for good, or None."""
        return self._failure

    @property
    def undelivered(self) -> int:
        """Messages that were reported and are not with the channel."""
        with self._lock:
            return self._accepted - self._delivered

    @property
    def is_over_limit(self) -> bool:
        """Whether the buffer holds more than its limit."""
        return self._bytes > self._max_bytes

    def put(self, head: bytes, kind: Kind) -> bool:
        """Queue a message; ``head`` is all of it but its tail.

        Once the channel has failed it is counted as undelivered and goes nowhere.

        Returns:
            False if it was not taken: the outbox is closed, or a record was dropped.

        Raises:
            BufferFullError: a custom message on the loop's thread, above twice the
                limit.
        """
        while not self._try_put(head, kind):
            if self._closing or kind is Kind.CAPTURE:
                return False
            # Above the limit, and a kind that minds it. Off the loop: block.
            if asyncio._get_running_loop() is not None:
                return kind is Kind.CUSTOM and self._put_above_limit(head)
            ready = threading.Event()
            self.on_room(ready.set)
            ready.wait()
        if kind is Kind.RESULT and self._writer.guarantees.immediate and self._drain() is not None:
            with self._lock:
                self._wake_thread()  # a transient fault: trying again is the thread's work
        return True

    def on_delivered(self, callback: Callable[[], None]) -> None:
        """Call back once all that is accepted now is with the channel, or it failed.

        Perhaps at once, perhaps from another thread; the callback must not block.
        """
        with self._lock:
            waits = self._delivered < self._accepted and self._failure is None
            if waits:
                self._flush_waiters.append((self._accepted, callback))
        if not waits:
            callback()

    def on_room(self, callback: Callable[[], None]) -> None:
        """Call back once the buffer is at most half full, or the channel failed or closed."""
        with self._lock:
            waits = self._bytes > self._max_bytes // 2 and not self._closing
            if waits:
                self._room_waiters.append(callback)
        if not waits:
            callback()

    def close(self, head: bytes, on_closed: Callable[[], None]) -> None:
        """Queue the last message, write what is left, close the writer, then call back.

        In one step, so that no other thread's message can follow the last one.
        """
        with self._lock:
            self._append(head)
            self._closing = True
            self._on_closed = on_closed
            waiters, self._room_waiters = self._room_waiters, []
            self._wake_thread()
        for waiter in waiters:
            waiter()

    def abandon(self, error: ChannelError) -> None:
        """Give up on what is not written; the thread ends as soon as its write returns."""
        self._fail(error, tell=False)

    def drain(self) -> None:
        """Write what waits from the caller's thread, as far as it goes without a retry."""
        self._drain()

    # Under the lock.

    def _has_room(self, size: int, limit: int) -> bool:
        # An empty buffer takes any one line, or a line above the limit could never go.
        return not self._bytes or self._bytes + size <= limit

    def _append(self, head: bytes) -> None:
        self._accepted += 1
        if self._failure is not None:
            return
        if self._name is not None:
            line = head + extension_tail(self._name, self._accepted, time.time(), self._dropped)
        else:
            if self._dropped != self._dropped_told:
                self._tell_drops()
            line = head + PLAIN_TAIL
        self._lines.append(line)
        self._bytes += len(line)
        self._wake_thread()

    def _tell_drops(self) -> None:
        # Protocol 0.1 has no place for a count, so a stock host is told in its log.
        self._dropped_told = self._dropped
        text = (
            f"asyncpipes: {self._dropped} log or stream records were dropped so far, because"
            f" {self._max_bytes} bytes were waiting for the channel"
        )
        self._append(encode_log_head(text, "WARNING"))

    def _wake_thread(self) -> None:
        if self._idle:
            self._idle = False
            self._wake.release()

    # Accepting, one step each.

    def _try_put(self, head: bytes, kind: Kind) -> bool:
        with self._lock:
            if self._closing:
                return False
            if kind is Kind.RESULT or self._has_room(len(head), self._max_bytes):
                self._append(head)
                return True
            on_loop = asyncio._get_running_loop() is not None
            if kind is Kind.CAPTURE or (kind is Kind.RECORD and on_loop):
                self._dropped += 1
            return False

    def _put_above_limit(self, head: bytes) -> bool:
        with self._lock:
            if self._has_room(len(head), 2 * self._max_bytes):
                self._append(head)
                return True
            raise BufferFullError(
                f"{self._bytes} bytes wait for the channel and the limit is {self._max_bytes}:"
                " await what report_custom_message() returns, so that the script waits for the"
                " channel, or raise max_buffered_bytes"
            )

    # Writing.

    def _run(self) -> None:
        retry = _Retry()
        while True:
            with self._lock:
                busy = self._bytes > 0
                if not busy and self._closing:
                    break
                self._idle = not busy
            if not busy:
                self._wake.acquire()
            fault = self._drain()
            if fault is None:
                retry = _Retry()
            elif not retry.wait():
                self._fail(fault)
        with self._write_lock:  # an inline write may still be under way
            try:
                self._writer.close()
            except Exception as error:  # a user's own writer may raise anything
                self._fail(_mapped("closing the channel failed", error))
        self._on_closed()

    def _drain(self) -> ChannelError | None:
        """Write until nothing waits; return a transient fault, if one came."""
        with self._write_lock:
            if self._failure is not None:
                self._joined = b""
                self._batch.clear()
                return None
            while self._joined or self._take_batch():
                try:
                    self._writer.write(self._joined)
                except ChannelError as error:
                    if error.transient:
                        return error
                    self._fail(error)
                except Exception as error:  # a user's own writer may raise anything
                    self._fail(_mapped("the message writer failed", error))
                self._batch_done()
        return None

    def _take_batch(self) -> bool:
        with self._lock:
            self._batch += self._lines
            self._lines = []
        size = count = 0
        for line in self._batch:
            size += len(line)
            if count and size > self._writer.batch_bytes:
                break
            count += 1
        self._joined, self._joined_count = b"".join(self._batch[:count]), count
        del self._batch[:count]
        return count > 0

    def _batch_done(self) -> None:
        """Account for a batch: delivered, or gone with a channel that failed."""
        with self._lock:
            joined, self._joined = self._joined, b""
            if self._failure is not None:
                self._batch.clear()
                return
            self._bytes -= len(joined)
            self._delivered += self._joined_count
            done = self._delivered
            ready: list[Callable[[], None]] = []
            if self._room_waiters and self._bytes <= self._max_bytes // 2:
                ready, self._room_waiters = self._room_waiters, []
            if self._flush_waiters:
                ready += [call for target, call in self._flush_waiters if target <= done]
                self._flush_waiters = [w for w in self._flush_waiters if w[0] > done]
        for callback in ready:
            callback()

    def _fail(self, error: ChannelError, *, tell: bool = True) -> None:
        with self._lock:
            if self._failure is not None:
                return
            self._failure = error
            self._lines, self._bytes = [], 0
            ready = [*self._room_waiters, *(call for _, call in self._flush_waiters)]
            self._room_waiters, self._flush_waiters = [], []
        if tell:
            _complain(f"asyncpipes: {error}; nothing more is reported, the script goes on")
        for callback in ready:
            callback()


class _Retry:
    """How long to wait between tries after a transient fault, and when to give up."""

    def __init__(self) -> None:
        self._deadline: float | None = None
        self._delay = _FIRST_RETRY

    def wait(self) -> bool:
        """Sleep until the next try; False when it is time to give up."""
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + RETRY_SECONDS
        if now >= self._deadline:
            return False
        time.sleep(self._delay)
        self._delay = min(self._delay * 2, _LONGEST_RETRY)
        return True


def _mapped(what: str, error: Exception) -> ChannelError:
    fault = ChannelError(f"{what}: {error!r}")
    fault.__cause__ = error
    return fault


def _nothing() -> None:
    pass


class Room:
    """What ``report_*`` return: awaiting it waits for room in the buffer.

    While the buffer is under its limit, the await costs next to nothing, and gives
    the loop a turn at least every millisecond. Above, it waits until the buffer is
    half empty, the channel fails, or the context closes. Cancelling the wait
    changes nothing: what was reported is queued already.
    """

    __slots__ = ("_next_yield", "_outbox")

    def __init__(self, outbox: Outbox | None) -> None:
        self._outbox = outbox
        self._next_yield = 0.0

    def __await__(self) -> Generator[object, None, None]:
        outbox = self._outbox
        if outbox is not None and outbox.is_over_limit:
            yield from _wait(outbox.on_room).__await__()
        elif time.monotonic() >= self._next_yield:
            yield  # a bare turn of the loop, as asyncio.sleep(0) gives
        else:
            return
        self._next_yield = time.monotonic() + _YIELD_AFTER


async def wait_delivered(outbox: Outbox) -> None:
    """Wait until all that is accepted now is with the channel, or it failed."""
    await _wait(outbox.on_delivered)


async def _wait(subscribe: Callable[[Callable[[], None]], None]) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def resolve() -> None:
        if not future.done():
            future.set_result(None)

    def from_any_thread() -> None:
        try:
            loop.call_soon_threadsafe(resolve)
        except RuntimeError:
            pass  # the loop is closed, so nobody waits any more

    subscribe(from_any_thread)
    await future


def _complain(text: str) -> None:
    """One line on stderr, wherever that is by now."""
    stream = sys.stderr or sys.__stderr__
    if stream is not None:
        try:
            print(text, file=stream, flush=True)
        except (OSError, ValueError):
            pass  # stderr is closed: there is nobody left to tell
