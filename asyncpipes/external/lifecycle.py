"""Open contexts, and what becomes of them when the process is told to end.

Module-level state, and all there is of it on this side: the ContextVar with the
current task's context; the open contexts, for ``PipesContext.get()`` in a fresh
thread and for the interpreter's exit; the descriptors that they capture; and the
guard that closes them on SIGTERM. One lock is for all of it.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import threading
from contextvars import ContextVar
from types import FrameType
from typing import TYPE_CHECKING

from ..errors import AmbiguousContextError, NotOpenError
from . import forking

if TYPE_CHECKING:
    from .connection import PipesContext

current: ContextVar[PipesContext | None] = ContextVar("asyncpipes_context", default=None)

_open_contexts: list[PipesContext] = []
_captured_descriptors: set[int] = set()
# Reentrant: the garbage collector may run code that logs in a thread that holds it.
_lock = threading.RLock()
_exit_hook_installed = False


def register(context: PipesContext) -> None:
    """Note that ``context`` is open."""
    global _exit_hook_installed
    with _lock:
        _open_contexts.append(context)
        if not _exit_hook_installed:
            atexit.register(_at_exit)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(
                    before=forking.guard.hold_back,
                    after_in_parent=forking.guard.let_go,
                    after_in_child=_after_fork,
                )
            _exit_hook_installed = True


def unregister(context: PipesContext) -> None:
    """Note that ``context`` is closed."""
    with _lock:
        if context in _open_contexts:
            _open_contexts.remove(context)


def find() -> PipesContext:
    """The current task's context, or else the one that is open.

    Raises:
        NotOpenError: none is open.
        AmbiguousContextError: several are, and none belongs to this task or thread.
    """
    mine = current.get()
    if mine is not None and not mine.is_closed:
        return mine
    with _lock:
        candidates = list(_open_contexts)
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise AmbiguousContextError(
            f"{len(candidates)} pipes contexts are open and none belongs to this thread or task:"
            " pass the context on as an argument, or start the thread with"
            " contextvars.copy_context().run"
        )
    raise NotOpenError(
        "no pipes context is open: call open_pipes() with `with` or `async with` first"
    )


def is_any_open() -> bool:
    """Whether :func:`find` would find one."""
    try:
        find()
    except (NotOpenError, AmbiguousContextError):
        return False
    return True


def claim_descriptor(number: int) -> bool:
    """Note that a descriptor is captured; False if it is already."""
    with _lock:
        free = number not in _captured_descriptors
        _captured_descriptors.add(number)
        return free


def release_descriptor(number: int) -> None:
    """Note that a descriptor is captured no more."""
    with _lock:
        _captured_descriptors.discard(number)


def _at_exit() -> None:
    """A context that was never left: what it accepted goes out all the same."""
    with _lock:
        leftover = list(_open_contexts)
    for context in leftover:
        context.drain_at_exit()


def _after_fork() -> None:
    """This process is a fork, and has one thread: whoever held the lock is gone."""
    global _lock
    _lock = threading.RLock()
    try:
        forking.guard.enter(
            was_guarded=guard.leave_to_fork(),
            close=_end_by_signal,
            close_with_thread=_end_with_thread,
            close_worker=_end_worker,
        )
        for context in _open_contexts.copy():
            context.follow_fork()
    finally:
        forking.guard.let_go()


def _end_by_signal() -> None:
    for context in _open_contexts.copy():
        context.end_by_signal()


def _end_with_thread() -> None:
    for context in _open_contexts.copy():
        context.end_with_thread()


def _end_worker() -> None:
    for context in _open_contexts.copy():
        context.close_fork()


class Termination:
    """What the guard knows of one context. Made in the task that opens it."""

    def __init__(self, context: PipesContext) -> None:
        self._context = context
        #: Whether SIGTERM came while the context was open.
        self.received = False
        self._loop = asyncio._get_running_loop()
        self._task = None if self._loop is None else asyncio.current_task()

    def cancel(self, already: set[asyncio.Task[object]]) -> bool:
        """Cancel the opening task, once for all its contexts; False if there is none.

        A context that is being left goes on with that: it is done in a moment.
        """
        if self._context.is_closed:
            return True
        if self._loop is None or self._task is None:
            return False
        if self._task.done() or self._loop.is_closed():
            return False
        if self._task not in already:
            already.add(self._task)
            self._loop.call_soon_threadsafe(self._task.cancel, "SIGTERM")
        return True


class TerminationGuard:
    """SIGTERM while contexts are open: close them properly, then die of SIGTERM.

    Only in the main thread, and only where SIGTERM has its default action. The first
    one cancels every task that opened a context (for a plain ``with``: raises
    SystemExit in the main thread); a second one ends the process at once. When the
    last of these contexts is closed, the signal is sent again: the exit status stays
    that of SIGTERM.

    A forked process has no part in it, see ``forking``.
    """

    def __init__(self) -> None:
        self._members: list[Termination] = []
        self._received = False
        self._pid = 0

    def join(self, context: PipesContext) -> Termination | None:
        """Look after a context that opens here; None if that is not ours to do."""
        if threading.current_thread() is not threading.main_thread():
            return None
        with _lock:
            if self._pid != os.getpid():  # a fork has no part in its parent's contexts
                self._pid, self._members, self._received = os.getpid(), [], False
            if self._received:
                return None  # the process is ending, and the next signal is to end it at once
            action = signal.getsignal(signal.SIGTERM)
            if action is not signal.SIG_DFL and action != self._handle:
                return None
            member = Termination(context)
            self._members.append(member)
        if action is signal.SIG_DFL:
            # Not loop.add_signal_handler: its callback waits for the loop, and the
            # second SIGTERM must work while the loop is blocked.
            signal.signal(signal.SIGTERM, self._handle)
        return member

    def leave(self, member: Termination) -> None:
        """The context is closed: after the last one give SIGTERM back, or die of it."""
        with _lock:
            if member not in self._members:  # a fork leaves its parent's context
                return
            self._members.remove(member)
            if self._members or self._pid != os.getpid():
                return
            received, self._received = self._received, False
        self._give_back()
        if received:
            _at_exit()  # contexts that the guard did not look after
            os.kill(os.getpid(), signal.SIGTERM)

    def leave_to_fork(self) -> bool:
        """Called in a fork: give SIGTERM back there; return whether it was looked after."""
        guarded = signal.getsignal(signal.SIGTERM) == self._handle
        if guarded:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return guarded

    def _handle(self, number: int, frame: FrameType | None) -> None:
        with _lock:
            members = list(self._members) if self._pid == os.getpid() else []
            first, self._received = not self._received, bool(members)
        if not members or not first:
            # Called by way of a handler of the user's, or left behind by a context that
            # was closed in another thread, where no handler can be set.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._give_back()  # so the second one works even while no Python code runs
        tasks: set[asyncio.Task[object]] = set()
        without_task = False
        for member in members:
            member.received = True
            without_task |= not member.cancel(tasks)
        if without_task:
            raise SystemExit(128 + number)

    def _give_back(self) -> None:
        """Restore the default, unless somebody has set another handler meanwhile."""
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) == self._handle
        ):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


guard = TerminationGuard()
