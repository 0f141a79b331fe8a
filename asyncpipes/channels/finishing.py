"""Seeing a step through whatever cancellation comes.

What a thread creates must be known to who has to remove it. A shut-down of the loop
cancels all tasks at once, and no scope keeps that off: so a step is a thread's future
here, which is no task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def to_its_end(function: Callable[..., T], *args: Any) -> T:
    """Run ``function`` in a worker thread to its end; raise a cancellation afterwards.

    What it returned is lost then: it must leave elsewhere what is to be released.
    """
    try:
        future = asyncio.get_running_loop().run_in_executor(None, function, *args)
    except RuntimeError:
        return without_thread(function, *args)
    cancelled = await outlast(future)
    result = future.result()
    if cancelled is not None:
        raise cancelled
    return result


def without_thread(function: Callable[..., T], *args: Any) -> T:
    """Call it here, where no thread is to be had: the main one has ended.

    Whoever awaits a script in another thread is to see it end all the same.
    """
    return function(*args)


async def outlast(future: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until ``future`` is done; return the last cancellation that came meanwhile."""
    from anyio import CancelScope  # scripts import this package, and do without anyio

    cancelled: asyncio.CancelledError | None = None
    # The scope keeps anyio from asking anew in each turn of the loop; the rest is for a
    # cancellation that does not come from anyio.
    with CancelScope(shield=True):
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
    return cancelled
