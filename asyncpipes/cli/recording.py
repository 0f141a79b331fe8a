"""A run as a file: recorded, and read again, whoever wrote it."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from ..errors import MalformedMessageError, PipesError
from ..host.event_json import NAME_KEY, event_to_json, from_json, outcome_to_json
from ..protocol.codec import loads
from ..protocol.events import Event, GapEvent, MalformedEvent
from ..protocol.framing import LineFramer, OversizedLine
from ..protocol.outcome import Outcome, judge
from ..protocol.reading import SessionReader
from .leaving import in_time

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
#: How a recording begins; its first bytes tell. What ``--json`` prints of several jobs has
#: the job's name in front.
_RECORDED = re.compile(
    rb'\s*\{\s*("job"\s*:\s*"([^"\\]|\\.)*"\s*,\s*)?"%s"\s*:' % NAME_KEY.encode()
)
_OF_JOBS = re.compile(rb'\s*\{\s*"job"\s*:')
#: Bytes that are read at once.
_PIECE = 1 << 20
#: Bytes of a bad line that are kept.
_SHOWN = 200


class Recorder:
    """Writes each event as a line of JSON, and the outcome as the last one; a subscriber.

    Args:
        path: the file; what was in it is replaced.

    Attributes:
        path: the file.
        error: why the file takes nothing more, if so. The run goes on without it.

    Raises:
        PipesError: the file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.error: str | None = None
        try:
            self._file = _opened(path)
        except BlockingIOError as error:
            raise PipesError(f"cannot write {path}: another run is recorded there") from error
        except OSError as error:
            raise PipesError(f"cannot write {path}: {error.strerror}") from error

    def __call__(self, event: Event) -> None:
        self._write(event_to_json(event))

    def close(self, outcome: Outcome, left_out: int = 0) -> None:
        """Write the outcome as the last line.

        Args:
            outcome: of the session.
            left_out: pieces of the script's output that came too fast for this file.
        """
        if not in_time(lambda: self._close(outcome, left_out)):
            self.error = self.error or "it has stalled"

    def _close(self, outcome: Outcome, left_out: int) -> None:
        self._write(outcome_to_json(outcome, left_out=left_out))
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error.strerror or str(error)

    def _write(self, line: bytes) -> None:
        if self.error is not None:
            return
        rest = memoryview(line + b"\n")
        try:
            while rest:  # a disk that fills up takes a part
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.error = error.strerror or str(error)


def _opened(path: str) -> io.FileIO:
    """The file, emptied, and ours until it is closed.

    Without a buffer: each line is in the file at once, whatever becomes of us.

    Raises:
        BlockingIOError: somebody else records there.
    """
    file = io.FileIO(os.open(path, os.O_WRONLY | os.O_CREAT | _CLOEXEC, 0o666), "w")
    try:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
    except BaseException:
        file.close()
        raise
    return file


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
        has_jobs: it has the events of several scripts (``--file --json``).
        outcome: what it says of the outcome, once it is read: that of a recording (of
            several, the first that is not ok), or, of a messages file, what it shows by
            itself; without a process, that is.

    Raises:
        PipesError: it cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        # Read once, from here on: it may be a pipe.
        with self._reading():
            self._file = open(path, "rb")  # noqa: SIM115  # closed where it is read
            self._head = b""
            # A file may begin with blank lines: those of a layout, or nothing but them.
            while not self._head.strip() and len(self._head) < _PIECE:
                piece = self._file.readline(_PIECE)
                if not piece:
                    break
                self._head += piece
        self.is_recording = _RECORDED.match(self._head) is not None
        self.has_jobs = _OF_JOBS.match(self._head) is not None
        self.outcome: Outcome | None = None

    def close(self) -> None:
        """Close it; reading it to its end does so too."""
        self._file.close()

    def lines(self) -> Iterator[Line]:
        """What its lines say, one after the other; blank ones of a recording say nothing.

        Raises:
            PipesError: it cannot be read any further.
        """
        return self._recorded() if self.is_recording else self._messages()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PipesError(f"cannot read {self.path}: {error.strerror}") from error

    def _pieces(self) -> Iterator[bytes]:
        """Lines; of a long one, pieces: who knows whether it ends."""
        with self._file as file:
            yield from io.BytesIO(self._head)
            while True:
                with self._reading():
                    piece = file.readline(_PIECE)
                if not piece:
                    return
                yield piece

    def _recorded(self) -> Iterator[Line]:
        framer = LineFramer()
        number = position = 0
        for piece in chain(self._pieces(), [None]):
            if piece is None:
                rest = framer.finish()
                lines = [] if rest is None else [rest]
            else:
                lines = framer.feed(piece)
            for line in lines:
                number += 1
                if isinstance(line, OversizedLine) or line.strip():
                    what, fault = _decoded(line, position, is_cut_off=piece is None)
                    if self.outcome is not None and not self.has_jobs:
                        fault = fault or "it comes after the outcome, which is to be the last line"
                    if isinstance(what, Outcome) and (self.outcome is None or self.outcome.ok):
                        self.outcome = what
                    yield Line(number, position, what, fault)
                position += len(line) + 1

    def _messages(self) -> Iterator[Line]:
        reader = SessionReader()
        number, violations, is_whole = 0, 0, True
        times: list[float] = []
        for piece in chain(self._pieces(), [None]):
            if piece is None:
                events, _ = reader.receive_end(0.0)
            else:
                number += is_whole
                is_whole = piece.endswith(b"\n")
                events, _ = reader.receive_data(piece, 0.0)
            for event in events:
                fault = _fault(event)
                if reader.state.violation_count > violations:
                    violations = reader.state.violation_count
                    told = reader.state.violations
                    fault = fault or (told[-1] if len(told) == violations else "out of turn")
                # Nobody knows when it was received.
                event = replace(event, received_at=None)
                if event.sent_at is not None:
                    times[1:] = [event.sent_at]
                yield Line(number, event.position or 0, event, fault)
        seconds = times[-1] - times[0] if times else 0.0
        self.outcome = judge(reader.state, duration=max(seconds, 0.0))


def _decoded(
    line: bytes | OversizedLine, position: int, *, is_cut_off: bool
) -> tuple[Event | Outcome, str | None]:
    try:
        if isinstance(line, OversizedLine):
            raise MalformedMessageError(f"it is {len(line)} bytes long, over the limit")
        row: Any = loads(line)
        if not isinstance(row, dict):
            raise MalformedMessageError("it is no object")
        return from_json(row), None
    except (ValueError, MalformedMessageError) as error:
        reason = f"the last line is cut off: {error}" if is_cut_off else str(error)
        raw = line.prefix if isinstance(line, OversizedLine) else line
        return MalformedEvent(raw[:_SHOWN], reason, position=position), reason


def _fault(event: Event) -> str | None:
    match event:
        case MalformedEvent():
            return event.reason
        case GapEvent():
            return f"messages {event.first} to {event.last} are missing before it"
    return None
