"""Bytes in, events out: the reading side of a session, whole, without any I/O.

:class:`SessionReader` joins the framer, the decoder and the session's state.
The host feeds it what a channel gives; tests feed it a byte at a time.

A line that is no message never ends the reading: it becomes a
:class:`MalformedEvent` and the next line is taken as if nothing had been.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, get_args

import orjson

from ..errors import MalformedMessageError, TransitionError
from .codec import has_long_digits, loads, loads_exact
from .events import (
    AssetCheckEvent,
    ClosedEvent,
    CustomMessageEvent,
    Event,
    ExternalStreamEvent,
    GapEvent,
    Level,
    LogEvent,
    MalformedEvent,
    MaterializationEvent,
    OpenedEvent,
    Severity,
    Stream,
    fast_constructor,
)
from .exceptions import decode_exception
from .framing import DEFAULT_LINE_LIMIT, RAW_LIMIT, LineFramer, OversizedLine
from .messages import PROTOCOL_VERSION, VERSION_FIELD
from .metadata import decode_metadata
from .state import SessionState

_LEVELS = frozenset(get_args(Level))
_SEVERITIES = frozenset(get_args(Severity))
_STREAMS = frozenset(get_args(Stream))
#: Stands for "no writer": None is a writer, the anonymous one.
_NOBODY: Any = object()

_Params = dict[str, Any]
# The fields that every event has, in the order of Event.
_Common = tuple[int | None, float | None, float, str | None, int]

# See fast_constructor(): a frozen dataclass takes twice as long to make.
_make_opened = fast_constructor(OpenedEvent)
_make_closed = fast_constructor(ClosedEvent)
_make_log = fast_constructor(LogEvent)
_make_materialization = fast_constructor(MaterializationEvent)
_make_check = fast_constructor(AssetCheckEvent)
_make_custom = fast_constructor(CustomMessageEvent)
_make_external_stream = fast_constructor(ExternalStreamEvent)


class SessionReader:
    """Turns what a channel delivers into events and keeps the session's state.

    Args:
        line_limit: the longest line that is decoded, in bytes; a longer one
            becomes a :class:`MalformedEvent`.
    """

    def __init__(self, line_limit: int = DEFAULT_LINE_LIMIT) -> None:
        self.state = SessionState()
        self._framer = LineFramer(line_limit)
        self._gap: GapEvent | None = None
        # The writer of the last message if it is open, since nearly always the next
        # one is its own: then the state need not be asked.
        self._open_writer: Any = _NOBODY

    @property
    def position(self) -> int:
        """Where the next line starts: bytes from the start of the stream."""
        return self._framer.position

    def receive_data(self, data: bytes, received_at: float) -> tuple[list[Event], list[int]]:
        """Take the next bytes of the channel.

        Returns:
            The events of the lines that are complete now, and for each of them
            the bytes it took on the wire (0 for what no line stands for).
        """
        position = self._framer.position
        torn = self._framer.pending > 0
        lines = self._framer.feed(data)
        if not lines:
            return [], []
        # One scan answers for the whole chunk whether a line may hold an integer that
        # orjson would turn into a float; a number cut in two can only be in the first.
        exact = len(lines) if has_long_digits(data) else int(torn)
        return self._decode_lines(lines, position, received_at, exact)

    def receive_end(self, received_at: float) -> tuple[list[Event], list[int]]:
        """The channel is over: what follows the last newline is a message or a torn one."""
        position = self._framer.position
        rest = self._framer.finish()
        if rest is None:
            return [], []
        events, sizes = self._decode_lines([rest], position, received_at, 1)
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
            except (ValueError, MalformedMessageError, TransitionError) as error:
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
            raise MalformedMessageError(f"a message is a JSON object, this is {_kind(message)}")
        writer = message.get("writer")
        sequence, sent_at = (None, None) if writer is None else self._number(message, writer)
        if message.get(VERSION_FIELD) != PROTOCOL_VERSION:
            raise MalformedMessageError(_version_reason(message))
        method = message.get("method")
        decode = _DECODERS.get(method) if type(method) is str else None
        if decode is None:
            raise MalformedMessageError(f"unknown method {_short(method)}")
        params = message.get("params")
        if type(params) is not dict:
            if params is not None or method not in _NO_PARAMS:
                raise MalformedMessageError(_params_reason(message, method))
            params = {}
        event = decode(params, message, (sequence, sent_at, received_at, writer, position))
        if method in _NO_PARAMS:
            self._open_or_close(event, writer)
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
            raise MalformedMessageError(f"'writer' must be a string, got {_kind(writer)}")
        sequence = _positive(message.get("seq"), "seq")
        self._gap = self.state.number(writer, sequence)
        sent_at = message.get("sent_at")
        if type(sent_at) is not float:
            raise MalformedMessageError(f"'sent_at' must be a number, got {_kind(sent_at)}")
        if "dropped" in message:
            self.state.drop(writer, _positive(message["dropped"], "dropped"))
        return sequence, sent_at

    def _open_or_close(self, event: Event, writer: str | None) -> None:
        if isinstance(event, OpenedEvent):
            self.state.open(writer)
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


# The decoders of the seven methods: from the params, the whole message and the fields
# that every event has, in the order of Event.


def _opened(params: _Params, message: _Params, common: _Common) -> Event:
    extras = _optional_object(params, "extras", "opened")
    _refuse_rest(params, "opened")
    return _make_opened(*common, extras)


def _closed(params: _Params, message: _Params, common: _Common) -> Event:
    raw = params.pop("exception", None)
    _refuse_rest(params, "closed")
    return _make_closed(*common, None if raw is None else decode_exception(raw))


def _log(params: _Params, message: _Params, common: _Common) -> Event:
    text, level = params.get("message"), params.get("level")
    if type(text) is not str:
        raise MalformedMessageError(f"log: 'message' must be a string, got {_kind(text)}")
    if type(level) is not str or level not in _LEVELS:
        # The stock host takes any case, and other languages' clients make use of it.
        upper = level.upper() if type(level) is str else None
        if upper not in _LEVELS:
            raise MalformedMessageError(
                f"log: 'level' must be one of {', '.join(get_args(Level))}, got {_short(level)}"
            )
        level = upper
    if len(params) > 2:
        _refuse_rest({key for key in params if key not in ("message", "level")}, "log")
    fields = _optional_object(message, "fields", "log") if "fields" in message else {}
    return _make_log(*common, text, level, fields)


def _materialization(params: _Params, message: _Params, common: _Common) -> Event:
    method = "report_asset_materialization"
    asset_key = _text(params, "asset_key", method)
    data_version = params.pop("data_version", None)
    if data_version is not None and type(data_version) is not str:
        raise MalformedMessageError(
            f"{method}: 'data_version' must be a string or null, got {_kind(data_version)}"
        )
    metadata = decode_metadata(params.pop("metadata", None))
    _refuse_rest(params, method)
    return _make_materialization(*common, asset_key, metadata, data_version)


def _check(params: _Params, message: _Params, common: _Common) -> Event:
    method = "report_asset_check"
    asset_key = _text(params, "asset_key", method)
    check_name = _text(params, "check_name", method)
    passed = params.pop("passed", None)
    if type(passed) is not bool:
        raise MalformedMessageError(f"{method}: 'passed' must be a boolean, got {_kind(passed)}")
    severity = params.pop("severity", None)
    if type(severity) is not str or severity not in _SEVERITIES:
        raise MalformedMessageError(
            f"{method}: 'severity' must be WARN or ERROR, got {_short(severity)}"
        )
    metadata = decode_metadata(params.pop("metadata", None))
    _refuse_rest(params, method)
    return _make_check(*common, asset_key, check_name, passed, severity, metadata)


def _custom(params: _Params, message: _Params, common: _Common) -> Event:
    if len(params) != 1 or "payload" not in params:
        if "payload" not in params:
            raise MalformedMessageError("report_custom_message: 'payload' is missing")
        _refuse_rest({key for key in params if key != "payload"}, "report_custom_message")
    return _make_custom(*common, params["payload"])


def _external_stream(params: _Params, message: _Params, common: _Common) -> Event:
    method = "log_external_stream"
    stream = params.pop("stream", None)
    if type(stream) is not str or stream not in _STREAMS:
        raise MalformedMessageError(
            f"{method}: 'stream' must be stdout or stderr, got {_short(stream)}"
        )
    text = _text(params, "text", method)
    extras = _optional_object(params, "extras", method)
    _refuse_rest(params, method)
    return _make_external_stream(*common, stream, text, extras)


_DECODERS: dict[str, Callable[[_Params, _Params, _Common], Event]] = {
    "opened": _opened,
    "closed": _closed,
    "log": _log,
    "report_asset_materialization": _materialization,
    "report_asset_check": _check,
    "report_custom_message": _custom,
    "log_external_stream": _external_stream,
}
#: Methods that change who is open, and whose params may be null or left out.
_NO_PARAMS = frozenset({"opened", "closed"})


def _optional_object(params: _Params, key: str, method: str) -> dict[str, Any]:
    value = params.pop(key, None)
    if value is None:
        return {}
    if type(value) is not dict:
        raise MalformedMessageError(f"{method}: '{key}' must be an object, got {_kind(value)}")
    return value


def _text(params: dict[str, Any], key: str, method: str) -> str:
    value = params.pop(key, None)
    if type(value) is not str:
        raise MalformedMessageError(f"{method}: '{key}' must be a string, got {_kind(value)}")
    return value


def _positive(value: Any, key: str) -> int:
    if type(value) is not int or value < 1:
        raise MalformedMessageError(f"'{key}' must be a positive integer, got {_short(value)}")
    return value


def _refuse_rest(params: Collection[str], method: str) -> None:
    # Protocol 0.1 has no extra parameters; to pass over one would be to lose it unseen.
    if params:
        raise MalformedMessageError(f"{method}: unknown parameter '{next(iter(params))}'")


def _version_reason(message: dict[str, Any]) -> str:
    if VERSION_FIELD not in message:
        return f"not a pipes message: '{VERSION_FIELD}' is missing"
    version = message[VERSION_FIELD]
    return f"protocol version {_short(version)}, only {PROTOCOL_VERSION} is known"


def _params_reason(message: dict[str, Any], method: Any) -> str:
    if "params" not in message:
        return f"{method}: 'params' is missing"
    return f"{method}: 'params' must be an object, got {_kind(message['params'])}"


def _kind(value: Any) -> str:
    """The JSON name of a value's type."""
    if value is None:
        return "nothing"
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
