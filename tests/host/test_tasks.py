"""asyncpipes.host.tasks: what is kept of tasks, and what becomes of those that never begin."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest
from anyio import create_task_group

from asyncpipes.host.tasks import Tasks


async def test_nothing_is_kept_of_a_task_that_has_ended() -> None:
    coroutines = weakref.WeakSet[Coroutine[Any, Any, None]]()
    begun = 0

    async def count() -> None:
        nonlocal begun
        begun += 1

    def tracked() -> Coroutine[Any, Any, None]:
        coroutine = count()
        coroutines.add(coroutine)
        return coroutine

    async with create_task_group() as group:
        tasks = Tasks(group)
        for _ in range(100):
            tasks.start(tracked, name="test")
        while asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.sleep(0)
        gc.collect()
        assert (begun, len(coroutines)) == (100, 0)
        tasks.close()


async def test_what_never_began_is_let_go_of(recwarn: pytest.WarningsRecorder) -> None:
    began: list[int] = []

    async def begin(number: int) -> None:
        began.append(number)

    async with create_task_group() as group:
        tasks = Tasks(group)
        tasks.start(begin, 1, name="test")
        while not began:
            await asyncio.sleep(0)
        tasks.start(begin, 2, name="test")
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
    tasks.close()
    tasks.close()
    gc.collect()
    assert began == [1]
    assert [str(warning.message) for warning in recwarn] == []
