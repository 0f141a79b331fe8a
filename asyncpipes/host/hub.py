"""The hub: every event to every subscriber that wants it, through a bounded queue each.

::

                      ┌─ queue ─▶ task ─▶ callback
    reader ─publish()─┼─ queue ─▶ task ─▶ worker thread ─▶ callback
                      └─ queue ─▶ events() iterator

Batches move, not events: the reader publishes what one read gave, a subscriber's
task takes all that waits. A queue is bounded twice, by events and by their bytes on
the wire. At the bound its ``overflow`` policy decides:

=============== =====================================================================
``wait``        lossless: the reader stops until this queue is half empty. The other
                subscribers have got the batch already, and wait no earlier than that
``drop_oldest`` the oldest events of this queue go, and are counted
``drop_newest`` what does not fit goes, and is counted
=============== =====================================================================
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal, get_args

from anyio import CapacityLimiter, to_thread

from ..errors import InvalidParameterError
from ..protocol.events import LEVEL_NUMBERS, Event, Level, LogEvent

Overflow = Literal["wait", "drop_oldest", "drop_newest"]
Callback = Callable[[Any], Any]

DEFAULT_MAX_EVENTS = 10_000
#: The other bound of a queue, in bytes of the wire, since a single event may be MBs.
MAX_BYTES = 16 * 1024 * 1024
#: Pieces of captured output that wait for a subscriber; each is at most 64 KiB, so
#: they come to the same 16 MiB.
MAX_CAPTURED = 256

#: Events that a subscriber takes in hand at once: about a quarter of a millisecond of
#: cheap callbacks.
_SLICE = 256
#: The loop gets a turn at least this often while callbacks run, in seconds, as far as
#: each slice of them allows.
_TURN_AFTER = 0.001


class Subscription:
    """One subscriber and its queue. Returned by ``PipesSession.subscribe``.

    Attributes:
        name: what reasons and statistics call it.
        delivered: events that it has got.
        dropped: events that its policy dropped, and captured output it was too slow for.
        error: what its callback raised; it gets no events after that.
    """

    def __init__(
        self,
        name: str,
        types: Sequence[type[Event]] = (),
        *,
        min_level: Level | None = None,
        overflow: Overflow = "wait",
        max_events: int = DEFAULT_MAX_EVENTS,
    ) -> None:
        self.name = name
        self.delivered = 0
        self.dropped = 0
        self.error: Exception | None = None
        self._types = _concrete(types)
        self._min_level = _level_number(min_level)
        self._overflow = _checked_overflow(overflow)
        if max_events < 1:
            raise InvalidParameterError(f"subscribe: `max_events` must be at least 1: {max_events}")
        self._max_events = max_events
        self._queue: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        # Captured output has no order with the channel's events, and never waits.
        self._captured: deque[Event] = deque(maxlen=MAX_CAPTURED)
        self._in_hand = 0  # taken out of the queue, not through the callback yet
        self._ended = False
        self.detached = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def depth(self) -> int:
        """Events that wait for it, or are in its hands."""
        return len(self._queue) + len(self._captured) + self._in_hand

    @property
    def is_full(self) -> bool:
        """Whether the reader waits for it."""
        return not self._room.is_set()

    def detach(self) -> None:
        """Stop: forget what waits and hold nobody up. Idempotent."""
        self.detached = True
        self._room.set()
        self._changed.set()

    # The publishing side.

    def offer(self, events: Sequence[Event], sizes: Sequence[int]) -> None:
        """Queue those of ``events`` that are wanted; never waits, see :meth:`wait_for_room`."""
        if self.detached or self._ended:
            return
        if self._types is None and not self._min_level:
            self._queue.extend(zip(events, sizes))
            self._bytes += sum(sizes)
        else:
            for event, size in zip(events, sizes):
                if self._wants(event):
                    self._queue.append((event, size))
                    self._bytes += size
        if not self._queue:
            return
        if len(self._queue) > self._max_events or self._bytes > MAX_BYTES:
            self._overflowed()
        self._changed.set()

    def offer_captured(self, event: Event) -> None:
        """Queue a piece of captured output, in place of the oldest one if need be."""
        if self.detached or self._ended or not self._wants(event):
            return
        if len(self._captured) == MAX_CAPTURED:
            self.dropped += 1
        self._captured.append(event)
        self._changed.set()

    async def wait_for_room(self) -> None:
        """Return when the reader need not wait for it. Safe to cancel."""
        await self._room.wait()

    def end(self) -> None:
        """No more events will come."""
        self._ended = True
        self._changed.set()

    def _wants(self, event: Event) -> bool:
        if self._types is not None and type(event) not in self._types:
            return False
        if self._min_level and isinstance(event, LogEvent):
            return event.level_number >= self._min_level
        return True

    def _overflowed(self) -> None:
        if self._overflow == "wait":
            self._room.clear()
            return
        drop = self._queue.popleft if self._overflow == "drop_oldest" else self._queue.pop
        # One event is kept whatever its size: to drop it would lose it for nothing.
        while len(self._queue) > self._max_events or (
            self._bytes > MAX_BYTES and len(self._queue) > 1
        ):
            self._bytes -= drop()[1]
            self.dropped += 1

    # The consuming side.

    async def take(self, at_most: int) -> list[Event]:
        """The next events, at least one; empty at the end. Cancelling it loses nothing."""
        while not self._queue and not self._captured:
            if self._ended or self.detached:
                return []
            self._changed.clear()
            await self._changed.wait()
        if self.detached:
            return []
        events: list[Event] = []
        while self._captured and len(events) < at_most:
            events.append(self._captured.popleft())
        for _ in range(min(at_most - len(events), len(self._queue))):
            event, size = self._queue.popleft()
            self._bytes -= size
            events.append(event)
        if (
            not self._room.is_set()
            and len(self._queue) <= self._max_events // 2
            and self._bytes <= MAX_BYTES // 2
        ):
            self._room.set()
        return events


class CallbackSubscription(Subscription):
    """A subscriber that is a function, sync or async; a task of the session runs it."""

    def __init__(
        self,
        callback: Callback,
        types: Sequence[type[Event]] = (),
        *,
        in_thread: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(_name_of(callback), types, **options)
        self._callback = callback
        self._in_thread = in_thread

    async def run(self) -> None:
        """Hand on events until the end, or until the callback raises; see ``error``."""
        limiter = CapacityLimiter(1) if self._in_thread else None
        turn_at = time.perf_counter() + _TURN_AFTER
        try:
            while events := await self.take(_SLICE):
                self._in_hand = len(events)
                if limiter is not None:
                    # Its own limiter: a slow subscriber must not use up the pool that
                    # file reads run in.
                    await to_thread.run_sync(self._call_all, events, limiter=limiter)
                else:
                    await self._call_each(events)
                if time.perf_counter() >= turn_at:
                    await asyncio.sleep(0)
                    turn_at = time.perf_counter() + _TURN_AFTER
        except Exception as error:  # the subscriber's own: recorded, the others go on
            self.error = error
            self.detach()

    async def _call_each(self, events: list[Event]) -> None:
        callback = self._callback
        for event in events:
            result = callback(event)
            if result is not None and inspect.isawaitable(result):
                await result
            self.delivered += 1
            self._in_hand -= 1

    def _call_all(self, events: list[Event]) -> None:
        for event in events:
            self._callback(event)
            self.delivered += 1
            self._in_hand -= 1


class EventIterator(AsyncIterator[Event]):
    """What ``PipesSession.events()`` returns: events in order, until the session is drained.

    It holds the reader up at its bound, as any subscriber does, until it is left: by
    the end of the session's block, by :meth:`aclose`, or by being let go of.
    """

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._ready: deque[Event] = deque()

    def __aiter__(self) -> EventIterator:
        return self

    async def __anext__(self) -> Event:
        """The next event. Cancelling it loses nothing.

        The loop gets a turn between slices of events, however many wait.
        """
        if not self._ready:
            await asyncio.sleep(0)
            self._ready.extend(await self._subscription.take(_SLICE))
            if not self._ready:
                raise StopAsyncIteration
        self._subscription.delivered += 1
        return self._ready.popleft()

    async def aclose(self) -> None:
        """Stop listening."""
        self._subscription.detach()

    def __del__(self) -> None:
        self._subscription.detach()


class Hub:
    """All subscribers of a session."""

    def __init__(self) -> None:
        self.subscriptions: list[Subscription] = []
        self._ended = False

    def add(self, subscription: Subscription) -> None:
        """Begin to offer events to it."""
        self.subscriptions.append(subscription)
        if self._ended:
            subscription.end()

    async def publish(self, events: Sequence[Event], sizes: Sequence[int]) -> None:
        """Offer events to all; then wait until nobody who must not lose any is full.

        Cancelling the wait loses nothing: all queues have the events by then.
        """
        for subscription in self.subscriptions:
            subscription.offer(events, sizes)
        for subscription in self.holding:
            await subscription.wait_for_room()

    def publish_captured(self, event: Event) -> None:
        """Offer a piece of captured output. Never waits."""
        for subscription in self.subscriptions:
            subscription.offer_captured(event)

    @property
    def holding(self) -> list[Subscription]:
        """The subscribers that the reader waits for."""
        return [subscription for subscription in self.subscriptions if subscription.is_full]

    @property
    def failed(self) -> list[Subscription]:
        """The subscribers that raised."""
        return [s for s in self.subscriptions if s.error is not None]

    def end(self) -> None:
        """No more events: each subscriber ends when its queue is empty."""
        self._ended = True
        for subscription in self.subscriptions:
            subscription.end()

    def detach_iterators(self) -> None:
        """The session's block is left: nobody pulls at the iterators any more."""
        for subscription in self.subscriptions:
            if not isinstance(subscription, CallbackSubscription):
                subscription.detach()

    @property
    def undelivered(self) -> int:
        """Events that callbacks should have got, and did not."""
        return sum(
            s.depth for s in self.subscriptions if isinstance(s, CallbackSubscription)
        )


def _name_of(callback: Callback) -> str:
    return getattr(callback, "__qualname__", None) or repr(callback)


def _concrete(types: Sequence[type[Event]]) -> frozenset[type[Event]] | None:
    """The types to let through; None for all of them."""
    for kind in types:
        if not (isinstance(kind, type) and issubclass(kind, Event)):
            raise InvalidParameterError(
                f"subscribe: expected event types such as LogEvent, got {kind!r}"
            )
    return None if not types or Event in types else frozenset(types)


def _level_number(level: str | None) -> int:
    if level is None:
        return 0
    number = LEVEL_NUMBERS.get(level.upper()) if isinstance(level, str) else None
    if number is None:
        raise InvalidParameterError(
            f"subscribe: `min_level` must be one of {', '.join(LEVEL_NUMBERS)}, got {level!r}"
        )
    return number


def _checked_overflow(overflow: Overflow) -> Overflow:
    if overflow not in get_args(Overflow):
        raise InvalidParameterError(
            f"subscribe: `overflow` must be one of {', '.join(get_args(Overflow))}, got"
            f" {overflow!r}"
        )
    return overflow
