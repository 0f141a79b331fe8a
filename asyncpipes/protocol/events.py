"""What a session consists of, as immutable typed values.

One class for each method of protocol 0.1, and three for what the reading side
finds out by itself: :class:`MalformedEvent`, :class:`GapEvent` and
:class:`HealthEvent`. Field names are the wire's names. All of them work with ``match``::

    match event:
        case LogEvent(level="ERROR", message=text): ...
        case AssetCheckEvent(passed=False, check_name=name): ...

The fields that every event has:

=============== ========================================================================
``sequence``    number given by an asyncpipes writer, from 1; None from stock scripts
``sent_at``     seconds since the epoch on the sender's clock; None from stock scripts
``received_at`` seconds since the epoch on the host's clock, one value for each read
``writer``      id of one opening of the channel in one process; None from stock scripts
``position``    where the line starts in the channel: bytes from its start, or None
=============== ========================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from .exceptions import PipesException
from .metadata import MetadataValue

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
Severity = Literal["WARN", "ERROR"]
Stream = Literal["stdout", "stderr"]
Status = Literal["alive", "silent", "blocked", "dead"]

#: Python's numbers for the five levels of the protocol.
LEVEL_NUMBERS: Mapping[str, int] = {
    "DEBUG": 10,
    "INFO": 20,
    "WARNING": 30,
    "ERROR": 40,
    "CRITICAL": 50,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events; subscribe to it to get every one of them."""

    sequence: int | None = None
    sent_at: float | None = None
    received_at: float | None = None
    writer: str | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class OpenedEvent(Event):
    """A script opened its context. ``extras`` is what its message writer had to say."""

    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClosedEvent(Event):
    """A script closed its context; ``exception`` is what it left with, or None."""

    exception: PipesException | None = None


@dataclass(frozen=True, slots=True)
class LogEvent(Event):
    """A log line. ``fields`` is empty from stock scripts; see ``external.logging``."""

    message: str
    level: Level
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def level_number(self) -> int:
        """The level as Python's ``logging`` counts it: 10 for DEBUG to 50 for CRITICAL."""
        return LEVEL_NUMBERS[self.level]


@dataclass(frozen=True, slots=True)
class MaterializationEvent(Event):
    """An asset was materialized. ``metadata`` maps labels to typed values."""

    asset_key: str
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    data_version: str | None = None


@dataclass(frozen=True, slots=True)
class AssetCheckEvent(Event):
    """An asset check was evaluated."""

    asset_key: str
    check_name: str
    passed: bool
    severity: Severity = "ERROR"
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CustomMessageEvent(Event):
    """A custom message; ``payload`` is any JSON value."""

    payload: Any


@dataclass(frozen=True, slots=True)
class ExternalStreamEvent(Event):
    """Output of the script: a piece of its stdout or stderr.

    It comes through the channel (``include_stdio_in_messages``), in any pieces, or
    from the host, which drains the standard streams of what it launched, in whole
    lines; then ``position`` is None and ``extras`` is ``{"source": "host"}``.
    """

    stream: Stream
    text: str
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MalformedEvent(Event):
    """A line that is no message. ``raw`` holds its first bytes, ``reason`` says what is wrong."""

    raw: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class GapEvent(Event):
    """Messages ``first`` to ``last`` (both included) of a writer never arrived."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class HealthEvent(Event):
    """A writer is doing otherwise than before. It is the host that says so, not the script.

    Attributes:
        status: ``"blocked"``: its heartbeats say that its event loop has not answered for
            1 s or longer, which needs a context that was entered inside that loop;
            ``"silent"``: nothing has come for 2.5 intervals of its heartbeat, while its
            process lives or nobody can tell; ``"dead"``: its process has ended, and it has
            not closed; ``"alive"``: none of these any more.
        lag: seconds that its event loop took to answer, or was taking by then, by its
            latest heartbeat; None where it has sent none, or was not entered inside a loop:
            a plain ``with`` in a script without one has none to watch.
        pid: its process, as it said itself; None for stock scripts.
    """

    status: Status
    lag: float | None = None
    pid: int | None = None


E = TypeVar("E", bound=Event)


def fast_constructor(kind: type[E]) -> Callable[..., E]:
    """A function that makes a ``kind`` from all of its fields, in their order.

    A frozen dataclass guards its fields against its own ``__init__`` too, at 0.8 us
    for an event; setting them through their slots takes 0.45 us, and decoding a
    message 1 us in all. The reader makes millions of events and has checked the values.
    """
    names = [item.name for item in fields(kind)]
    scope: dict[str, Any] = {"new": object.__new__, "kind": kind}
    scope |= {f"set_{name}": getattr(kind, name).__set__ for name in names}
    steps = "".join(f"    set_{name}(self, {name})\n" for name in names)
    # Written out as source, as dataclasses themselves do: a loop would cost the gain.
    exec(f"def make({', '.join(names)}):\n    self = new(kind)\n{steps}    return self\n", scope)
    make: Callable[..., E] = scope["make"]
    return make
