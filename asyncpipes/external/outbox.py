"""The outbox: what a script reports waits here until the channel has it.

::

    any thread ──put()──▶ lines ──thread "asyncpipes-outbox"──▶ writer.write(batch)
                   ◀──── a result on an immediate channel: "it is written" ────┘

A thread of its own and not a task: async scripts block their loop all the time (a
pandas call, a model load), and a log line must leave all the same. ``put`` is an
append under a lock; the thread numbers what has gathered meanwhile, and writes it at once.

On an immediate channel a result is written before the call that reports it returns,
so it survives an ``os._exit`` in the next line. The thread writes it and the caller
waits: a signal's handler may raise anywhere in the main thread, and an interrupted
wait leaves nothing half done, as an interrupted write would.

For the same reason a message is accepted in one step, which is either done or not: it
is appended to a deque. Numbers, the count of drops and all else are given when it is
taken out, by the one thread that no signal interrupts. That thread takes no lock that
callers hold, so a report made from inside ``put`` (by a signal's handler, or by a
``__del__`` that the garbage collector runs) may even block there.

In a forked process there is no such thread, and locks that other threads held stay
locked. So a fork has an outbox of its own, which opens the channel and starts its
thread with the first message: most forks never report. A host is to know of a fork that
has reported and then crashes, so that first message is written before its call returns,
whatever its kind, on an immediate channel whose host takes an ``opened`` from every writer.
So a log may wait for one write, once in each fork, on a running loop's thread too.

The buffer is bounded, and what happens at the bound depends on what is put and
from where; see :class:`Kind`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import partial
from queue import Empty, SimpleQueue
from threading import get_ident
from time import time

from ..channels.base import ChannelWriter
from ..errors import BufferFullError, ChannelError
from .heartbeat import Heartbeat
from .stderr import complain
from .waiting import Retry, Room, block
from .writing import Finisher, Line, count_reported, tell


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
    counts as a loop's: a writer that logs must not wait for itself. In a fork all of them
    wait for their own write until the first is done, as results always do.

    CAPTURE is copied standard output. It never blocks: its thread must keep
    draining the pipe that the script's ``print`` writes to.
    """

    RESULT = "result"
    CUSTOM = "custom"
    RECORD = "record"
    CAPTURE = "capture"


def _nothing() -> None:
    pass


