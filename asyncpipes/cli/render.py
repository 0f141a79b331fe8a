"""Events as lines for a person, or as JSON for a program."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ..errors import PipesError
from ..host.result import RunResult
from ..host.subscribers import describe_health, event_to_json
from ..protocol.codec import dumps
from ..protocol.events import (
    AssetCheckEvent,
    ClosedEvent,
    CustomMessageEvent,
    Event,
    ExternalStreamEvent,
    GapEvent,
    HealthEvent,
    LogEvent,
    MalformedEvent,
    MaterializationEvent,
    OpenedEvent,
)
from ..protocol.metadata import MetadataValue

#: A value is shown this long on a line, in characters; ``--json`` shows all of it.
_SHOWN = 100


class Printer(ABC):
    """Prints each event on stdout; a subscriber.

    Attributes:
        error: why stdout takes nothing more, if so. The script is not to suffer for
            that, so what comes after it is dropped.
    """

    error: str | None = None

    def __call__(self, event: Event) -> None:
        if self.error is not None:
            return
        if sys.stdout is None:
            self.error = "it is closed"
            return
        try:
            # In one call: print() makes two where stdout is unbuffered, and the script's
            # own output, which comes from another thread, could get in between.
            sys.stdout.write(self.text(event))
            sys.stdout.flush()
        except OSError as error:
            self.error = error.strerror or str(error)
        except ValueError as error:  # closed
            self.error = str(error)

    @abstractmethod
    def text(self, event: Event) -> str:
        """The event as whole lines."""


class LinePrinter(Printer):
    """Lines for a person."""

    def text(self, event: Event) -> str:
        return "".join(f"{_clock(event)} {line}\n" for line in event_lines(event))


class JsonPrinter(Printer):
    """A JSON object a line."""

    def text(self, event: Event) -> str:
        return f"{event_to_json(event).decode()}\n"


def event_lines(event: Event) -> list[str]:
    """An event as lines for a terminal; control characters are shown, not obeyed."""
    match event:
        case LogEvent():
            text = event.message
            if traceback := event.fields.get("traceback"):
                text = f"{text}\n{traceback}"
            first, *rest = _safe(text).splitlines() or [""]
            return [f"{event.level:<8} {first}", *(f"         {line}" for line in rest)]
        case MaterializationEvent():
            head = f"MATERIAL {_safe(event.asset_key)}"
            if event.data_version is not None:
                head += f"  data version {_safe(event.data_version)}"
            return [head, *_metadata_lines(event.metadata)]
        case AssetCheckEvent():
            verdict = "passed" if event.passed else f"FAILED ({event.severity})"
            head = f"CHECK    {_safe(event.asset_key)}  {_safe(event.check_name)}: {verdict}"
            return [head, *_metadata_lines(event.metadata)]
        case CustomMessageEvent():
            return [f"MESSAGE  {_short(event.payload)}"]
        case ExternalStreamEvent():
            return [f"{event.stream.upper():<8} {line}" for line in _safe(event.text).splitlines()]
        case MalformedEvent():
            raw = event.raw.decode("utf-8", "backslashreplace")
            return [f"MALFORMED {event.reason}: {_safe(raw)[:_SHOWN]}"]
        case GapEvent():
            return [f"GAP      messages {event.first} to {event.last} never arrived"]
        case HealthEvent():
            return [f"HEALTH   {describe_health(event)}"]
        case OpenedEvent():
            return ["OPENED"]
        case ClosedEvent(exception=None):
            return ["CLOSED"]
        case ClosedEvent():
            lines = _safe(str(event.exception)).splitlines()
            return ["CLOSED   with an exception:", *(f"         {line}" for line in lines)]
    raise AssertionError(f"no such event: {event!r}")


def summary(result: RunResult) -> str:
    """The last line: how it ended, and why."""
    outcome = result.outcome
    failed = sum(not check.passed for check in result.checks)
    counts = [
        _count(len(result.materializations), "materialization"),
        _count(len(result.checks), "check") + (f" ({failed} failed)" if failed else ""),
        _count(len(result.custom_messages), "custom message"),
    ]
    verdict = "ok" if outcome.ok else "NOT OK"
    text = f"asyncpipes: {verdict} after {outcome.duration:.1f} s: {', '.join(counts)}"
    return "\n".join([text, *(f"  - {reason}" for reason in map(_safe, outcome.reasons))])


def _metadata_lines(metadata: Mapping[str, MetadataValue]) -> list[str]:
    width = max(map(len, metadata), default=0)
    return [
        f"         {_safe(label).replace(chr(10), ' '):<{width}} = {_metadata_text(value)}"
        for label, value in metadata.items()
    ]


def _metadata_text(value: MetadataValue) -> str:
    raw = value.raw_value
    if value.type == "table" and isinstance(raw, dict):
        columns = ", ".join(str(column.get("name")) for column in raw.get("schema", ()))
        return _safe(f"table of {_count(len(raw.get('records', ())), 'row')}: {columns}")
    text = raw if isinstance(raw, str) else _json_text(raw)
    first, *rest = _safe(text).splitlines() or [""]
    more = f" … ({_count(len(rest), 'more line')})" if rest else ""
    return (first if len(first) <= _SHOWN else f"{first[: _SHOWN - 1]}…") + more


def _short(value: Any) -> str:
    text = _safe(_json_text(value))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _json_text(value: Any) -> str:
    try:
        return dumps(value, where="value").decode()
    except PipesError:  # NaN from a stock script
        return repr(value)


def _safe(text: str) -> str:
    """Without what a terminal would obey: escape sequences, carriage returns, bells."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text
    )


def _clock(event: Event) -> str:
    when = event.sent_at or event.received_at
    moment = datetime.now() if when is None else datetime.fromtimestamp(when)  # noqa: DTZ005, DTZ006  # a person's own clock
    return moment.strftime("%H:%M:%S")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
