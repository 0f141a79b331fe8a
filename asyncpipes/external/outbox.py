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
from collections.abc import Callable
from enum import Enum
from threading import get_ident
from types import TracebackType

from ..channels.base import ChannelWriter
from ..errors import BufferFullError, ChannelError
from ..protocol.messages import PLAIN_TAIL, encode_log_head, extension_tail
from .waiting import Retry, Room, block

#: How long the thread leaves the writer to a caller that waits for it, in seconds, so that
#: it does not win the lock again at once.
_GIVE_WAY = 0.0001


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

    Above the limit is where more than the limit waits already, so one line may cross
    it, however long it is, and an empty buffer takes any. The thread that is writing
    counts as a loop's: a writer that logs must not wait for itself.

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
        # Guards all down to the blank line. Held for an append, never for I/O. Reentrant,
        # since the garbage collector or a signal may run code that reports (the logging
        # of a __del__) in the thread that holds it; _depth tells, and _late keeps that.
        self._lock = threading.RLock()
        self._section = _Section(self)
        self._depth = 0
        self._late: list[bytes] = []
        self._lines: list[bytes] = []
        self._bytes = 0  # in _lines, _batch and _joined
        self._accepted = 0
        self._delivered = 0
        self._dropped = 0
        self._dropped_told = 0
        self._closing = False
        self._closed = False
        self._failure: ChannelError | None = None
        self._idle = False
        self._room_waiters: list[Callable[[], None]] = []
        self._flush_waiters: list[tuple[int, Callable[[], None]]] = []

        # Held while a batch is written; guards what is taken out of _lines for that:
        # the lines, and the first of them joined for one write.
        self._write_lock = threading.Lock()
        self._writing = 0  # the thread that holds it
        self._wanted = 0  # how many callers wait for it; guarded by _lock
        self._batch: list[bytes] = []
        self._joined = b""
        self._joined_count = 0

        # A binary semaphore: released when the idle thread gets work.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._thread = threading.Thread(target=self._run, name="asyncpipes-outbox", daemon=True)
        self._on_closed: Callable[[], None] = _nothing
        #: What waits for room in this buffer.
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
        with self._section:
            return self._accepted - self._delivered

    @property
    def is_closed(self) -> bool:
        """Whether the last message is out, or given up, and the writer closed."""
        return self._closed

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
        if kind is Kind.RESULT:
            return self._put_result(head)
        while not self._try_put(head, kind):
            if self._closing or kind is Kind.CAPTURE:
                return False
            if not self._may_block():
                return kind is Kind.CUSTOM and self._put_above_limit(head)
            block(self.on_room)
        return True

    def on_delivered(self, callback: Callable[[], None]) -> None:
        """Call back once all that is accepted now is with the channel, or it failed.

        Perhaps at once, perhaps from another thread; the callback must not block.
        """
        with self._section:
            waits = self._delivered < self._accepted and self._failure is None
            if waits:
                self._flush_waiters.append((self._accepted, callback))
        if not waits:
            callback()

    def on_room(self, callback: Callable[[], None]) -> None:
        """Call back once the buffer is at most half full, or the channel failed or closed."""
        with self._section:
            waits = self._bytes > self._max_bytes // 2 and not self._closing
            if waits:
                self._room_waiters.append(callback)
        if not waits:
            callback()

    def close(self, head: bytes, on_closed: Callable[[], None]) -> None:
        """Queue the last message, write what is left, close the writer, then call back.

        In one step, so that no other thread's message can follow the last one.
        """
        with self._section:
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
        self._drain(self._accepted)

    # Under the lock.

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

    def _append_late(self) -> None:
        while self._late:
            head = self._late.pop(0)
            if not self._closing:
                self._append(head)

    # Accepting, one step each.

    def _try_put(self, head: bytes, kind: Kind) -> bool:
        # A _Section written out: this is the path of every message.
        with self._lock:
            if self._depth:
                self._late.append(head)
                return True
            self._depth = 1
            try:
                if self._closing:
                    return False
                if self._bytes <= self._max_bytes:
                    self._append(head)
                    return True
                if kind is Kind.CAPTURE or (kind is Kind.RECORD and not self._may_block()):
                    self._dropped += 1
                return False
            finally:
                if self._late:
                    self._append_late()
                self._depth = 0

    def _put_above_limit(self, head: bytes) -> bool:
        with self._section:
            if self._bytes > 2 * self._max_bytes:
                raise BufferFullError(
                    f"{self._bytes} bytes wait for the channel and the limit is"
                    f" {self._max_bytes}: await what report_custom_message() returns, so that the"
                    " script waits for the channel, or raise max_buffered_bytes"
                )
            if not self._closing:
                self._append(head)
            return not self._closing

    def _put_result(self, head: bytes) -> bool:
        inline = self._writer.guarantees.immediate and self._writing != get_ident()
        with self._section:
            if self._depth > 1:
                self._late.append(head)
                return True
            if self._closing:
                return False
            self._append(head)
            number = self._accepted
            self._wanted += inline
        if inline:
            fault = self._drain(number)
            with self._section:
                self._wanted -= 1
                if fault is not None:
                    self._wake_thread()  # trying again is the thread's work
        return True

    def _may_block(self) -> bool:
        return asyncio._get_running_loop() is None and self._writing != get_ident()

    # Writing.

    def _run(self) -> None:
        retry = Retry()
        while True:
            with self._section:
                busy = self._bytes > 0
                if not busy and self._closing:
                    break
                self._idle = not busy
            if not busy:
                self._wake.acquire()
            fault = self._drain(0)
            if fault is None:
                retry.succeeded()
            elif not retry.wait():
                self._fail(fault)
            if self._wanted:
                time.sleep(_GIVE_WAY)
        with self._write_lock:  # an inline write may still be under way
            try:
                self._writer.close()
            except Exception as error:  # a user's own writer may raise anything
                self._fail(_mapped("closing the channel failed", error))
        self._closed = True
        self._on_closed()

    def _drain(self, target: int) -> ChannelError | None:
        """Write a batch, and more until message number ``target`` is through.

        Returns a transient fault, if one came.
        """
        with self._write_lock:
            self._writing = get_ident()
            try:
                while self._failure is None and (self._joined or self._take_batch()):
                    try:
                        self._writer.write(self._joined)
                    except ChannelError as error:
                        if error.transient:
                            return error
                        self._fail(error)
                    except Exception as error:  # a user's own writer may raise anything
                        self._fail(_mapped("the message writer failed", error))
                    self._batch_done()
                    if self._delivered >= target:
                        break
            finally:
                self._writing = 0
        return None

    def _take_batch(self) -> bool:
        with self._section:
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
        with self._section:
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
        with self._section:
            if self._failure is not None:
                return
            self._failure = error
            self._lines, self._bytes = [], 0
            ready = [*self._room_waiters, *(call for _, call in self._flush_waiters)]
            self._room_waiters, self._flush_waiters = [], []
        if tell:
            complain(f"asyncpipes: {error}; nothing more is reported, the script goes on")
        for callback in ready:
            callback()


class _Section:
    """Holds the outbox's lock, and lets no report slip into the middle of a change."""

    __slots__ = ("_outbox",)

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def __enter__(self) -> None:
        self._outbox._lock.acquire()
        self._outbox._depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        outbox = self._outbox
        if outbox._late and outbox._depth == 1:
            outbox._append_late()
        outbox._depth -= 1
        outbox._lock.release()


def _mapped(what: str, error: Exception) -> ChannelError:
    fault = ChannelError(f"{what}: {error!r}")
    fault.__cause__ = error
    return fault


def _nothing() -> None:
    pass


def complain(text: str) -> None:
    """One line on stderr, wherever that is by now."""
    stream = sys.stderr or sys.__stderr__
    if stream is not None:
        try:
            print(text, file=stream, flush=True)
        except (OSError, ValueError):
            pass  # stderr is closed: there is nobody left to tell
