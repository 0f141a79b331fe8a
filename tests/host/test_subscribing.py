"""subscribe(): filters, kinds of callbacks, their errors, and full queues."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asyncpipes import (
    ClosedEvent,
    CustomMessageEvent,
    Event,
    InvalidParameterError,
    LogEvent,
    NotOpenError,
    OpenedEvent,
    SubscriberError,
    open_pipes_session,
    run,
)
from asyncpipes.host.hub import Hub
from asyncpipes.host.subscription import MAX_BYTES, CallbackSubscription
from tests.support_host import Gate, raw_child, until

LOGS = """
opened()
for level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
    log("x", level)
custom(1)
closed()
"""
MANY = "opened(); [custom(*range(n, n + 100)) for n in range(0, 10_000, 100)]; closed()"


class AsyncCallable:
    def __init__(self) -> None:
        self.seen: list[Event] = []

    async def __call__(self, event: Event) -> None:
        await asyncio.sleep(0)
        self.seen.append(event)


async def test_types_and_levels() -> None:
    seen: dict[str, list[Event]] = {name: [] for name in ("all", "logs", "errors", "mixed", "root")}
    async with open_pipes_session() as session:
        session.subscribe(seen["all"].append)
        session.subscribe(seen["root"].append, Event)
        session.subscribe(seen["logs"].append, LogEvent)
        session.subscribe(seen["errors"].append, LogEvent, min_level="ERROR")
        session.subscribe(seen["mixed"].append, min_level="CRITICAL")
        await session.launch(raw_child(LOGS))
    assert [type(event) for event in seen["all"]] == [
        OpenedEvent,
        *5 * [LogEvent],
        CustomMessageEvent,
        ClosedEvent,
    ]
    assert seen["root"] == seen["all"]
    assert seen["logs"] == seen["all"][1:6]
    assert seen["errors"] == seen["all"][4:6]
    # A level says something about logs only.
    assert seen["mixed"] == [seen["all"][i] for i in (0, 5, 6, 7)]


async def test_sync_async_and_threaded_callbacks_get_all_in_order(any_loop: None) -> None:
    seen: list[Event] = []
    threaded: list[Event] = []
    threads = set()
    object_with_call = AsyncCallable()

    async def store(event: Event) -> None:
        await asyncio.sleep(0)
        seen.append(event)

    def in_thread(event: Event) -> None:
        threads.add(threading.current_thread())
        threaded.append(event)

    async with open_pipes_session(collect="all") as session:
        subscriptions = [
            session.subscribe(store),
            session.subscribe(object_with_call),
            session.subscribe(in_thread, in_thread=True),
        ]
        await session.launch(raw_child(MANY))
    assert list(session.result.events) == seen == threaded == object_with_call.seen
    assert len(seen) == 10_002
    assert threading.main_thread() not in threads
    assert [s.delivered for s in subscriptions] == 3 * [10_002]
    assert [s.depth for s in subscriptions] == [0, 0, 0]


class Outside(BaseException):
    """As pytest's own ``fail`` and ``skip`` raise: no Exception."""


@pytest.mark.parametrize("boom", [ValueError("boom"), Outside("boom")])
async def test_a_raising_subscriber_is_stopped_and_the_others_go_on(
    boom: BaseException, any_loop: None
) -> None:
    seen: list[Event] = []
    calls = []

    def broken(event: Event) -> None:
        calls.append(event)
        raise boom

    session = open_pipes_session()
    with pytest.raises(SubscriberError, match=r"broken raised \w+\('boom'\)") as info:
        async with session:
            subscription = session.subscribe(broken, CustomMessageEvent)
            session.subscribe(seen.append)
            await session.launch(raw_child(MANY))
    assert info.value.__cause__ is boom
    assert subscription.error is boom
    assert len(calls) == 1
    assert len(seen) == 10_002
    # Exactly: the event it raised at, and all that came after it.
    assert session.outcome.undelivered == 10_000
    assert session.result.subscriber_failed
    assert info.value.result is session.result


@pytest.mark.parametrize("how", ["async", "in_thread"])
async def test_async_and_threaded_subscribers_that_raise_are_named_too(how: str) -> None:
    async def broken_async(event: Event) -> None:
        raise ValueError("boom")

    def broken_in_thread(event: Event) -> None:
        raise ValueError("boom")

    with pytest.raises(SubscriberError, match="broken") as info:
        async with open_pipes_session() as session:
            if how == "async":
                session.subscribe(broken_async)
            else:
                session.subscribe(broken_in_thread, in_thread=True)
            await session.launch(raw_child(LOGS))
    assert isinstance(info.value.__cause__, ValueError)
    assert info.value.result.outcome.undelivered == 8


