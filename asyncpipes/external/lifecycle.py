"""Open contexts, and what becomes of them when the process is told to end.

Module-level state, and all there is of it on this side: the ContextVar with the
current task's context, and the set of open ones for ``PipesContext.get()`` in a
fresh thread and for the interpreter's exit.
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

if TYPE_CHECKING:
    from .context import PipesContext

current: ContextVar[PipesContext | None] = ContextVar("asyncpipes_context", default=None)

_open_contexts: list[PipesContext] = []
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


def _at_exit() -> None:
    """A context that was never left: what it accepted goes out all the same."""
    with _lock:
        leftover = list(_open_contexts)
    for context in leftover:
        context.drain_at_exit()  # does nothing in a fork, whose parent has the same lines


class TerminationGuard:
    """SIGTERM while a context is open: close it properly, then die of SIGTERM.

    Only in the main thread, and only where SIGTERM still has its default action. The
    first one cancels the task that opened the context (in a plain ``with``: raises
    SystemExit there) and restores the default, so a second one ends the process at
    once. After ``closed`` has gone out, :meth:`finish` sends the signal again: the
    exit status stays that of SIGTERM.
    """

    def __init__(self) -> None:
        self.received = False
        self._installed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None

    def install(self) -> None:
        """Take SIGTERM over, if that is ours to do."""
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return
        self._loop = asyncio._get_running_loop()
        if self._loop is not None:
            self._task = asyncio.current_task()
        # Not loop.add_signal_handler: its callback waits for the loop, and the second
        # SIGTERM must work while the loop is blocked.
        signal.signal(signal.SIGTERM, self._handle)
        self._installed = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        self._restore()
        if self._loop is None or self._task is None or self._task.done():
            raise SystemExit(128 + number)
        self._loop.call_soon_threadsafe(self._task.cancel, "SIGTERM")

    def finish(self) -> None:
        """Give SIGTERM back; if it has come, die of it now."""
        self._restore()
        if self.received:
            _at_exit()  # contexts of other tasks, that nothing will close any more
            os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        if self._installed:
            self._installed = False
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
