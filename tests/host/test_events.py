"""events(): live, bounded, and never in anybody's way."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path

import pytest

from asyncpipes import (
    ClosedError,
    ClosedEvent,
    CustomMessageEvent,
    Event,
    LogEvent,
    NotOpenError,
    OpenedEvent,
    open_pipes_session,
)
from tests.support import PATIENCE
from tests.support_host import Gate, asyncio_timeout, raw_child, script, until

THREE = "opened(); custom(1, 2, 3); closed()"
OURS = """
import asyncio
from asyncpipes import open_pipes

async def main():
    async with open_pipes() as pipes:
        pipes.log.info("before")
        open({gate!r}).read()  # blocks this loop
        pipes.log.info("after")

asyncio.run(main())
"""
STOCK = """
from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    pipes.log.info("before")
    open({gate!r}).read()
    pipes.log.info("after")
"""


@pytest.mark.parametrize("source", [OURS, STOCK], ids=["ours", "stock"])
async def test_a_line_arrives_while_its_script_is_blocked(
    any_loop: None, tmp_path: Path, source: str
) -> None:
    # An order, and no clock: the script goes on only after its line has been received.
    gate = Gate(tmp_path)
    texts = []
    async with open_pipes_session() as session:
        process = await session.launch(script(tmp_path, source.format(gate=gate.path)))
        async for event in session.events(LogEvent):
            texts.append(event.message)  # type: ignore[attr-defined]  # a LogEvent
            if texts == ["before"]:
                assert process.returncode is None
                await gate.open()
    assert texts == ["before", "after"]


async def test_a_subscriber_is_called_while_the_script_is_blocked(
    any_loop: None, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    async with open_pipes_session() as session:
        seen = asyncio.Event()
        session.subscribe(lambda event: seen.set(), LogEvent)
        await session.launch(raw_child(f"opened(); log('x'); wait_for({gate.path!r}); closed()"))
        async with asyncio_timeout(PATIENCE):
            await seen.wait()
        assert session.health.state == "open"
        await gate.open()
    assert session.outcome.ok


async def test_it_is_registered_when_called_and_keeps_what_comes_before_its_first_use(
    any_loop: None,
) -> None:
    async with open_pipes_session() as session:
        events = session.events()
        process = await session.launch(raw_child(THREE))
        await process.wait()
        await session.wait_drained()
        kinds = [type(event) async for event in events]
    assert kinds == [OpenedEvent, *3 * [CustomMessageEvent], ClosedEvent]


async def test_it_takes_types_and_a_level() -> None:
    body = "opened(); log('a', 'DEBUG'); log('b', 'ERROR'); custom(1); closed()"
    async with open_pipes_session() as session:
        errors = session.events(LogEvent, CustomMessageEvent, min_level="WARNING")
        await session.launch(raw_child(body))
        await session.wait_drained()
        kinds = [type(event) async for event in errors]
    assert kinds == [LogEvent, CustomMessageEvent]


async def test_several_iterators_get_all_of_it_each(any_loop: None) -> None:
    async with open_pipes_session() as session:
        first, second = session.events(), session.events()
        await session.launch(raw_child(THREE))
        received = await asyncio.gather(*[_all(first), _all(second)])
    assert received[0] == received[1]
    assert len(received[0]) == 5


async def test_leaving_the_loop_holds_nobody_up(any_loop: None) -> None:
    body = "opened(); [custom(*range(100)) for _ in range(50)]; closed()"
    async with open_pipes_session(collect="all") as session:
        await session.launch(raw_child(body))
        async for event in session.events(max_events=1):
            if isinstance(event, CustomMessageEvent):
                break
        await session.wait_drained()
    assert len(session.result.events) == 5002
    assert session.outcome.ok


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "let go"])
async def test_an_iterator_that_nobody_consumes_does_not_hang_the_exit(
    any_loop: None, keep: bool
) -> None:
    body = "opened(); [custom(*range(100)) for _ in range(50)]; closed()"
    kept = []
    async with open_pipes_session(collect="all") as session:
        events = session.events(max_events=1)
        if keep:
            kept.append(events)
        del events
        process = await session.launch(raw_child(body))
        await process.wait()
    assert len(session.result.events) == 5002
    assert session.outcome.ok
    for events in kept:
        assert [event async for event in events] == []


async def test_it_holds_the_reading_up_at_its_bound_and_health_says_so() -> None:
    body = "opened(); [custom(*range(100)) for _ in range(100)]; closed()"
    async with open_pipes_session() as session:
        events = session.events(max_events=10)
        await session.launch(raw_child(body))
        await until(lambda: session.health.held_by == ("events()",), "the iterator is full")
        # 64 KiB of messages are decoded at once, and these take more than 80 bytes each.
        assert session.stats.queue_depths["events()"] <= 10 + 65536 // 80
        received = await _all(events)
    assert len(received) == 10_002
    assert session.health.held_by == ()


async def test_its_depth_counts_what_it_has_in_hand() -> None:
    async with open_pipes_session() as session:
        events = session.events()
        await session.launch(raw_child(THREE))
        await session.wait_drained()
        assert session.stats.queue_depths["events()"] == 5
        await events.__anext__()
        assert session.stats.queue_depths["events()"] == 4
        assert len([event async for event in events]) == 4
        assert session.stats.queue_depths["events()"] == 0


async def test_cancelling_an_anext_loses_nothing(any_loop: None, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with open_pipes_session() as session:
        events = session.events()
        waiting = asyncio.ensure_future(events.__anext__())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await session.launch(raw_child(f"wait_for({gate.path!r}); {THREE}"))
        await gate.open()
        assert len(await _all(events)) == 5


async def test_after_aclose_it_is_over_and_holds_nobody_up() -> None:
    async with open_pipes_session() as session:
        events = session.events()
        await events.aclose()
        await session.launch(raw_child(THREE))
        await session.wait_drained()
        assert await _all(events) == []


async def test_an_iterator_may_be_collected_in_another_thread() -> None:
    # A cycle is collected by whichever thread happens to allocate; the reader that waits
    # for room is woken all the same.
    body = "opened(); [custom(*range(100)) for _ in range(50)]; closed()"
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = 60
    loop.set_debug(True)  # it refuses then what other threads may not do
    async with open_pipes_session() as session:
        cycle: list[object] = [session.events(max_events=1)]
        cycle.append(cycle)
        await session.launch(raw_child(body))
        await until(lambda: session.health.held_by != (), "the iterator is full")
        gc.disable()
        try:
            del cycle
            thread = threading.Thread(target=gc.collect)
            thread.start()
            await asyncio.to_thread(thread.join)
        finally:
            gc.enable()
        async with asyncio_timeout(PATIENCE):
            await session.wait_drained()
    assert session.outcome.ok


async def test_no_events_before_the_session_is_open_or_after_it_is_over() -> None:
    session = open_pipes_session()
    with pytest.raises(NotOpenError, match="events"):
        session.events()
    async with session:
        await session.launch(raw_child(THREE))
    with pytest.raises(ClosedError, match="events"):
        session.events()


async def _all(events: object) -> list[Event]:
    return [event async for event in events]  # type: ignore[attr-defined]  # an iterator