async def test_a_raising_subscriber_that_is_full_lets_the_reader_go(any_loop: None) -> None:
    release = asyncio.Event()

    async def broken(event: Event) -> None:
        await release.wait()
        raise ValueError("boom")

    with pytest.raises(SubscriberError):
        async with open_pipes_session(collect="all") as session:
            session.subscribe(broken, max_events=1)
            await session.launch(raw_child(MANY))
            await until(lambda: session.health.held_by != (), "the subscriber is full")
            release.set()
    assert len(session.result.events) == 10_002


async def test_a_subscriber_that_awaits_something_cancelled_has_failed(any_loop: None) -> None:
    async def await_something_cancelled(event: Event) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with pytest.raises(SubscriberError, match="await_something_cancelled") as info:
        async with open_pipes_session() as session:
            session.subscribe(await_something_cancelled, max_events=1)
            await session.launch(raw_child(MANY))
    assert isinstance(info.value.__cause__, asyncio.CancelledError)


async def test_wait_pauses_the_reading_and_loses_nothing(any_loop: None) -> None:
    holds_some, release = asyncio.Event(), asyncio.Event()
    slow: list[Event] = []
    quick: list[Event] = []

    async def hold(event: Event) -> None:
        holds_some.set()
        await release.wait()
        slow.append(event)

    async with open_pipes_session() as session:
        subscription = session.subscribe(hold, max_events=100)
        session.subscribe(quick.append)
        process = await session.launch(raw_child(MANY))
        await process.wait()
        # It takes no more from then on: before that, its queue may be full for a turn.
        await holds_some.wait()
        await until(lambda: session.health.held_by != (), "the subscriber is full")
        (name,) = session.health.held_by
        assert name.endswith("hold")
        held = session.stats
        # The others have got all that was read; what waits is bounded by that.
        await until(lambda: len(quick) == held.events, "the other one is not held up")
        assert 100 < subscription.depth <= held.events <= 100 + 2 * 65536 // 80
        # But for what had waited for the other one.
        assert replace(session.stats, queue_depths=held.queue_depths) == held
        assert sorted(session.stats.queue_depths.values()) == [0, subscription.depth]
        release.set()
    assert len(slow) == len(quick) == 10_002
    assert session.outcome.ok


@pytest.mark.parametrize(
    ("policy", "kept"),
    [("drop_oldest", range(9_990, 10_000)), ("drop_newest", range(10))],
)
async def test_dropping_counts_exactly_and_holds_nobody_up(
    any_loop: None, tmp_path: Path, policy: Any, kept: range
) -> None:
    gate = Gate(tmp_path)
    holds_one, release = asyncio.Event(), asyncio.Event()
    received: list[Any] = []
    everything: list[Event] = []

    async def slow(event: CustomMessageEvent) -> None:
        holds_one.set()
        await release.wait()
        received.append(event.payload)

    body = f"opened(); custom('first'); wait_for({gate.path!r}); {MANY.partition(';')[2]}"
    async with open_pipes_session() as session:
        subscription = session.subscribe(slow, CustomMessageEvent, overflow=policy, max_events=10)
        session.subscribe(everything.append, CustomMessageEvent)
        await session.launch(raw_child(body))
        await holds_one.wait()
        await gate.open()
        await session.wait_drained()
        assert session.health.held_by == ()
        assert (subscription.depth, subscription.dropped) == (11, 9_990)
        assert 9_990 in session.stats.drops.values()
        release.set()
    assert received == ["first", *kept]
    assert subscription.delivered == 11
    assert len(everything) == 10_001
    # What a subscriber chose not to get is no fault of the run.
    assert session.outcome.ok


