"""Events as lines for a person, or as JSON for a program."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ..host.event_json import event_to_json, outcome_to_json
from ..host.subscribers import describe_health
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
from ..protocol.outcome import Outcome
from .display import is_terminal
from .running import Ending
from .tally import Tally
from .text import json_text, one_line, safe
from .words import count, duration

_NO_TIME = "--:--:--"
#: A value is shown this long on a line, in characters; ``--json`` shows all of it.
_SHOWN = 100
_REASON = 400


class Printer(ABC):
    """Prints each event on stdout; a subscriber.

    Attributes:
        error: why stdout takes nothing more, if so. The script is not to suffer for
            that, so what comes after it is dropped.
    """

    error: str | None = None

    def __call__(self, event: Event) -> None:
        self.write(self.text(event))

    def write(self, text: str) -> None:
        """Write whole lines."""
        if self.error is not None:
            return
        if sys.stdout is None:
            self.error = "it is closed"
            return
        try:
            # In one call: print() makes two where stdout is unbuffered, and the script's
            # own output, which comes from another thread, could get in between.
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError as error:
            self.error = error.strerror or str(error)
        except ValueError as error:  # closed
            self.error = str(error)

    @abstractmethod
    def text(self, event: Event) -> str:
        """The event as whole lines."""

    def line(self, text: str) -> None:
        """Print a line that is no event, where there are such."""

    def outcome(self, outcome: Outcome, left_out: int = 0) -> None:
        """Print the outcome, where it is one of the lines.

        Args:
            outcome: of the session.
            left_out: pieces of the script's output that came too fast for this printer.
        """


class LinePrinter(Printer):
    """Lines for a person.

    Args:
        label: stands in each line, before what it says.
    """

    def __init__(self, label: str = "") -> None:
        self._label = label

    def text(self, event: Event) -> str:
        return "".join(f"{clock(event)} {self._label}{line}\n" for line in event_lines(event))

    def line(self, text: str) -> None:
        self.write(f"{datetime.now():%H:%M:%S} {self._label}{text}\n")  # noqa: DTZ005  # a person's own clock


class JsonPrinter(Printer):
    """A JSON object a line; the outcome is the last.

    On a terminal what it would obey, or hide, is escaped: that is JSON as well.

    Args:
        more: keys to add to each object.
    """

    def __init__(self, **more: Any) -> None:
        self._more = f"{dumps(more, where='line').decode()[:-1]}," if more else "{"
        self._is_escaped = is_terminal()

    def text(self, event: Event) -> str:
        return self._line(event_to_json(event))

    def outcome(self, outcome: Outcome, left_out: int = 0) -> None:
        self.write(self._line(outcome_to_json(outcome, left_out=left_out)))

    def _line(self, row: bytes) -> str:
        text = f"{self._more}{row.decode()[1:]}"
        if self._is_escaped and not text.isprintable():
            text = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
        return f"{text}\n"


def event_lines(event: Event) -> list[str]:
    """An event as lines for a terminal; control characters are shown, not obeyed."""
    match event:
        case LogEvent():
            text = event.message
            if traceback := event.fields.get("traceback"):
                text = f"{text}\n{traceback}"
            first, *rest = safe(text).splitlines() or [""]
            return [f"{event.level:<8} {first}", *(f"         {line}" for line in rest)]
        case MaterializationEvent():
            head = f"MATERIAL {_name(event.asset_key)}"
            if event.data_version is not None:
                head += f"  data version {_name(event.data_version)}"
            return [head, *_metadata_lines(event.metadata)]
        case AssetCheckEvent():
            verdict = "passed" if event.passed else f"FAILED ({event.severity})"
            head = f"CHECK    {_name(event.asset_key)}  {_name(event.check_name)}: {verdict}"
            return [head, *_metadata_lines(event.metadata)]
        case CustomMessageEvent():
            return [f"MESSAGE  {_short(event.payload)}"]
        case ExternalStreamEvent():
            return [f"{event.stream.upper():<8} {line}" for line in safe(event.text).splitlines()]
        case MalformedEvent():
            raw = event.raw.decode("utf-8", "backslashreplace")
            return [f"MALFORMED {one_line(event.reason, _REASON)}: {one_line(raw, _SHOWN)}"]
        case GapEvent():
            return [f"GAP      messages {event.first} to {event.last} never arrived"]
        case HealthEvent():
            return [f"HEALTH   {describe_health(event)}"]
        case OpenedEvent():
            return ["OPENED"]
        case ClosedEvent(exception=None):
            return ["CLOSED"]
        case ClosedEvent():
            lines = safe(str(event.exception)).splitlines()
            return ["CLOSED   with an exception:", *(f"         {line}" for line in lines)]
    raise AssertionError(f"no such event: {event!r}")


def after(outcome: Outcome) -> str:
    """How long it took, where that is known: a file may not tell."""
    return f" after {duration(outcome.duration)}" if outcome.duration else ""


def summary(outcome: Outcome, tally: Tally) -> str:
    """The last lines: how it ended, and why."""
    verdict = "ok" if outcome.ok else "NOT OK"
    text = f"asyncpipes: {verdict}{after(outcome)}: {tally.results()}"
    return "\n".join([text, *(f"  - {reason}" for reason in map(safe, outcome.reasons))])


def verdict(ending: Ending, tally: Tally) -> str:
    """The last lines: the summary, or, where there was no run to sum up, why."""
    if ending.fault is None:
        return summary(ending.outcome, tally)
    others = [f"  - {safe(reason)}" for reason in ending.outcome.reasons[:-1]]
    return "\n".join([f"asyncpipes: {safe(ending.fault)}", *others])


def left_out_words(left_out: Mapping[str, int]) -> list[str]:
    """What is not where it should be, by what it was to be written to."""
    return [
        f"{count(number, 'piece')} of the script's output came faster than {safe(name)} took"
        " them, and are left out there"
        for name, number in left_out.items()
    ]


def _metadata_lines(metadata: Mapping[str, MetadataValue]) -> list[str]:
    labels = list(map(_name, metadata))
    width = min(max(map(len, labels), default=0), 30)
    return [
        f"         {label:<{width}} = {metadata_text(value)}"
        for label, value in zip(labels, metadata.values(), strict=True)
    ]


def metadata_text(value: MetadataValue) -> str:
    """A metadata value as one line."""
    raw = value.raw_value
    if value.type == "table" and isinstance(raw, dict):
        records, schema = raw.get("records"), raw.get("schema")
        if isinstance(records, list) and isinstance(schema, list):
            names = (column.get("name") for column in schema if isinstance(column, dict))
            columns = ", ".join(map(str, names))
            return one_line(f"table of {count(len(records), 'row')}: {columns}", _REASON)
    text = raw if isinstance(raw, str) else json_text(raw)
    first, *rest = safe(text).splitlines() or [""]
    more = f" … ({count(len(rest), 'more line')})" if rest else ""
    return (first if len(first) <= _SHOWN else f"{first[: _SHOWN - 1]}…") + more


def _short(value: Any) -> str:
    return one_line(json_text(value), _SHOWN)


def _name(text: str) -> str:
    return one_line(text, _REASON)


def clock(event: Event) -> str:
    when = event.sent_at or event.received_at
    if when is None:
        return _NO_TIME  # a messages file of a stock script, replayed
    try:
        return datetime.fromtimestamp(when).strftime("%H:%M:%S")  # noqa: DTZ006  # a person's own clock
    except (OverflowError, ValueError, OSError):
        return _NO_TIME  # no clock shows that, and a script may send it
