"""Sessions by the dozen: nothing mixes, nothing is left; and what the statistics count."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncpipes import CustomMessageEvent, Event, LogEvent, open_pipes_session, run
from tests.support_host import Gate, join_all_but, raw_child, script, until


async def test_fifty_sessions_at_once(any_loop: None) -> None:
    async def one(number: int) -> Any:
        seen: list[Event] = []
        result = await run(
            raw_child(f"opened(); custom(context()['extras']['n']); closed(); print({number})"),
            extras={"n": number},
            subscribers=[(seen.append, CustomMessageEvent)],
            forward_stdio="events",
        )
        assert result.outcome.ok
        assert list(result.custom_messages) == seen
        return result.custom_messages[0].payload

    assert await asyncio.gather(*map(one, range(50))) == list(range(50))


@pytest.mark.parametrize("new_loop", ["asyncio", "uvloop"])
def test_fifty_sessions_leave_no_task_no_descriptor_and_no_thread(new_loop: str) -> None:
    async def rounds() -> None:
        child = raw_child("opened(); custom(1, 2, 3); closed(); print('x')")
        await _one(child)
        await _settled()
        tasks, descriptors = asyncio.all_tasks(), _descriptors()
        threads = threading.active_count()
        for _ in range(5):
            await asyncio.gather(*[_one(child) for _ in range(10)])
        gc.collect()
        await until(lambda: asyncio.all_tasks() == tasks, "no task is left")
        await until(lambda: len(_descriptors()) <= len(descriptors), "no descriptor is left")
        # What is there are idle workers of pools, which do not grow with the sessions.
        assert threading.active_count() <= threads + 50

    before = set(threading.enumerate())
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if new_loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    loop = factory()
    try:
        loop.run_until_complete(rounds())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    # anyio's workers are told to go when the task that the loop ran has ended.
    join_all_but(before)


async def _one(child: list[str]) -> None:
    async with open_pipes_session(forward_stdio="events") as session:
        session.subscribe(lambda event: None, in_thread=True)
        events = session.events()
        await session.launch(child)
        async for _ in events:
            break
    assert session.outcome.ok


async def _settled() -> None:
    gc.collect()
    await until(lambda: len(asyncio.all_tasks()) == 1, "only the test is left")


def _descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")


async def test_the_statistics_while_it_runs(any_loop: None, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    release = asyncio.Event()

    async def slow(event: Event) -> None:
        await release.wait()

    body = f"opened(); log('x'); custom(1); wait_for({gate.path!r}); closed()"
    async with open_pipes_session() as session:
        assert session.stats.events == 0
        subscription = session.subscribe(slow)
        session.subscribe(lambda event: None, LogEvent)
        assert session.health.state == "waiting"
        await session.launch(raw_child(body))
        await until(lambda: session.stats.events == 3, "three events were received")
        assert session.health.state == "open"
        assert session.stats.queue_depths[subscription.name] == 3
        size = session.stats.bytes
        assert size > 200
        assert session.stats.lag is None
        await gate.open()
        await session.wait_drained()
        assert session.stats.queue_depths[subscription.name] == 4
        release.set()
    stats = session.result.stats
    assert stats == session.stats
    assert stats.events == 4
    assert stats.bytes > size
    assert set(stats.queue_depths.values()) == {0}
    assert set(stats.drops.values()) == {0}


async def test_the_lag_of_our_own_scripts(tmp_path: Path) -> None:
    source = """
        from asyncpipes import open_pipes
        with open_pipes() as pipes:
            pipes.log.info("x")
    """
    result = await run(script(tmp_path, source))
    assert result.stats.lag is not None
    assert 0 <= result.stats.lag < 60
