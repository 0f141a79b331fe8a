"""A subscriber and its queue.

A queue is bounded twice, by events and by their bytes on the wire. Above the bound its
``overflow`` policy decides:

=============== =====================================================================
``wait``        lossless: the reader stops until this queue is half empty; what it had
                published by then is kept, so the queue may be over its bound by that.
                The other subscribers have got the same, and wait no earlier
``drop_oldest`` the oldest events of this queue go, and are counted
``drop_newest`` what does not fit goes, and is counted
=============== =====================================================================
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal, get_args

from anyio import CancelScope, CapacityLimiter, current_effective_deadline, to_thread

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

#: Events that a subscriber takes in hand at once.
_SLICE = 256
#: The loop gets a turn at least this often while callbacks run, in seconds, as far as
#: each of them allows.
_TURN_AFTER = 0.001


class Subscription:
    """One subscriber and its queue. Returned by ``PipesSession.subscribe``.

    It belongs to the session's event loop, and its counts are those of events. They are final
    once the session is over.

    Attributes:
        name: what reasons and statistics call it.
        delivered: events that it has got.
        dropped: events that its policy dropped, and captured output it was too slow for.
        undelivered: events that it should have got and did not, because its callback
            raised (the event it raised at is one of them), or because it was too slow
            when the run was stopped.
        error: what its callback raised; it gets no events after that.
        detached: it gets no more events: :meth:`detach` was called, its callback raised, or it
            was too slow when the run was stopped.
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
        self.undelivered = 0
        self.error: BaseException | None = None
        self._types = _concrete(types)
        self._min_level = _level_number(min_level)
        self._overflow = _checked_overflow(overflow)
        self._max_events = _checked_bound(max_events)
        self._queue: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        # Captured output has no order with the channel's events, and never waits.
        self._captured: deque[Event] = deque(maxlen=MAX_CAPTURED)
        self._in_hand = 0  # taken out of the queue, not through the callback yet
        self._ended = False
        self.detached = False
        self._is_cut_off = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def depth(self) -> int:
        """Events that wait for it, or are in its hands."""
        if self.detached:
            return 0
        return len(self._queue) + len(self._captured) + self._in_hand

    @property
    def is_full(self) -> bool:
        """Whether the reader waits for it, until half of its queue is done (``"wait"`` alone)."""
        return not self._room.is_set()

    def detach(self) -> None:
        """Stop: forget what waits and hold nobody up. Idempotent, and returns at once.

        An event that its callback is at work on is seen through. What is forgotten counts
        neither as dropped nor as undelivered.
        """
        self.detached = True
        self._queue.clear()
        self._captured.clear()
        self._bytes = 0
        self._room.set()
        self._changed.set()

    def cut_off(self) -> None:
        """Stop against its will: what it has not got counts as undelivered. Idempotent."""
        if not self.detached:
            self._is_cut_off = True
            self.undelivered += self.depth
            self.detach()

    # The publishing side.

    def offer(self, events: Sequence[Event], sizes: Sequence[int]) -> None:
        """Queue those of ``events`` that are wanted; never waits, see :meth:`wait_for_room`."""
        if self.detached or self._ended:
            if self._is_cut_off:
                self.undelivered += sum(map(self._wants, events))
            return
        if self._types is None and not self._min_level:
            self._queue.extend(zip(events, sizes, strict=True))
            self._bytes += sum(sizes)
        else:
            for event, size in zip(events, sizes, strict=True):
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

    def hand_over(self, in_hand: int) -> None:
        """One event of those taken has reached its user; ``in_hand`` are left of them."""
        self.delivered += 1
        self._in_hand = in_hand


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
        _check_callback(callback, in_thread)
        super().__init__(_name_of(callback), types, **options)
        self._callback = callback
        self._in_thread = in_thread
        self._scope: CancelScope | None = None
        self._turn_at = 0.0

    async def run(self) -> None:
        """Hand on events until the end, or until the callback raises; see ``error``."""
        with CancelScope() as self._scope:
            try:
                await self._deliver()
            except (KeyboardInterrupt, SystemExit):
                raise  # meant for the whole program
            except asyncio.CancelledError as error:
                if current_effective_deadline() == -math.inf:
                    raise
                # Nobody cancels this task: it is something that the callback awaited,
                # and to let it pass would end the subscriber in silence.
                self._fail(error)
            except BaseException as error:  # the subscriber's own: recorded, the others go on
                self._fail(error)

    def cut_off(self) -> None:
        super().cut_off()
        if self._scope is not None:
            self._scope.cancel()

    def _fail(self, error: BaseException) -> None:
        self.error = error
        super().cut_off()

    async def _deliver(self) -> None:
        # Its own limiter: a slow subscriber must not use up the pool that file reads
        # run in.
        limiter = CapacityLimiter(1) if self._in_thread else None
        while events := await self.take(_SLICE):
            self._in_hand = len(events)
            if limiter is None:
                await self._call_each(events)
            else:
                # Abandoned when the session may not wait any longer: a callback that
                # never returns keeps its thread, but not the session.
                await to_thread.run_sync(
                    self._call_all, events, abandon_on_cancel=True, limiter=limiter
                )

    async def _call_each(self, events: list[Event]) -> None:
        callback = self._callback
        for event in events:
            result = callback(event)
            if result is not None and inspect.isawaitable(result):
                await result
            if not self._went_through():
                return
            if time.perf_counter() >= self._turn_at:
                await asyncio.sleep(0)
                self._turn_at = time.perf_counter() + _TURN_AFTER

    def _call_all(self, events: list[Event]) -> None:
        for event in events:
            if inspect.isawaitable(self._callback(event)):
                raise InvalidParameterError(
                    f"{self.name} returned an awaitable, and `in_thread` is for plain functions"
                )
            if not self._went_through():
                return

    def _went_through(self) -> bool:
        """An event is through the callback; whether to go on with the next one."""
        if self._is_cut_off:
            return False  # it came too late, and counts as undelivered already
        self.delivered += 1
        self._in_hand -= 1
        return not self.detached


