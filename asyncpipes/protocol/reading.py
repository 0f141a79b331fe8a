"""Bytes in, events out: the reading side of a session, whole, without any I/O.

:class:`SessionReader` joins the framer, the decoder and the session's state.
The host feeds it what a channel gives; tests feed it a byte at a time.

A line that is no message never ends the reading: it becomes a
:class:`MalformedEvent` and the next line is taken as if nothing had been.

A line that a writer of ours sent twice, byte for byte, is counted and passed over; see
``recent`` for how far back it is known. A heartbeat makes no event either.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any, NoReturn

import orjson

from ..errors import MalformedMessageError, TransitionError
from .codec import has_long_digits, loads, loads_exact, shown
from .decoding import (
    DECODERS,
    NO_PARAMS,
    is_seconds,
    kind,
    params_reason,
    positive,
    positive_reason,
    refuse_rest,
    sent_at_reason,
    version_reason,
)
from .events import ClosedEvent, Event, GapEvent, MalformedEvent, OpenedEvent
from .framing import DEFAULT_LINE_LIMIT, RAW_LIMIT, LineFramer, OversizedLine
from .messages import (
    HEARTBEAT_METHOD,
    MAX_HEARTBEAT,
    MAX_NUMBER,
    MAX_WRITER_ID,
    MIN_HEARTBEAT,
    PROTOCOL_VERSION,
    VERSION_FIELD,
)
from .recent import RecentLines
from .state import SessionState

#: Stands for "no writer": None is a writer, the anonymous one.
_NOBODY: Any = object()


class _NoEventError(Exception):
    """A line that is right and no event. Raised, since to ask after each line costs more."""


class SessionReader:
    """Turns what a channel delivers into events and keeps the session's state.

    Args:
        line_limit: the longest line that is decoded, in bytes; a longer one
            becomes a :class:`MalformedEvent`.
    """

    def __init__(self, line_limit: int = DEFAULT_LINE_LIMIT) -> None:
        self.state = SessionState()
        self._framer = LineFramer(line_limit)
        self._recent = RecentLines()
        self._gap: GapEvent | None = None
        # The writer of the last message if it is open, since nearly always the next
        # one is its own: then the state need not be asked.
        self._open_writer: Any = _NOBODY

    @property
    def position(self) -> int:
        """Where the next line starts: bytes from the start of the stream."""
        return self._framer.position

    def receive_data(
        self, data: bytes, received_at: float, heard_at: float = 0.0
    ) -> tuple[list[Event], list[int]]:
        """Take the next bytes of the channel.

        Args:
            data: whatever one read gave.
            received_at: when, for the events: seconds since the epoch.
            heard_at: when, by the clock of those who ask how long ago a writer was
                heard: see ``SessionState.begin``.

        Returns:
            The events of the lines that are complete now, and for each of them
            the bytes it took on the wire (0 for what no line stands for).
        """
        position = self._framer.position
        torn = self._framer.pending > 0
        lines = self._framer.feed(data)
        self._recent.add(data)
        if not lines:
            return [], []
        self.state.begin(heard_at)
        # One scan answers for the whole chunk whether a line may hold an integer that
        # orjson would turn into a float; a number cut in two can only be in the first.
        exact = len(lines) if has_long_digits(data) else int(torn)
        events, sizes = self._decode_lines(lines, position, received_at, exact)
        first = lines[0]
        if not self.state.is_numbered:
            # Stock scripts number nothing, so nothing can come twice.
            self._recent.forget(self._framer.pending)
        elif torn and isinstance(first, bytes):
            self._recent.add_torn(first)
        return events, sizes

    def receive_end(self, received_at: float) -> tuple[list[Event], list[int]]:
        """The channel is over: what follows the last newline is a message or a torn one."""
        position = self._framer.position
        rest = self._framer.finish()
        if rest is None:
            return [], []
        events, sizes = self._decode_lines([rest], position, received_at, 1)
        if not events:
            return [], []
        last = events[-1]
        if isinstance(last, MalformedEvent) and not isinstance(rest, OversizedLine):
            reason = f"the last line is cut off: {last.reason}"
            events[-1] = MalformedEvent(
                last.raw, reason, position=position, received_at=received_at
            )
        return events, sizes

    def _decode_lines(
        self, lines: list[bytes | OversizedLine], position: int, received_at: float, exact: int
    ) -> tuple[list[Event], list[int]]:
        events: list[Event] = []
        sizes: list[int] = []
        if exact:
            run = lines[:exact]
            position = self._decode_run(run, _load_exactly, position, received_at, events, sizes)
            lines = lines[exact:]
        self._decode_run(lines, orjson.loads, position, received_at, events, sizes)
        return events, sizes

    def _decode_run(
        self,
        lines: list[bytes | OversizedLine],
        load: Callable[[Any], Any],
        position: int,
        received_at: float,
        events: list[Event],
        sizes: list[int],
    ) -> int:
        """Decode ``lines`` onto ``events`` and ``sizes``; return the position behind them."""
        decode = self._decode
        for line in lines:
            try:
                try:
                    message = load(line)
                except (ValueError, TypeError):  # no JSON, or no line but an OversizedLine
                    message = _load_slowly(line)
                event = decode(message, position, received_at)
            except _NoEventError:
                position += len(line) + 1
                continue
            except (ValueError, MalformedMessageError, TransitionError) as error:
                if isinstance(error, TransitionError) and self._is_duplicate(line, position):
                    position += len(line) + 1
                    continue
                self.state.malformed += 1
                event = _malformed(line, str(error), position, received_at)
            if self._gap is not None:
                # In front of the message that showed it; it took no bytes.
                gap = self._gap
                events.append(
                    GapEvent(
                        gap.first,
                        gap.last,
                        writer=gap.writer,
                        received_at=received_at,
                        position=position,
                    )
                )
                sizes.append(0)
                self._gap = None
            size = len(line) + 1
            events.append(event)
            sizes.append(size)
            position += size
        return position

    def _decode(self, message: Any, position: int, received_at: float) -> Event:
        if type(message) is not dict:
            raise MalformedMessageError(f"a message is a JSON object, this is {kind(message)}")
        writer = message.get("writer")
        sequence, sent_at = (None, None) if writer is None else self._number(message, writer)
        if message.get(VERSION_FIELD) != PROTOCOL_VERSION:
            raise MalformedMessageError(version_reason(message))
        method = message.get("method")
        decode = DECODERS.get(method) if type(method) is str else None
        if decode is None:
            raise MalformedMessageError(f"unknown method {shown(method)}")
        params = message.get("params")
        if type(params) is not dict:
            if params is not None or method not in NO_PARAMS:
                raise MalformedMessageError(params_reason(message, method))
            params = {}
        event = decode(params, message, (sequence, sent_at, received_at, writer, position))
        if method in NO_PARAMS:
            self._open_or_close(event, writer, message)
        elif writer is None and method == "log_external_stream":
            pass  # a stock script stops capturing its output only after it has sent `closed`
        elif writer != self._open_writer:
            self._open_writer = writer if self.state.message(writer) else _NOBODY
        return event

    def _number(self, message: dict[str, Any], writer: Any) -> tuple[int, float]:
        """Check what the extension adds. A number is used up whatever the rest is worth:
        a message that is malformed did arrive, and is not missing as well.
        """
        if type(writer) is not str:
            raise MalformedMessageError(f"'writer' must be a string, got {kind(writer)}")
        if len(writer) > MAX_WRITER_ID:
            raise MalformedMessageError(
                f"'writer' must have {MAX_WRITER_ID} characters at most, got {len(writer)}"
            )
        sequence = message.get("seq")
        if type(sequence) is not int or not 1 <= sequence <= MAX_NUMBER:
            if sequence is None and message.get("method") == HEARTBEAT_METHOD:
                self._beat(message, writer)
            raise MalformedMessageError(positive_reason(sequence, "seq"))
        self._gap = self.state.number(writer, sequence)
        sent_at = message.get("sent_at")
        if type(sent_at) is not float or not isfinite(sent_at):
            raise MalformedMessageError(sent_at_reason(sent_at))
        if "dropped" in message:
            self.state.drop(writer, positive(message["dropped"], "dropped"))
        return sequence, sent_at

    def _beat(self, message: dict[str, Any], writer: str) -> NoReturn:
        """Take a heartbeat, which has no number and is no event."""
        if message.get(VERSION_FIELD) != PROTOCOL_VERSION:
            raise MalformedMessageError(version_reason(message))
        params = message.get("params")
        if type(params) is not dict:
            raise MalformedMessageError(params_reason(message, HEARTBEAT_METHOD))
        interval, lag = params.pop("interval", None), params.pop("lag", None)
        if not is_seconds(interval) or not MIN_HEARTBEAT <= interval <= MAX_HEARTBEAT:
            raise MalformedMessageError(
                f"{HEARTBEAT_METHOD}: 'interval' must be a number from {MIN_HEARTBEAT:g} to"
                f" {MAX_HEARTBEAT:g}, got {shown(interval)}"
            )
        if lag is not None and not is_seconds(lag):
            raise MalformedMessageError(
                f"{HEARTBEAT_METHOD}: 'lag' must be a number from 0 or null, got {shown(lag)}"
            )
        pid = positive(params.pop("pid", None), "pid")
        refuse_rest(params, HEARTBEAT_METHOD)
        sent_at = message.get("sent_at")
        if type(sent_at) is not float or not isfinite(sent_at):
            raise MalformedMessageError(sent_at_reason(sent_at))
        self.state.beat(writer, pid, interval, lag)
        raise _NoEventError

    def _is_duplicate(self, line: bytes | OversizedLine, position: int) -> bool:
        """Whether a line with a used number is the very line that had come; counts it."""
        if not isinstance(line, bytes) or not self._recent.holds(line, position):
            return False
        self.state.duplicates += 1
        return True

    def _open_or_close(self, event: Event, writer: str | None, message: dict[str, Any]) -> None:
        if isinstance(event, OpenedEvent):
            self.state.open(writer, None if writer is None else message.get("pid"))
            self._open_writer = writer
        elif isinstance(event, ClosedEvent):
            self.state.close(writer, event.exception)
            self._open_writer = _NOBODY


def _load_exactly(line: bytes | OversizedLine) -> Any:
    return loads(line) if isinstance(line, bytes) else _load_slowly(line)


def _load_slowly(line: bytes | OversizedLine) -> Any:
    if isinstance(line, OversizedLine):
        raise MalformedMessageError(f"the line is {len(line)} bytes long, over the limit")
    return loads_exact(line)


def _malformed(
    line: bytes | OversizedLine, reason: str, position: int, received_at: float
) -> MalformedEvent:
    raw = line.prefix if isinstance(line, OversizedLine) else line[:RAW_LIMIT]
    if not raw.strip():
        reason = "the line is empty"
    return MalformedEvent(raw, reason, position=position, received_at=received_at)
