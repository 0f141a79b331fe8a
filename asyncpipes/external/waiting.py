"""All waiting of the external side: for the outbox, and by it.

The outbox tells that something is done by a callback, from whatever thread did
it; a caller turns that into blocking, or into a future while the loop goes on.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .outbox import Outbox

#: Transient faults of a channel are tried again for this long, in seconds, before the
#: channel counts as failed. A full disk is often cleared within seconds; a script
#: that can report nothing should not wait for it much longer.
RETRY_SECONDS = 10.0
_FIRST_RETRY = 0.05
_LONGEST_RETRY = 1.0

#: The loop's thread gives way at an ``await`` after this long without having done so,
#: in seconds: half of the 2 ms that may lie between two turns of the loop, since the
#: caller spends as much again between its awaits.
_YIELD_AFTER = 0.001

T = TypeVar("T")

#: Takes a callback and calls it once, perhaps at once, perhaps from another thread.
Subscribe = Callable[[Callable[[], None]], None]


class Done:
    """An awaitable that is done: it does not even give the loop a turn."""

    def __await__(self) -> Generator[object, None, None]:
        return
        yield


def nothing() -> None:
    """A callback for what nobody waits for."""


def block(subscribe: Subscribe, timeout: float | None = None) -> bool:
    """Block this thread until the callback comes; False if it did not in time."""
    # Not an Event: a signal's handler that waits for whoever calls back might have come
    # while this thread held its lock.
    done: SimpleQueue[None] = SimpleQueue()
    subscribe(partial(done.put, None))
    try:
        done.get(timeout=timeout)
    except Empty:
        return False
    return True


def loop_future(subscribe: Subscribe) -> asyncio.Future[None]:
    """A future of the running loop that the callback resolves, from any thread."""
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
    return future


async def uncancelled(
    future: asyncio.Future[T], timeout: float | None = None
) -> asyncio.CancelledError | None:
    """Wait for ``future`` whatever cancellation comes; return the cancellation, if one did."""
    deadline = None if timeout is None else time.monotonic() + timeout
    cancelled: asyncio.CancelledError | None = None
    with _anyio_shield():
        while not future.done():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            try:
                await asyncio.wait([future], timeout=left)
            except asyncio.CancelledError as error:
                cancelled = error
    return cancelled


def _anyio_shield() -> AbstractContextManager[object]:
    """Keep off the cancel scopes of a script that uses anyio.

    They cancel a task again at every turn of the loop: waiting would be spinning.
    """
    anyio: Any = sys.modules.get("anyio")  # the external side itself does without it
    # An import that is under way has put an empty module there.
    scope = getattr(anyio, "CancelScope", None)
    return nullcontext() if scope is None else scope(shield=True)


def in_own_thread(function: Callable[[], None]) -> Subscribe:
    """Run ``function``, which must not raise, in a new thread: the loop's may all be busy."""

    def subscribe(done: Callable[[], None]) -> None:
        def run() -> None:
            try:
                function()
            finally:
                done()

        try:
            threading.Thread(target=run, name="asyncpipes-close", daemon=True).start()
        except RuntimeError:  # the interpreter is shutting down, or the system has no more
            run()

    return subscribe


async def in_thread(function: Callable[[], None]) -> asyncio.CancelledError | None:
    """Run ``function`` in a worker thread to its end; return a cancellation that came.

    Where ``function`` raises, that goes on, and the cancellation is asked for anew.
    """
    future = asyncio.get_running_loop().run_in_executor(None, function)
    cancelled = await uncancelled(future)
    error = future.exception()
    if error is not None:
        if cancelled is not None:
            cancel_again(cancelled)
        raise error
    return cancelled


def cancel_again(cancelled: asyncio.CancelledError) -> None:
    """Ask anew for a cancellation that was held back: it comes at the task's next await.

    Not for one of an anyio scope, which asks by itself, for as long as the task is in
    the scope: nobody would own a request that came after that.
    """
    if _is_of_anyio(cancelled):
        return
    task = asyncio.current_task()
    assert task is not None, "only a task is cancelled"
    if hasattr(task, "uncancel"):  # Python 3.11: the request is counted already
        task.uncancel()
    task.cancel(*cancelled.args)


def _is_of_anyio(cancelled: asyncio.CancelledError) -> bool:
    # anyio knows its own by the message too: "by" up to 4.8 at least, later "via".
    message = cancelled.args[0] if cancelled.args else None
    return isinstance(message, str) and message.startswith(
        ("Cancelled by cancel scope ", "Cancelled via cancel scope ")
    )


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
            yield from loop_future(outbox.on_room).__await__()
        elif time.monotonic() >= self._next_yield:
            yield None  # a bare turn of the loop, as asyncio.sleep(0) gives
        else:
            return
        self._next_yield = time.monotonic() + _YIELD_AFTER


class Retry:
    """How long to wait between tries after a transient fault, and when to give up."""

    def __init__(self) -> None:
        self._deadline: float | None = None
        self._delay = _FIRST_RETRY

    def succeeded(self) -> None:
        """A write went through: the next fault is a new one."""
        self._deadline = None

    def wait(self) -> bool:
        """Sleep until the next try; False when it is time to give up."""
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + RETRY_SECONDS
            self._delay = _FIRST_RETRY
        if now >= self._deadline:
            return False
        time.sleep(self._delay)
        self._delay = min(self._delay * 2, _LONGEST_RETRY)
        return True
