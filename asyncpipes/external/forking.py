"""Forked workers: what becomes of an open context in a process that was forked from it.

::

    parent ──os.fork()──▶ child: lifecycle.after_fork() ─▶ PipesContext.follow_fork()
                                 ─▶ ChannelWriter.in_fork(): the descriptor is the parent's no more
           first report ─▶ opens the channel as a writer of its own: ``opened``, numbers from 1;
                           both are with an immediate channel when the call returns
           end of the ``with``, of a multiprocessing worker, of the interpreter, of the
           thread that forked, or SIGTERM
                        ─▶ ``closed``

A pool ends its workers by SIGTERM, so that is an end as any other. See :class:`ForkGuard`,
which looks after the threads that fork, too.

A process that ends by ``os._exit`` or is killed sends no ``closed``, and the outcome says
that its writer never closed: nobody can know whether it had more to say. That takes a host
that knows of the writer, so its first report is written at once, whatever it is.

Workers that are spawned, or come from a fork server, share nothing with their parent.
They find the same bootstrap in their environment, and call ``open_pipes()`` themselves.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, TypeVar

from ..channels.base import ChannelWriter, Guarantees
from ..errors import ChannelError
from .stderr import complain
from .waiting import in_own_thread, nothing

#: multiprocessing runs the finalizers of a worker by descending priority: this comes
#: after those of the user's, which may report.
_LAST = -100

T = TypeVar("T")


def writer_in_fork(writer: ChannelWriter) -> ChannelWriter:
    """The parent's channel for this process; if it has none here, one that says so when used."""
    try:
        return writer.in_fork()
    except ChannelError as error:
        return _NoWriter(error)
    except Exception as error:  # a user's own writer may raise anything
        what = f"the channel cannot be used from this forked process: {error!r}"
        fault = ChannelError(what)
        fault.__cause__ = error
        return _NoWriter(fault)


class _NoWriter(ChannelWriter):
    guarantees = Guarantees(ordered=True, immediate=True, acknowledged=False, durable=False)

    def __init__(self, error: ChannelError) -> None:
        self._error = error

    def open(self) -> None:
        raise self._error

    def write(self, lines: bytes) -> None:
        raise self._error

    def close(self) -> None:
        pass


def _multiprocessing() -> Any:
    """Its ``util`` module, or None if it is not imported: then this fork is no worker of its."""
    return sys.modules.get("multiprocessing.util")


def watch_worker(owner: T, note: Callable[[T, BaseException], None]) -> None:
    """If this fork becomes a multiprocessing worker, have its failure noted.

    To be called as soon as it is forked: its exit hooks cannot tell how it ended, on
    Python 3.13 and later.
    """
    util = _multiprocessing()
    if util is None:
        return

    def begin(owner: T) -> None:
        worker = util.process.current_process()
        run = worker.run

        def watched() -> None:
            try:
                run()
            except BaseException as error:
                note(owner, error)
                raise

        worker.run = watched

    util.register_after_fork(owner, begin)


#: Seconds until the main thread is told again that SIGTERM has come.
_NUDGE = 0.05


class _Descriptor:
    """A descriptor, and what it was: a daemon closes all, and has others by those numbers."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._what = os.fstat(number)

    def read(self, size: int) -> bytes:
        """Wait for bytes and return them; none at its end, or if it is closed or another's.

        It may yet become so between the question and the reading.
        """
        try:
            return os.read(self.number, size) if self._is_there() else b""
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            return b""

    def close(self) -> None:
        try:
            if self._is_there():
                os.close(self.number)
        except OSError:
            pass  # it is closed

    def _is_there(self) -> bool:
        return os.path.samestat(os.fstat(self.number), self._what)


class _Farewell:
    """Kept in a thread's local data and nowhere else, it calls when that thread ends.

    In that thread, as the last of Python that runs there, and in any kind of thread: those
    that Python has not started can hardly be joined. Not in a process that is forked
    meanwhile, where this data goes because its thread is not there.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._pid = os.getpid()

    def __del__(self) -> None:
        if self._pid == os.getpid():
            self._call()


