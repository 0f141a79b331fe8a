"""Who is silent, and who is not, while a slow subscriber holds up the reading.

The tests are the script themselves, through a MemoryChannel: so what the channel holds at
which moment is theirs to say, however busy the machine is.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from asyncpipes import CustomMessageEvent, HealthEvent, PipesSession, open_pipes_session
from asyncpipes.channels import MemoryChannel
from asyncpipes.protocol.messages import encode_custom_head, encode_head, extension_tail
from tests.support_host import until

#: Silent is who says nothing for 2.5 times as long, in seconds.
HEARTBEAT = 0.1


class Script:
    """The script's end of the channel."""

    def __init__(self, channel: MemoryChannel) -> None:
        self._writer = channel.writer()
        self._number = 0

    def opens(self) -> None:
        self._write(encode_head("opened", {}))

    def reports(self, *payloads: int) -> None:
        """In one write, and so in one read."""
        self._write(*[encode_custom_head(payload) for payload in payloads])

    def closes(self) -> None:
        self._write(encode_head("closed", {}))

    def _write(self, *heads: bytes) -> None:
        lines = b""
        for head in heads:
            self._number += 1
            lines += head + extension_tail("w", self._number, time.time())
        self._writer.write(lines)


class Brake:
    """A subscriber that takes a message when it is told to; beside it, one that is fast."""

    def __init__(self, session: PipesSession) -> None:
        self.taken: list[Any] = []
        self.statuses: list[str] = []
        self._session = session
        self._let_go = asyncio.Semaphore(0)
        session.subscribe(self._take, CustomMessageEvent, max_events=1)
        session.subscribe(lambda event: self.statuses.append(event.status), HealthEvent)

    async def _take(self, event: CustomMessageEvent) -> None:
        await self._let_go.acquire()
        self.taken.append(event.payload)

    async def let_go(self, count: int) -> None:
        expected = len(self.taken) + count
        for _ in range(count):
            self._let_go.release()
        await until(lambda: len(self.taken) == expected, f"{expected} messages are taken")

    def let_all_go(self) -> None:
        for _ in range(1000):
            self._let_go.release()

    async def holds(self) -> None:
        """Wait until the reader is held up, and then for longer than it takes to be silent."""
        await until(lambda: self._session.health.held_by != (), "the reader is held up")
        loop = asyncio.get_running_loop()
        end = loop.time() + 3 * HEARTBEAT
        await until(lambda: loop.time() > end, "time goes by")


async def test_who_writes_on_while_the_reader_is_held_up_is_not_silent(any_loop: None) -> None:
    """Steady back-pressure: each reading finds something, and takes longer than a silence."""
    channel = MemoryChannel()
    writer = Script(channel)
    async with open_pipes_session(
        channel=channel, heartbeat=HEARTBEAT, silent_timeout=0.0, strict=False
    ) as session:
        brake = Brake(session)
        assert session.bootstrap
        writer.opens()
        writer.reports(0, 1, 2)
        writer.reports(3, 4, 5)
        for number in range(6, 30, 3):
            await brake.holds()
            # There before the reader goes on, so it never looks at an empty channel.
            writer.reports(number, number + 1, number + 2)
            await brake.let_go(3)
        writer.closes()
        brake.let_all_go()
    assert brake.statuses == []
    assert session.outcome.ok, session.outcome.reasons
    assert brake.taken == list(range(30))


async def test_who_is_silent_is_found_while_a_subscriber_is_slow(any_loop: None) -> None:
    channel = MemoryChannel()
    writer = Script(channel)
    async with open_pipes_session(channel=channel, heartbeat=HEARTBEAT, strict=False) as session:
        brake = Brake(session)
        assert session.bootstrap
        writer.opens()
        writer.reports(0, 1, 2)
        writer.reports(3, 4, 5)
        await brake.holds()
        assert brake.statuses == []  # nobody knows: the channel has not been looked at
        await brake.let_go(3)
        await until(lambda: brake.statuses == ["silent"], "silent")
        assert brake.taken == [0, 1, 2]
        # It speaks, and is silent again, all while its words wait to be published.
        writer.reports(6, 7, 8)
        await brake.holds()
        assert brake.statuses == ["silent"]
        await brake.let_go(3)
        await until(lambda: len(brake.statuses) == 3, "alive, and silent again")
        writer.closes()
        brake.let_all_go()
    assert brake.statuses == ["silent", "alive", "silent"]
    assert session.outcome.ok, session.outcome.reasons


async def test_a_limit_counts_while_a_subscriber_is_slow(any_loop: None) -> None:
    channel = MemoryChannel()
    writer = Script(channel)
    async with open_pipes_session(
        channel=channel,
        heartbeat=HEARTBEAT,
        silent_timeout=HEARTBEAT,
        strict=False,
        drain_timeout=0.0,
    ) as session:
        brake = Brake(session)
        assert session.bootstrap
        writer.opens()
        writer.reports(0, 1, 2)
        writer.reports(3, 4, 5)
        await brake.holds()
        await brake.let_go(3)
        await session.wait_drained()
    assert brake.statuses == ["silent"]
    assert session.outcome.timed_out
    assert session.outcome.reasons[0].endswith("has been silent for silent_timeout=0.1 seconds")