def test_a_queue_is_bounded_by_bytes_too() -> None:
    events = [CustomMessageEvent(number) for number in range(5)]
    sizes = 5 * [MAX_BYTES // 2]
    waits, oldest, newest = (
        CallbackSubscription(print, overflow=policy)
        for policy in ("wait", "drop_oldest", "drop_newest")
    )
    for subscription in (waits, oldest, newest):
        subscription.offer(events, sizes)
    assert (waits.is_full, waits.depth) == (True, 5)
    assert (oldest.depth, oldest.dropped) == (2, 3)
    assert (newest.depth, newest.dropped) == (2, 3)
    # One event is kept whatever its size.
    oldest.offer(events[:1], [10 * MAX_BYTES])
    assert (oldest.depth, oldest.dropped) == (1, 5)


async def test_publishing_to_a_full_queue_waits_until_it_is_half_empty() -> None:
    hub = Hub()
    subscription = CallbackSubscription(print, max_events=10)
    hub.add(subscription)
    events: list[Event] = [CustomMessageEvent(number) for number in range(11)]
    publishing = asyncio.ensure_future(hub.publish(events, 11 * [1]))
    await asyncio.sleep(0)
    assert len(await subscription.take(5)) == 5
    await asyncio.sleep(0)
    assert not publishing.done()
    assert len(await subscription.take(1)) == 1
    await publishing
    assert subscription.depth == 5


async def test_a_subscriber_may_stop_itself(any_loop: None) -> None:
    seen = []

    def once(event: Event) -> None:
        seen.append(event)
        subscription.detach()

    async with open_pipes_session() as session:
        subscription = session.subscribe(once)
        await session.launch(raw_child(MANY))
    assert len(seen) == 1
    assert subscription.delivered == 1
    assert (session.outcome.ok, session.outcome.undelivered) == (True, 0)


async def test_a_subscriber_of_a_running_session_gets_what_comes_from_then_on(
    tmp_path: Path,
) -> None:
    gate = Gate(tmp_path)
    late: list[Any] = []
    async with open_pipes_session() as session:
        events = session.events(CustomMessageEvent)
        await session.launch(
            raw_child(f"opened(); custom(1); wait_for({gate.path!r}); custom(2); closed()")
        )
        await events.__anext__()
        session.subscribe(late.append, CustomMessageEvent)
        await gate.open()
    assert [event.payload for event in late] == [2]


async def test_a_slow_callback_does_not_keep_the_loop_from_others(any_loop: None) -> None:
    # 256 events are taken at once; a turn of the loop must come between them.
    turns = 0
    turns_seen = []

    def count() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(count)

    def busy(event: Event) -> None:
        turns_seen.append(turns)
        end = time.perf_counter() + 0.002  # longer than the loop may be held
        while time.perf_counter() < end:
            pass

    async with open_pipes_session() as session:
        session.subscribe(busy, CustomMessageEvent)
        count()
        await session.launch(raw_child("opened(); custom(*range(50)); closed()"))
    assert len(set(turns_seen)) > 25


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([print, LogEvent, int], {}, "expected event types such as LogEvent, got <class 'int'>"),
        ([print, "LogEvent"], {}, "expected event types"),
        ([None], {}, "`callback` must be callable, got None"),
        ([print], {"min_level": "LOUD"}, "`min_level` must be one of DEBUG, INFO"),
        ([print], {"min_level": 20}, "`min_level` must be one of"),
        ([print], {"overflow": "explode"}, "`overflow` must be one of wait, drop_oldest"),
        ([print], {"max_events": 0}, "`max_events` must be an int of 1 or more, got 0"),
        ([print], {"max_events": "many"}, "`max_events` must be an int"),
        ([asyncio.sleep], {"in_thread": True}, "sleep is a coroutine function"),
        ([AsyncCallable()], {"in_thread": True}, "is a coroutine function"),
    ],
)
async def test_wrong_options_are_named(
    arguments: list[Any], options: dict[str, Any], message: str
) -> None:
    async with open_pipes_session(strict=False) as session:
        with pytest.raises(InvalidParameterError, match=message):
            session.subscribe(*arguments, **options)
        assert session.stats.queue_depths == {}


async def test_a_threaded_callback_that_returns_a_coroutine_has_failed() -> None:
    coroutines = []

    def returns_coroutine(event: Event) -> Any:
        coroutine = asyncio.sleep(0)
        coroutines.append(coroutine)
        return coroutine

    with pytest.raises(SubscriberError, match="returned an awaitable"):
        async with open_pipes_session() as session:
            session.subscribe(returns_coroutine, in_thread=True)
            await session.launch(raw_child(LOGS))
    for coroutine in coroutines:
        coroutine.close()


async def test_no_subscribing_before_the_session_is_open() -> None:
    with pytest.raises(NotOpenError, match="subscribe: the session is not open yet"):
        open_pipes_session().subscribe(print)


async def test_run_names_a_wrong_subscriber_and_leaves_nothing() -> None:
    with pytest.raises(InvalidParameterError, match="expected event types"):
        await run(raw_child(LOGS), subscribers=[(print, str)])
