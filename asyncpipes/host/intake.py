"""The intake of a session: bytes of the channel in, events to the hub out.

::

    reader ─bytes─▶ decoded in slices, with turns of the loop in between ─events─▶ hub
                    └─▶ what is counted, what is collected, how the writers are doing

It reads when it is told to and as far as it is told to; when to stop is the runner's.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence

import anyio
from anyio import CancelScope

from ..channels.base import ChannelReader
from ..channels.file import INCLUDE_STDIO_KEY
from ..protocol.events import (
    AssetCheckEvent,
    CustomMessageEvent,
    Event,
    ExternalStreamEvent,
    MaterializationEvent,
)
from ..protocol.reading import SessionReader
from ..protocol.state import SessionState
from .hub import Hub
from .liveness import LivenessMonitor
from .process import PipesProcess
from .result import SessionStats
from .settings import Settings

#: How much is decoded before the loop gets a turn, in bytes: about half a
#: millisecond's worth of ordinary messages.
_SLICE_BYTES = 64 * 1024
#: And how many lines, about: those of few bytes, such as garbage, take as long as others.
_SLICE_LINES = 300
_RESULT_TYPES = frozenset({MaterializationEvent, AssetCheckEvent, CustomMessageEvent})


class Intake:
    """Reads a session's channel, and keeps what is asked to be kept.

    Args:
        hub: who gets the events.
        process: tells the process that the session has launched, if it has.

    Attributes:
        monitor: how the writers are doing.
        collected: what the result is made of.
        opened: set once a script has opened its context.
    """

    def __init__(
        self, settings: Settings, hub: Hub, process: Callable[[], PipesProcess | None]
    ) -> None:
        self._hub = hub
        self._collect = settings.collect
        self._protocol = SessionReader()
        self.monitor = LivenessMonitor(self._protocol.state, settings, self.interrupt, process)
        self.collected: list[Event] = []
        self.opened = asyncio.Event()
        self._reader: ChannelReader | None = None
        self._scope: CancelScope | None = None
        self._bytes = 0
        self._events = 0
        self._lag: float | None = None

    def attach(self, reader: ChannelReader) -> None:
        """Read from ``reader`` from here on."""
        self._reader = reader

    @property
    def state(self) -> SessionState:
        """What the messages so far have said of their writers."""
        return self._protocol.state

    @property
    def stats(self) -> SessionStats:
        """Counts so far."""
        return SessionStats(
            self._events,
            self._bytes,
            self._lag,
            self._hub.depths,
            self._hub.drops,
            self.state.duplicates,
        )

    @property
    def brings_output(self) -> bool:
        """Whether scripts were asked to copy their output into the channel."""
        return bool(self._channel.params.get(INCLUDE_STDIO_KEY))

    async def wait(self, deadline: float = math.inf) -> None:
        """Wait for bytes and take them; return without any at :meth:`interrupt` or ``deadline``."""
        data = b""
        with CancelScope(deadline=deadline) as self._scope:  # what is read must be taken
            data = await self._channel.read()
        await self._take(data)

    def interrupt(self) -> None:
        """End a :meth:`wait`, now."""
        if self._scope is not None:
            self._scope.cancel()

    async def take_available(self) -> bool:
        """Take what is there now, a MiB at most; whether there was anything."""
        data = await self._channel.read_available()
        await self._take(data)
        return bool(data)

    async def take_backlog(self, most: int | None = None, deadline: float = math.inf) -> bool:
        """Take all that is there now, however long it takes; no more than that.

        To read on to the end would never return where somebody keeps writing. ``most``
        bytes and ``deadline`` end it early; then it returns False.
        """
        left = await self._channel.backlog()
        is_all = True
        if most is not None and (left is None or left > most):
            left, is_all = most, False
        while left is None or left > 0:
            if anyio.current_time() >= deadline:
                return False
            if not (data := await self._channel.read_available()):
                return True
            await self._take(data)
            if left is not None:
                left -= len(data)
        return is_all

    async def check_liveness(
        self, *, ended: bool = False, most: int | None = None, deadline: float = math.inf
    ) -> str | None:
        """Take what is there now, and judge by that how the writers are doing by now.

        Args:
            ended: the launched process has.
            most, deadline: as for :meth:`take_backlog`.

        Returns:
            Why the run is to be ended, if one of the session's limits has passed.
        """
        gone = await self.monitor.ask_processes(ended=ended)
        as_of = self.monitor.now
        all_is_read = await self.take_backlog(most, deadline)
        events, reason = self.monitor.look(gone, as_of, all_is_read=all_is_read)
        await self._publish_health(events)
        return reason

    async def settle(self) -> None:
        """Wait until all that a script which has ended has written can be read."""
        await self._channel.settle()

    async def has_more(self) -> bool:
        """Whether there is more now, as far as anybody can tell."""
        return bool(await self._channel.backlog())

    async def seal(self) -> None:
        """Have writers fail from now on; see ``ChannelReader.seal``."""
        await self._channel.seal()

    async def finish(self) -> None:
        """The channel is over: what follows its last newline is a message, or a torn one."""
        await self._publish(*self._protocol.receive_end(time.time()))

    def take_output(self, event: ExternalStreamEvent) -> None:
        """The process wrote to its stdout or stderr. Never waits."""
        self._events += 1
        if self._collect == "all":
            self.collected.append(event)
        self._hub.publish_captured(event)

    @property
    def _channel(self) -> ChannelReader:
        assert self._reader is not None, "attached before anything is read"
        return self._reader

    async def _take(self, data: bytes) -> None:
        received_at, heard_at = time.time(), self.monitor.now
        self._bytes += len(data)
        start = 0
        while start < len(data):
            part = data[start : start + _SLICE_BYTES]
            if (lines := part.count(b"\n")) > _SLICE_LINES:
                part = part[: len(part) * _SLICE_LINES // lines]
            start += len(part)
            await self._publish(*self._protocol.receive_data(part, received_at, heard_at))
            await self._publish_health(await self.monitor.take_notice(heard_at))
            await asyncio.sleep(0)

    async def _publish(self, events: list[Event], sizes: list[int]) -> None:
        if not events:
            return
        self._events += len(events)
        last = events[-1]
        if last.sent_at is not None and last.received_at is not None:
            self._lag = last.received_at - last.sent_at
        if self._collect == "results":
            self.collected += [event for event in events if type(event) in _RESULT_TYPES]
        elif self._collect == "all":
            self.collected += events
        if not self.opened.is_set() and self.state.opened:
            self.opened.set()
        await self._hub.publish(events, sizes)

    async def _publish_health(self, events: Sequence[Event]) -> None:
        if events:
            if self._collect == "all":
                self.collected += events
            await self._hub.publish(events, [0] * len(events))
