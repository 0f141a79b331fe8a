"""How Dagster runs an async asset: the task that it drives, seen from within that task's loop.

Dagster calls ``loop.run_until_complete(generator.__anext__())`` once for each yield, on a loop of
the step's own, and closes the loop's async generators when it is done with the step.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
from collections.abc import AsyncGenerator
from types import AsyncGeneratorType, FrameType
from typing import Any


async def _generator() -> AsyncGenerator[None, None]:
    yield


def _types() -> tuple[type[Any], type[Any]]:
    generator = _generator()
    step, closing = generator.__anext__(), generator.aclose()
    step.close()
    closing.close()
    return type(step), type(closing)


#: Dagster runs an async asset as ``run_until_complete(generator.__anext__())``: the task
#: that it waits for is the one whose coroutine is of this type. The garbage collector has the
#: loop make a task of ``generator.aclose()``.
_STEP, _CLOSING_BY_COLLECTOR = _types()


def driven_task(loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any] | None:
    """The task that Dagster waits for. To be asked while the loop runs.

    Not just any task of such a kind: who merges streams makes tasks of their ``__anext__()``
    too. So it is the one for which ``run_until_complete()`` runs the loop, which that keeps in
    a variable; uvloop has no frame to look at, and there it must be the only one.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_name != "run_until_complete":
        frame = frame.f_back
    waited_for = None if frame is None else frame.f_locals.get("future")
    steps = [t for t in asyncio.all_tasks(loop) if isinstance(t.get_coro(), _STEP)]
    if frame is None and len(steps) == 1:
        return steps[0]
    return next((task for task in steps if task is waited_for), None)


def generator_of(task: asyncio.Task[Any]) -> AsyncGeneratorType[Any, Any] | None:
    """The asset itself. Dagster never closes it.

    It calls ``__anext__()`` while the loop does not run, so that the loop knows nothing of
    the generator (PEP 525: the hooks are looked up at that call).
    """
    return next(filter(inspect.isasyncgen, gc.get_referents(task.get_coro())), None)


def by_collector() -> bool:
    """Whether the garbage collector closes a stream here, so that nobody awaits its end."""
    task = asyncio.current_task()
    return task is not None and isinstance(task.get_coro(), _CLOSING_BY_COLLECTOR)