def _threads_to_wait_for() -> list[threading.Thread]:
    """Those that an interpreter waits for before its exit hooks, but for this one."""
    not_these = {threading.main_thread().ident, threading.get_ident()}
    return [
        thread
        for thread in threading.enumerate()
        if thread.is_alive() and not thread.daemon and thread.ident not in not_these
    ]


class ForkGuard:
    """How a forked process ends: by SIGTERM, as a worker, or with the thread that forked it.

    **SIGTERM** in a forked process: end its writers, then die of SIGTERM.

    Only where the parent's contexts looked after SIGTERM, and from the first report on, if
    that is made in the main thread, where alone a handler can be set: a fork that never
    reports has the default action, and so has one that first reports from another thread.
    A multiprocessing worker, many of which work in threads, is looked after before its work
    begins, so one that never reports ends as soon as its main thread runs Python code.

    Python runs a handler in the main thread when that runs Python code again. A worker
    of a pool waits for a semaphore, and a signal that comes right before that wait does
    not end it: the worker would live on, and the pool wait for it for ever. The system's
    own part of the handling writes to a pipe at once, though; a thread reads that, and
    repeats the signal until the handler runs.

    And a fork forgets what signals have come for a handler before it runs Python code: one
    that is ended before it has begun would live on as well. So SIGTERM is held back while
    the process forks, and comes when the default action is in force.

    **A multiprocessing worker** leaves by ``os._exit``: ``with`` blocks of the parent's are not
    left, and exit hooks not run before Python 3.13, nor any of the parent's from then on, but
    multiprocessing's own finalizers are. Up to Python 3.12 that is before it waits for its
    threads, which may report until they end, some for the first time.

    **A fork that another thread than the main one makes** has that thread for its main one.
    Where that returns, raises or calls ``sys.exit``, it ends as threads do: the interpreter
    does not, there are no exit hooks, and daemon threads go on. The system ends the process
    with its last thread, with exit code 0. So ours must end then, or none of this would
    come to its end; the writers are closed first, once the threads have ended that an
    interpreter would wait for.
    """

    def __init__(self) -> None:
        self._local = threading.local()  # of threads that fork
        self._ends_with_thread = False
        self._close: Callable[[], None] | None = None
        self._close_with_thread: Callable[[], None] = nothing
        self._close_worker: Callable[[], None] = nothing
        self._is_worker = False
        self._pipe: tuple[_Descriptor, _Descriptor] | None = None
        self._begun = False

    def hold_back(self) -> None:
        """This thread is about to fork."""
        self._local.is_other = threading.main_thread().ident != threading.get_ident()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self._local.has_held_back = signal.SIGTERM not in before

    def let_go(self) -> None:
        """It has forked, here and in the new process."""
        if getattr(self._local, "has_held_back", False):
            self._local.has_held_back = False
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def enter(
        self,
        *,
        was_guarded: bool,
        close: Callable[[], None],
        close_with_thread: Callable[[], None],
        close_worker: Callable[[], None],
    ) -> None:
        """This process has just been forked.

        Args:
            was_guarded: whether its parent's contexts look after SIGTERM.
            close: ends its writers, since SIGTERM has come.
            close_with_thread: ends them and their threads, since the thread that forked ends.
            close_worker: ends them, since the multiprocessing worker ends that this may become.
        """
        was_guarded |= signal.getsignal(signal.SIGTERM) == self._handle
        if was_guarded:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Of a fork that has forked: a signal here is none there, and its thread is not here.
        read_end = self._stop_watching()
        if read_end is not None:
            read_end.close()
        self._begun = False
        self._close = close if was_guarded else None
        self._close_with_thread = close_with_thread
        self._close_worker = close_worker
        self._is_worker = False
        if util := _multiprocessing():
            util.register_after_fork(self, ForkGuard._worker_begins)
        # The main thread of such a fork is none for the interpreter in its own forks either.
        self._ends_with_thread |= getattr(self._local, "is_other", False)
        if self._ends_with_thread:
            self._local.farewell = _Farewell(self._thread_ends)

    def begin(self) -> None:
        """The fork reports for the first time, or is a worker and may do so from any thread."""
        if self._close is None:
            return
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return
        # A loop has such a descriptor of its own. And it is there if the worker has taken
        # back the handler that it began with.
        if asyncio._get_running_loop() is None and self._pipe is None:
            try:
                self._begin_to_watch()
            except (OSError, RuntimeError) as error:  # out of descriptors or threads
                complain(f"asyncpipes: SIGTERM is not looked after in this fork: {error}")
                return
        signal.signal(signal.SIGTERM, self._handle)

    def _begin_to_watch(self) -> None:
        ends = os.pipe()
        self._pipe = (_Descriptor(ends[0]), _Descriptor(ends[1]))
        os.set_blocking(ends[1], False)
        thread = threading.Thread(
            target=self._watch, args=self._pipe[:1], name="asyncpipes-sigterm", daemon=True
        )
        thread.start()
        signal.set_wakeup_fd(ends[1], warn_on_full_buffer=False)

    def _stop_watching(self) -> _Descriptor | None:
        """End the thread that reads the pipe; returns the end that it closes then."""
        pipe, self._pipe = self._pipe, None
        if pipe is None:
            return None
        read_end, write_end = pipe
        descriptor = signal.set_wakeup_fd(-1)
        if descriptor != write_end.number:
            signal.set_wakeup_fd(descriptor)  # of somebody who came later
        write_end.close()
        return read_end

    def _watch(self, read_end: _Descriptor) -> None:
        try:
            self._read(read_end)
        finally:
            read_end.close()

    def _read(self, read_end: _Descriptor) -> None:
        pause = threading.Event()
        while numbers := read_end.read(4096):
            if signal.SIGTERM not in numbers:
                continue
            main = threading.main_thread().ident
            assert main is not None, "it has started"
            # Not if the worker has a handler of its own by now.
            while not self._begun and signal.getsignal(signal.SIGTERM) == self._handle:
                pause.wait(_NUDGE)
                signal.pthread_kill(main, signal.SIGTERM)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._begun:
            return  # told once more
        self._begun = True
        try:
            if self._close is not None:
                self._close()
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _thread_ends(self) -> None:
        try:
            if not _threads_to_wait_for():
                self._close_with_thread()
                return
        finally:
            self._stop_handling()  # from here on, nobody would run the handler
        # Not here: one of them may be waiting for this one's end.
        in_own_thread(partial(self._close_after_others, self._close_with_thread))(nothing)

    def _stop_handling(self) -> None:
        if signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._stop_watching()

    def _worker_begins(self) -> None:
        if self._is_worker:
            return  # told by each of the processes that it descends from
        self._is_worker = True
        if util := _multiprocessing():
            util.Finalize(None, self._worker_ends, exitpriority=_LAST)
        self.begin()

    def _worker_ends(self) -> None:
        if not _threads_to_wait_for():
            self._close_worker()
            return
        # Not here: some end only when the main thread has gone on to wait for them, as those
        # of an executor. It waits for this one with them.
        try:
            threading.Thread(
                target=self._close_after_others,
                args=(self._close_worker,),
                name="asyncpipes-close",
                daemon=False,
            ).start()
        except RuntimeError as error:  # the system has no more
            complain(f"asyncpipes: this worker's end is not reported: {error}")

    def _close_after_others(self, close: Callable[[], None]) -> None:
        while threads := _threads_to_wait_for():
            threads[0].join()
        close()


guard = ForkGuard()
