"""A run as a file: recorded, and read again, whoever wrote it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, BinaryIO

from ..errors import MalformedMessageError, PipesError
from ..host.event_json import NAME_KEY, event_to_json, from_json, outcome_to_json
from ..protocol.codec import loads_exact
from ..protocol.events import Event, GapEvent, MalformedEvent
from ..protocol.outcome import Outcome, judge
from ..protocol.reading import SessionReader

#: How a recording begins; its first bytes tell.
_RECORDED = re.compile(rb'\s*\{\s*"%s"' % NAME_KEY.encode())
_PEEK = 1 << 12
#: Bytes of a bad line that are kept.
_SHOWN = 200


class Recorder:
    """Writes each event as a line of JSON, and the outcome as the last one; a subscriber.

    Args:
        path: the file; what was in it is replaced.

    Attributes:
        error: why the file takes nothing more, if so. The run goes on without it.

    Raises:
        PipesError: the file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.error: str | None = None
        try:
            self._file: BinaryIO = open(path, "wb")  # noqa: SIM115  # closed by close()
        except OSError as error:
            raise PipesError(f"cannot write {path}: {error.strerror}") from error

    def __call__(self, event: Event) -> None:
        self._write(event_to_json(event))

    def close(self, outcome: Outcome) -> None:
        """Write the outcome, and all to the disk."""
        self._write(outcome_to_json(outcome))
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error.strerror or str(error)

    def _write(self, line: bytes) -> None:
        if self.error is not None:
            return
        try:
            self._file.write(line + b"\n")
        except OSError as error:
            self.error = error.strerror or str(error)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file, and what it says.

    Attributes:
        number: from 1.
        position: where it starts, in bytes from the start of the file.
        what: an event, or the outcome of a recording.
        fault: what is wrong with it, in words: it is no message, others should have come
            before it, or it came out of turn.
    """

    number: int
    position: int
    what: Event | Outcome
    fault: str | None = None


class StreamFile:
    """A recorded run, or a messages file, of ours or of ``dagster_pipes``.

    Args:
        path: the file.

    Attributes:
        path: the file.
        is_recording: it was made by ``asyncpipes run --record`` or ``--json``.
        outcome: what it says of the outcome, once it is read: that of a recording, or, of
            a messages file, what it shows by itself; without a process, that is.

    Raises:
        PipesError: it cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                head = file.read(_PEEK)
        except OSError as error:
            raise PipesError(f"cannot read {path}: {error.strerror}") from error
        self.is_recording = _RECORDED.match(head) is not None
        self.outcome: Outcome | None = None

    def lines(self) -> Iterator[Line]:
        """What its lines say, one after the other; blank ones of a layout say nothing."""
        return self._recorded() if self.is_recording else self._messages()

    def _recorded(self) -> Iterator[Line]:
        position = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    what, fault = _decoded(line, position)
                    if isinstance(what, Outcome):
                        self.outcome = what
                    yield Line(number, position, what, fault)
                position += len(line)

    def _messages(self) -> Iterator[Line]:
        reader = SessionReader()
        started = time.monotonic()
        number = violations = 0
        with open(self.path, "rb") as file:
            for line in chain(file, [None]):
                if line is None:
                    events, _ = reader.receive_end(0.0)
                else:
                    number += 1
                    events, _ = reader.receive_data(line, 0.0)
                for event in events:
                    fault = _fault(event)
                    if reader.state.violation_count > violations:
                        violations = reader.state.violation_count
                        fault = fault or "it came out of turn: see the summary"
                    # Nobody knows when it was received.
                    event = replace(event, received_at=None)
                    yield Line(number, event.position or 0, event, fault)
        self.outcome = judge(reader.state, duration=time.monotonic() - started)


def _decoded(line: bytes, position: int) -> tuple[Event | Outcome, str | None]:
    try:
        row: Any = loads_exact(line)
        if not isinstance(row, dict):
            raise MalformedMessageError("it is no object")
        return from_json(row), None
    except (ValueError, MalformedMessageError) as error:
        event = MalformedEvent(line.rstrip(b"\n")[:_SHOWN], str(error), position=position)
        return event, str(error)


def _fault(event: Event) -> str | None:
    match event:
        case MalformedEvent():
            return event.reason
        case GapEvent():
            return f"messages {event.first} to {event.last} are missing before it"
    return None