class Outbox:
    """Accepts messages from any thread and writes them, in order, from its own.

    Args:
        writer: the channel's end, opened already; closed by the outbox.
        name: the ``writer`` id towards a host of ours; None towards a stock host.
        max_bytes: the buffer's limit.
        heartbeat: what to send while nothing else happens, and when.
        opening: for a fork, where the outbox opens the writer and starts by itself once
            there is something to send: the message to send first, or ``b""``.
        on_first_use: for a fork, called before it starts; perhaps twice.
    """

    def __init__(
        self,
        writer: ChannelWriter,
        name: str | None,
        max_bytes: int,
        *,
        heartbeat: Heartbeat | None = None,
        opening: bytes | None = None,
        on_first_use: Callable[[], None] | None = None,
    ) -> None:
        self._writer = writer
        self._heartbeat = heartbeat
        if heartbeat is not None:
            heartbeat.wake = self._rouse
        self._on_first_use = on_first_use or _nothing
        self._is_writer_open = opening is None
        self._is_writer_closed = False
        self._max_bytes = max_bytes
        self._finisher = Finisher(name, max_bytes)
        self._tail_bytes = self._finisher.tail_bytes

        # Guards accepting against other threads. Reentrant: see the top of this file.
        self._lock = threading.RLock()
        self._lines: deque[Line] = deque([(opening, time(), None)] if opening else ())
        self._prepared = len(self._lines)
        self._is_known = not opening  # to the host, as far as it depends on this outbox
        self._last: Line | None = None  # written when _lines are; nothing is accepted any more
        self._on_closed: Callable[[], None] = _nothing
        self._bytes_in = 0  # an interrupted put() may leave a line out
        self._dropped = 0

        # Held by who takes lines out and writes them. Reentrant, for a __del__ that
        # reports; _writing, the thread that holds it, tells that apart.
        self._write_lock = threading.RLock()
        self._writing = 0
        self._batch: list[Line] = []  # taken out, not written yet
        self._batch_size = 0
        self._joined = b""
        self._ending = False  # _last is taken out
        self._bytes_out = 0
        self._lost = 0  # the user's messages that went nowhere
        self._faulty = False  # the last write met a transient fault
        self._failure: ChannelError | None = None
        self._abandoned = False  # the thread may be stuck in a write, and tell nobody
        self._closed = False

        self._room_waiters: deque[Callable[[], None]] = deque()
        self._idle = opening is not None
        # Its put() is one step too, and more than one of them do no harm.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._thread = self._new_thread()
        # Reentrant too, with the thread that holds it: a handler may report from inside start().
        self._start_lock = threading.RLock()
        self._starting = 0
        self._is_used = False
        self._is_tried = False  # _thread was told to start, which an exception may have ended
        self._is_started = False
        self._is_running = False
        #: What waits for room in this buffer.
        self.room = Room(self)

    def start(self) -> None:
        """Start the thread, unless it has been; who is interrupted in here may try again.

        Called from inside itself, by a signal's handler, it does nothing: the new thread may
        be waiting for a lock that this one holds, so the handler goes on as if there was none.
        """
        if not self._needs_start():
            return
        with self._start_lock:
            if not self._needs_start():
                return
            self._starting = get_ident()
            try:
                self._is_used = True
                self._on_first_use()
                self._start_thread()
            except RuntimeError as error:  # the system has no more, or the interpreter ends
                complain(f"asyncpipes: {error}; what is reported waits until the context is left")
            finally:
                self._starting = 0
            self._is_started = True

    def _needs_start(self) -> bool:
        return not (self._is_started or self._is_running or self._starting == get_ident())

    def _start_thread(self) -> None:
        # One whose start was interrupted runs, or will, or never can: it cannot be started
        # again, and whichever of them comes first is the outbox's.
        if self._is_tried:
            with self._write_lock:
                if self._is_running:
                    return
                self._thread = self._new_thread()
        self._is_tried = True
        self._thread.start()

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="asyncpipes-outbox", daemon=True)

    @property
    def failure(self) -> ChannelError | None:
        """What made the channel fail for good, or None."""
        return self._failure

    @property
    def undelivered(self) -> int:
        """Messages that the user reported and that are not with the channel.

        Exact while nothing moves: after :meth:`on_delivered`, or once the thread has ended or
        is stuck.
        """
        return self._lost + count_reported([*self._batch, *self._lines.copy()])

    @property
    def is_closing(self) -> bool:
        """Whether the last message has been queued."""
        return self._last is not None

    @property
    def is_closed(self) -> bool:
        """Whether the last message is out, or given up, and the writer closed."""
        return self._closed

    @property
    def is_used(self) -> bool:
        """Whether anything was ever put into it."""
        # A line is there first; before the thread takes it out, start() has begun.
        return self._is_used or len(self._lines) > self._prepared

    @property
    def is_over_limit(self) -> bool:
        """Whether the buffer holds more than its limit."""
        return self._bytes_in - self._bytes_out > self._max_bytes

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
            return self._put_written(head, float("inf"))
        if not self._is_known and self._put_written(head, self._max_bytes):
            return True
        while not self._append(head, self._max_bytes):
            if self._last is not None:
                return False
            if kind is not Kind.CAPTURE and self._may_block():
                block(self.on_room)
            elif kind is Kind.CUSTOM:
                return self._put_above_limit(head)
            else:
                with self._lock:
                    self._dropped += 1
                return False
        return True

    def on_delivered(self, callback: Callable[[], None]) -> None:
        """Call back once all that is accepted now is with the channel, or counted as lost.

        Perhaps at once, perhaps from another thread, perhaps twice; the callback
        must not block.
        """
        self._lines.append((b"", 0.0, callback))
        self._rouse()
        while self._starting == get_ident() and self._lines and self._write_batch() is None:
            pass  # nobody else would write it
        if self._abandoned or self._closed:
            callback()

    def on_room(self, callback: Callable[[], None]) -> None:
        """Call back once the buffer is at most half full, or the channel failed or closed.

        In the way of :meth:`on_delivered`.
        """
        self._room_waiters.append(callback)
        self._rouse()
        if self._has_room():
            callback()

    def close(self, head: bytes, on_closed: Callable[[], None]) -> None:
        """Queue the last message, write what is left, close the writer, then call back.

        In one step, so that no other thread's message can follow the last one.
        """
        line = (head, time(), None)
        with self._lock:
            self._on_closed = on_closed
            self._last = line
            self._wake.put(None)
        self._tell_room()
        self.start()
        if not self._thread.is_alive() and not self._closed:
            self._run(may_wait=False)

    def join(self, timeout: float) -> None:
        """Wait until the thread has ended, after :meth:`close`."""
        if self._thread.is_alive() and not self._is_writer():
            self._thread.join(timeout)

    def abandon(self, error: ChannelError) -> None:
        """Give up on what is not written; the thread ends as soon as its write returns."""
        self._abandoned = True
        self._fail(error)
        tell([*self._batch, *self._lines.copy()])

    def drain(self) -> None:
        """Have the thread write what waits; :meth:`on_delivered` tells when it is done."""
        self._rouse()

    # Accepting. In the main thread an exception may come after every call made here.

    def _append(self, head: bytes, limit: float, told: Callable[[], None] | None = None) -> bool:
        """Accept a line, unless the outbox is closed or holds more than ``limit`` bytes."""
        with self._lock:
            line = (head, time(), told)
            if self._bytes_in - self._bytes_out > limit and self._failure is None:
                return False
            # No call and no allocation between these two, so that not even a handler of
            # this thread, which may call close(), comes between them.
            if self._last is not None:
                return False
            self._lines.append(line)
            self._bytes_in += len(head) + self._tail_bytes
            if self._idle:
                self._idle = False
                self._wake.put(None)
                self.start()
            return True

    def _put_above_limit(self, head: bytes) -> bool:
        if self._append(head, 2 * self._max_bytes):
            return True
        if self._last is not None:
            return False
        raise BufferFullError(
            f"{self._bytes_in - self._bytes_out} bytes wait for the channel and the limit is"
            f" {self._max_bytes}: await what report_custom_message() returns, so that the"
            " script waits for the channel, or raise max_buffered_bytes"
        )

    def _put_written(self, head: bytes, limit: float) -> bool:
        if not self._writer.guarantees.immediate or self._is_writer():
            return self._append(head, limit)
        # Not an Event: a handler that waits as well might find its lock held by this wait.
        written: SimpleQueue[None] = SimpleQueue()
        if not self._append(head, limit, partial(written.put, None)):
            return False
        self._rouse()
        if not self._thread.is_alive():  # it could not be started: nobody else would write it
            while written.empty() and self._write_batch() is None:
                pass
        elif self._failure is None and not self._faulty:  # trying again is the thread's work
            written.get()
        return True

    def _may_block(self) -> bool:
        return asyncio._get_running_loop() is None and not self._is_writer()

    def _is_writer(self) -> bool:
        return get_ident() in (self._thread.ident, self._writing)

    def _has_room(self) -> bool:
        return (
            self._bytes_in - self._bytes_out <= self._max_bytes // 2
            or self._failure is not None
            or self._last is not None
        )

    def _rouse(self) -> None:
        """Wake the thread even if a put() that was interrupted has not."""
        self.start()
        if self._wake.empty():
            self._wake.put(None)

    # Writing.

    def _run(self, *, may_wait: bool = True) -> None:
        with self._write_lock:
            if self._is_running:
                return  # a start that was interrupted, and made again
            self._is_running = True
            if may_wait:
                self._thread = threading.current_thread()
        retry = Retry()
        while True:
            fault = self._write_batch()
            if fault is None:
                retry.succeeded()
            elif not may_wait or not retry.wait():
                self._fail(fault)
                self._close_writer()  # it may keep others waiting for the rest of its line
            if self._joined or self._lines:
                continue
            if self._ending:
                break
            self._idle = True
            # What is accepted from here on wakes the thread; this came before.
            if not self._lines and self._last is None:
                self._sleep()
            self._idle = False
        self._close_writer()
        self._closed = True
        tell(self._lines.copy())  # marks that came too late to be taken out
        self._on_closed()

    def _close_writer(self) -> None:
        with self._write_lock:
            if self._is_writer_closed:
                return
            self._is_writer_closed = True
            try:
                self._writer.close()
            except Exception as error:  # a user's own writer may raise anything
                self._fail(_mapped("closing the channel failed", error))

    @property
    def _beating(self) -> Heartbeat | None:
        """The heartbeat, while there is a life to show: a host knows none before ``opened``."""
        return self._heartbeat if self._finisher.has_begun and self._failure is None else None

    def _sleep(self) -> None:
        """Wait for messages, or until the heartbeat has something to do."""
        heartbeat = self._beating
        try:
            self._wake.get(timeout=None if heartbeat is None else heartbeat.timeout)
        except Empty:
            pass  # time for the heartbeat

    def _write_batch(self) -> ChannelError | None:
        """Write what waits, as far as a batch holds it; return a transient fault, if one came."""
        with self._write_lock:
            if self._writing:
                return None  # called from inside, by a report of the writer's
            self._writing = get_ident()
            try:
                if not self._joined:
                    self._take_batch()
                if self._joined and self._failure is None:
                    if not self._is_writer_open:
                        self._writer.open()
                        self._is_writer_open = True
                    self._writer.write(self._joined)
                self._faulty = False
            except ChannelError as error:
                if error.transient and self._failure is None:
                    self._faulty = True
                    self._tell_callers()
                    return error
                self._fail(error)
            except Exception as error:  # a user's own writer may raise anything
                self._fail(_mapped("the message writer failed", error))
            finally:
                self._writing = 0
            self._batch_done()
        return None

    def _take_batch(self) -> None:
        """Take out what one write carries, and give it numbers."""
        last = self._last  # before the lines: once it is there, they grow no more
        lines, batch, size = self._lines, self._batch, 0
        tail, most = self._tail_bytes, self._writer.batch_bytes
        while lines:
            head = lines[0][0]
            more = size + len(head) + tail if head else size
            if more > most and batch:
                break
            size = more
            batch.append(lines.popleft())
        else:
            # In a write of its own: towards a stock host, fillers may come after others.
            if last is not None and not self._ending and not batch:
                self._ending = True
                batch.append(last)
        self._batch_size = size
        self._joined = self._finisher.finish(batch, self._dropped)
        if self._beating is not None and not self._ending:
            self._joined += self._beating.due()

    def _batch_done(self) -> None:
        """Account for a batch: delivered, or gone with a channel that failed."""
        batch, self._batch, self._joined = self._batch, [], b""
        if self._failure is not None:
            self._lost += count_reported(batch)
        self._bytes_out += self._batch_size
        self._is_known = True
        tell(batch)
        if self._room_waiters and self._has_room():
            self._tell_room(forget=True)

    def _fail(self, error: ChannelError) -> None:
        if self._failure is not None:
            return
        self._failure = error
        if not self._abandoned:
            complain(f"asyncpipes: {error}; nothing more is reported, the script goes on")
        self._tell_callers()
        self._tell_room()

    def _tell_callers(self) -> None:
        """Let go those who wait for their result.

        A flush goes on waiting: for the next try, or until all before it is counted as lost.
        """
        tell(line for line in [*self._batch, *self._lines.copy()] if line[0])

    def _tell_room(self, *, forget: bool = False) -> None:
        # Only the thread forgets: elsewhere an exception could come before the call.
        for callback in self._room_waiters.copy():
            callback()
            if forget:
                self._room_waiters.remove(callback)


def _mapped(what: str, error: Exception) -> ChannelError:
    fault = ChannelError(f"{what}: {error!r}")
    fault.__cause__ = error
    return fault
