"""What a session gives: its result, its statistics, its health."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..protocol.events import AssetCheckEvent, CustomMessageEvent, Event, MaterializationEvent
from ..protocol.liveness import WriterHealth
from ..protocol.outcome import Outcome


@dataclass(frozen=True, slots=True)
class SessionStats:
    """Counts of a session so far.

    Attributes:
        events: events received, of all kinds but ``HealthEvent``, which nobody sent.
        bytes: bytes read from the channel.
        lag: seconds between the sending and the receiving of the latest event, by the
            two clocks; None from stock scripts.
        queue_depths: for each subscriber, the events that wait for it.
        drops: for each subscriber, the events it did not get by its own policy.
        duplicates: lines that a script sent twice, as it may when it cannot know whether
            the first time arrived. They are passed over, and the run is ok all the same.
    """

    events: int = 0
    bytes: int = 0
    lag: float | None = None
    queue_depths: Mapping[str, int] = field(default_factory=dict)
    drops: Mapping[str, int] = field(default_factory=dict)
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class SessionHealth:
    """How a session is doing right now.

    Attributes:
        state: ``"waiting"`` for a script to open, ``"open"``, ``"closed"`` when all that
            opened have closed, or ``"drained"`` when nothing more will be read. In the
            place of ``"open"`` stands ``"blocked"``, ``"silent"`` or ``"dead"``, the last
            that applies, if a writer is: see ``HealthEvent`` for what they mean.
        held_by: the subscribers whose queues are full: reading goes on when they have
            worked them down to half.
        writers: those that have opened and not closed, each with its own health.
    """

    state: str
    held_by: tuple[str, ...] = ()
    writers: tuple[WriterHealth, ...] = ()


@dataclass(frozen=True, slots=True)
class RunResult:
    """All of a run: what was received, and how it ended.

    What is collected depends on the session's ``collect``: ``"results"`` (the default)
    keeps materializations, checks and custom messages, ``"all"`` every event,
    ``"none"`` nothing.

    Attributes:
        outcome: how it ended; ``ok`` and ``reasons``.
        materializations, checks, custom_messages: the events, in order.
        events: every event, with ``collect="all"``.
        stats: counts.
        stderr: the last of what the process wrote to stderr, 4 KiB at most.
        subscriber_failed: whether a subscriber raised.
    """

    outcome: Outcome
    materializations: tuple[MaterializationEvent, ...] = ()
    checks: tuple[AssetCheckEvent, ...] = ()
    custom_messages: tuple[CustomMessageEvent, ...] = ()
    events: tuple[Event, ...] = ()
    stats: SessionStats = field(default_factory=SessionStats)
    stderr: str = ""
    subscriber_failed: bool = False
