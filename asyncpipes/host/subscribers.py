"""Subscribers: with options for :func:`run`, and ready ones.

The ready ones, to a logger, to a list, to JSON lines, return a callback for
``PipesSession.subscribe`` or ``run(subscribers=...)``.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol

from ..errors import InvalidParameterError
from ..protocol.events import (
    Event,
    GapEvent,
    HealthEvent,
    Level,
    LogEvent,
    MalformedEvent,
)
from .event_json import event_to_json
from .subscription import DEFAULT_MAX_EVENTS, Callback, Overflow


@dataclass(frozen=True, init=False)
class Subscriber:
    """A callback with the options of ``PipesSession.subscribe``, for ``run(subscribers=...)``.

    ``Subscriber(store, MaterializationEvent, in_thread=True)``. The options are checked
    when it is subscribed.
    """

    callback: Callback
    types: tuple[type[Event], ...]
    min_level: Level | None
    overflow: Overflow
    max_events: int
    in_thread: bool

    def __init__(
        self,
        callback: Callback,
        *types: type[Event],
        min_level: Level | None = None,
        overflow: Overflow = "wait",
        max_events: int = DEFAULT_MAX_EVENTS,
        in_thread: bool = False,
    ) -> None:
        given = {
            "callback": callback,
            "types": types,
            "min_level": min_level,
            "overflow": overflow,
            "max_events": max_events,
            "in_thread": in_thread,
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)  # frozen for everybody else

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of ``PipesSession.subscribe``."""
        return {f.name: getattr(self, f.name) for f in fields(self)[2:]}


class BinaryWriter(Protocol):
    """Anything with ``write(bytes)``: a file opened in binary mode, ``sys.stdout.buffer``."""

    def write(self, data: bytes, /) -> Any:
        """Take bytes."""


def to_logger(logger: logging.Logger) -> Callable[[Event], None]:
    """Log what the script logs, at its level; malformed lines and gaps as warnings.

    So is a script that is silent, blocked or dead; that it is alive again is an INFO.

    The script's own logger name, file and line, where it sent them, are in the
    record's ``pipes`` attribute. Subscribe it with ``in_thread=True`` where the logger's
    handlers write to a file or a terminal, so that the loop does not wait for them.

    Raises:
        InvalidParameterError: it is no logger.
    """
    if not callable(getattr(logger, "log", None)):
        raise InvalidParameterError(
            f"to_logger: `logger` must be a Logger, as logging.getLogger({logger!r})"
        )

    def log_event(event: Event) -> None:
        match event:
            case LogEvent():
                message = event.message
                if traceback := event.fields.get("traceback"):
                    message = f"{message}\n{traceback}"
                logger.log(event.level_number, "%s", message, extra={"pipes": event.fields})
            case MalformedEvent():
                logger.warning("malformed message: %s: %r", event.reason, event.raw[:200])
            case GapEvent():
                logger.warning("messages %d to %d never arrived", event.first, event.last)
            case HealthEvent():
                level = logging.INFO if event.status == "alive" else logging.WARNING
                logger.log(level, "%s", describe_health(event))

    return log_event


def describe_health(event: HealthEvent) -> str:
    """What a :class:`HealthEvent` says, in words."""
    who = "the script" if event.pid is None else f"process {event.pid}"
    match event.status:
        case "blocked":
            lag = "" if event.lag is None else f": it has not answered for {event.lag:.1f} s"
            return f"the event loop of {who} is blocked{lag}"
        case "silent":
            return f"{who} is silent: neither messages nor heartbeats come from it"
        case "dead":
            return f"{who} has ended without closing its context"
        case "alive":
            return f"{who} is alive again"


def to_list(target: list[Event]) -> Callable[[Event], None]:
    """Append every event to ``target``."""
    return target.append


def to_json_lines(file: BinaryWriter) -> Callable[[Event], None]:
    """Write each event as a line of JSON, ``{"event": "log", "message": ..., ...}``.

    Args:
        file: opened in binary mode, as by ``open("events.jsonl", "wb")``.

    Raises:
        InvalidParameterError: it has no ``write``, or takes text.

    Subscribe it with ``in_thread=True`` where the file is on a disk, so that the loop
    does not wait for it.
    """

    given: object = file
    if isinstance(given, io.TextIOBase) or not callable(getattr(given, "write", None)):
        raise InvalidParameterError(
            f"to_json_lines: `file` must be open in binary mode, as open(path, 'wb'), got {file!r}"
        )

    def write_event(event: Event) -> None:
        file.write(event_to_json(event) + b"\n")

    return write_event