class EventIterator(AsyncIterator[Event]):
    """What ``PipesSession.events()`` returns: events in order, until the session is drained.

    It holds the reader up at its bound, as any subscriber does, until it is left: by
    the end of the session's block, by :meth:`aclose`, or by being let go of. Then it ends, and
    what waited for it is forgotten. Waiting for an event is safe to cancel, and loses nothing.
    One task at a time may wait.
    """

    def __init__(self, subscription: Subscription, loop: asyncio.AbstractEventLoop) -> None:
        self._subscription = subscription
        self._loop = loop
        self._ready: deque[Event] = deque()

    def __aiter__(self) -> EventIterator:
        return self

    async def __anext__(self) -> Event:
        """The next event. Cancelling it loses nothing.

        The loop gets a turn between slices of events, however many wait.
        """
        subscription = self._subscription
        if not self._ready:
            await asyncio.sleep(0)
            self._ready.extend(await subscription.take(_SLICE))
        if not self._ready or subscription.detached:
            self._ready.clear()
            raise StopAsyncIteration
        event = self._ready.popleft()
        subscription.hand_over(len(self._ready))
        return event

    async def aclose(self) -> None:
        """Stop listening: forget what waits and hold nobody up. Idempotent; never waits."""
        self._subscription.detach()

    def __del__(self) -> None:
        # The garbage collector runs in any thread, and detaching wakes a task.
        if self._subscription.detached:
            return
        try:
            self._loop.call_soon_threadsafe(self._subscription.detach)
        except RuntimeError:
            pass  # the loop is closed: nobody waits for it


def _name_of(callback: Callback) -> str:
    return getattr(callback, "__qualname__", None) or repr(callback)


def _concrete(types: Sequence[Any]) -> frozenset[type[Event]] | None:
    """The types to let through; None for all of them."""
    for kind in types:
        if not (isinstance(kind, type) and issubclass(kind, Event)):
            raise InvalidParameterError(
                f"subscribe: expected event types such as LogEvent, got {kind!r}"
            )
    return None if not types or Event in types else frozenset(types)


def _level_number(level: object) -> int:
    if level is None:
        return 0
    number = LEVEL_NUMBERS.get(level.upper()) if isinstance(level, str) else None
    if number is None:
        raise InvalidParameterError(
            f"subscribe: `min_level` must be one of {', '.join(LEVEL_NUMBERS)}, got {level!r}"
        )
    return number


def _checked_overflow(overflow: Overflow) -> Overflow:
    policies = get_args(Overflow)
    if overflow in policies:
        return overflow
    raise InvalidParameterError(
        f"subscribe: `overflow` must be one of {', '.join(policies)}, got {overflow!r}"
    )


def _checked_bound(max_events: object) -> int:
    if not isinstance(max_events, int) or isinstance(max_events, bool) or max_events < 1:
        raise InvalidParameterError(
            f"subscribe: `max_events` must be an int of 1 or more, got {max_events!r}"
        )
    return max_events


def _check_callback(callback: object, in_thread: bool) -> None:
    if not callable(callback):
        raise InvalidParameterError(f"subscribe: `callback` must be callable, got {callback!r}")
    if in_thread and (
        inspect.iscoroutinefunction(callback)
        or inspect.iscoroutinefunction(getattr(callback, "__call__", None))  # noqa: B004
    ):
        raise InvalidParameterError(
            f"subscribe: {_name_of(callback)} is a coroutine function, and `in_thread` is for"
            " plain functions: leave one of them out"
        )
