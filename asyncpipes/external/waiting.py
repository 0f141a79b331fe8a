"""Waiting for the outbox's thread: by blocking, or with the loop going on.

The outbox tells that something is done by a callback, from whatever thread did
it. Here is what a caller turns that into.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")

#: Takes a callback and calls it once, perhaps at once, perhaps from another thread.
Subscribe = Callable[[Callable[[], None]], None]


class Done:
    """An awaitable that is done: it does not even give the loop a turn."""

    def __await__(self) -> Generator[object, None, None]:
        return
        yield


def block(subscribe: Subscribe, timeout: float | None = None) -> bool:
    """Block this thread until the callback comes; False if it did not in time."""
    done = threading.Event()
    subscribe(done.set)
    return done.wait(timeout)


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
    while not future.done():
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            break
        try:
            await asyncio.wait([future], timeout=left)
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


async def in_thread(function: Callable[[], None]) -> asyncio.CancelledError | None:
    """Run ``function`` in a worker thread to its end; return a cancellation that came."""
    future = asyncio.get_running_loop().run_in_executor(None, function)
    cancelled = await uncancelled(future)
    future.result()
    return cancelled


def cancel_again(cancelled: asyncio.CancelledError) -> None:
    """Ask anew for a cancellation that was held back: it comes at the task's next await."""
    task = asyncio.current_task()
    assert task is not None, "only a task is cancelled"
    if hasattr(task, "uncancel"):  # Python 3.11: the request is counted already
        task.uncancel()
    task.cancel(*cancelled.args)
