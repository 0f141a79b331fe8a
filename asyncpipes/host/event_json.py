"""Events and outcomes as lines of JSON, and back.

::

    {"event": "log", "received_at": 1767225600.0, "message": "loading", "level": "INFO"}
    {"event": "outcome", "ok": true, "exit_code": 0, ...}

One object a line: its name, then its fields, those that are None left out. What is nested
deeper than 250 levels, as stock scripts may send it, is replaced by a text that says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, cast, get_args

from ..errors import MalformedMessageError
from ..protocol.codec import dumps, shown
from ..protocol.events import (
    AssetCheckEvent,
    ClosedEvent,
    CustomMessageEvent,
    Event,
    ExternalStreamEvent,
    GapEvent,
    HealthEvent,
    Level,
    LogEvent,
    MalformedEvent,
    MaterializationEvent,
    OpenedEvent,
    Severity,
    Status,
    Stream,
)
from ..protocol.exceptions import PipesException, decode_exception
from ..protocol.metadata import MetadataValue
from ..protocol.outcome import Outcome

#: The ``event`` key of a JSON line.
EVENT_NAMES: dict[type[Event], str] = {
    OpenedEvent: "opened",
    ClosedEvent: "closed",
    LogEvent: "log",
    MaterializationEvent: "materialization",
    AssetCheckEvent: "asset_check",
    CustomMessageEvent: "custom_message",
    ExternalStreamEvent: "external_stream",
    MalformedEvent: "malformed",
    GapEvent: "gap",
    HealthEvent: "health",
}
#: That of the line that tells the outcome.
OUTCOME_NAME = "outcome"
#: The key by which a line is one of these.
NAME_KEY = "event"
#: Levels of arrays and objects in a line: fewer than the 254 that orjson writes, so that
#: whoever reads JSON can read it.
MAX_LEVELS = 250
_TOO_DEEP = "[what is here is nested too deeply, and left out]"

_KINDS = {name: kind for kind, name in EVENT_NAMES.items()}


def event_to_json(event: Event) -> bytes:
    """An event as one line of JSON, without a newline: its name, then its fields.

    Fields that are None are left out. ``raw`` of a malformed event is text, with
    ``\\xNN`` for what is not UTF-8. Stock scripts may send numbers that JSON does not
    have; they are the texts ``"nan"``, ``"inf"`` and ``"-inf"`` here.
    """
    return _to_json(EVENT_NAMES[type(event)], event)


def outcome_to_json(outcome: Outcome, *, left_out: int = 0) -> bytes:
    """The outcome likewise, with ``ok`` in front of its fields.

    Args:
        outcome: of the session.
        left_out: pieces of the script's own output that are not among the lines before,
            because whoever takes these was too slow; a key of its own if there are any.
    """
    more = {"left_out": left_out} if left_out else {}
    return _to_json(OUTCOME_NAME, outcome, ok=outcome.ok, **more)


def from_json(row: Mapping[str, Any]) -> Event | Outcome:
    """What such a line says, from its JSON value.

    Keys that this version does not know are passed over. Texts for numbers that JSON does
    not have stay texts, and so does ``\\xNN``.

    Raises:
        MalformedMessageError: there is no such event, or one of its fields is missing or
            has a wrong type.
    """
    name = row.get(NAME_KEY)
    kind: type[Any] | None = None
    if isinstance(name, str):
        kind = Outcome if name == OUTCOME_NAME else _KINDS.get(name)
    if kind is None:
        raise MalformedMessageError(f"`{NAME_KEY}` is {shown(name)}, which is no event")
    values: dict[str, Any] = {}
    for field in fields(kind):
        value = row.get(field.name)
        if value is None:
            # What is None was left out; what has no default is a custom message's payload.
            is_needed = field.default is MISSING and field.default_factory is MISSING
            if is_needed or (kind is Outcome and field.name == "reasons"):
                if field.name != "payload":
                    raise MalformedMessageError(f"{name}: `{field.name}` is missing")
                values[field.name] = None
            continue
        expected, convert = _FIELDS.get(field.name, _ANY)
        if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
            raise MalformedMessageError(f"{name}: `{field.name}` is {shown(value)}")
        values[field.name] = value if convert is None else convert(value)
    return cast("Event | Outcome", kind(**values))


def _to_json(name: str, value: Event | Outcome, **more: Any) -> bytes:
    row: dict[str, Any] = {NAME_KEY: name, **more}
    for field in fields(value):
        item = getattr(value, field.name)
        if item is not None:
            row[field.name] = _plain(item)
    return dumps(row, where="event")


def _plain(value: Any, level: int = 1) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, (PipesException, MetadataValue)):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, (dict, list, tuple)):
        if level >= MAX_LEVELS:
            return _TOO_DEEP
        # Loops, since a comprehension is a frame of its own, and frames are limited.
        if isinstance(value, dict):
            row = {}
            for key, item in value.items():
                row[key] = _plain(item, level + 1)
            return row
        items = []
        for item in value:
            items.append(_plain(item, level + 1))
        return items
    return value


def _metadata(raw: Mapping[str, Any]) -> dict[str, MetadataValue]:
    metadata: dict[str, MetadataValue] = {}
    for label, value in raw.items():
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            raise MalformedMessageError(f"metadata {shown(label)} is {shown(value)}")
        metadata[label] = MetadataValue(value["type"], value.get("raw_value"))
    return metadata


def _one_of(*choices: str) -> tuple[tuple[type[Any], ...], Callable[[Any], Any]]:
    def check(value: str) -> str:
        if value not in choices:
            raise MalformedMessageError(f"{shown(value)} is none of {', '.join(choices)}")
        return value

    return (str,), check


def _seconds(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise MalformedMessageError(f"{shown(value)} is no number of seconds")
    return number


def _reasons(value: list[Any]) -> tuple[str, ...]:
    for reason in value:
        if not isinstance(reason, str):
            raise MalformedMessageError(f"{shown(reason)} is no reason")
    return tuple(value)


def _raw(value: str) -> bytes:
    return value.encode("utf-8", "backslashreplace")


_TEXT = ((str,), None)
_NUMBER = ((int, float), _seconds)
_COUNT = ((int,), None)
_TRUTH = ((bool,), None)
_OBJECT = ((dict,), None)
_ANY: tuple[tuple[type[Any], ...], Callable[[Any], Any] | None] = ((object, bool), None)
#: What a field holds, and what makes it of that; one name is the same thing in every event.
_FIELDS: dict[str, tuple[tuple[type[Any], ...], Callable[[Any], Any] | None]] = {
    **dict.fromkeys(("writer", "message", "asset_key", "data_version"), _TEXT),
    **dict.fromkeys(("check_name", "text", "reason"), _TEXT),
    **dict.fromkeys(("sent_at", "received_at", "lag", "duration"), _NUMBER),
    **dict.fromkeys(("sequence", "position", "first", "last", "pid", "exit_code"), _COUNT),
    **dict.fromkeys(("signal", "malformed", "missing", "dropped", "undelivered"), _COUNT),
    **dict.fromkeys(("passed", "opened", "closed", "timed_out", "cancelled"), _TRUTH),
    **dict.fromkeys(("extras", "fields"), _OBJECT),
    "level": _one_of(*get_args(Level)),
    "severity": _one_of(*get_args(Severity)),
    "stream": _one_of(*get_args(Stream)),
    "status": _one_of(*get_args(Status)),
    "metadata": ((dict,), _metadata),
    "exception": ((dict,), decode_exception),
    "raw": ((str,), _raw),
    "reasons": ((list,), _reasons),
}
