"""Bytes in, events out: the reading side of a session, whole, without any I/O.

:class:`SessionReader` joins the framer, the decoder and the session's state.
The host feeds it what a channel gives; tests feed it a byte at a time.

A line that is no message never ends the reading: it becomes a
:class:`MalformedEvent` and the next line is taken as if nothing had been.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    Level,
    LogEvent,
    MalformedEvent,
    MaterializationEvent,
    OpenedEvent,
    Severity,
    Stream,
)
from .exceptions import decode_exception
from .framing import DEFAULT_LINE_LIMIT, RAW_LIMIT, LineFramer, OversizedLine
from .messages import PROTOCOL_VERSION, VERSION_FIELD
from .metadata import decode_metadata
from .state import SessionState

_LEVELS = frozenset(get_args(Level))
_SEVERITIES = frozenset(get_args(Severity))
_STREAMS = frozenset(get_args(Stream))
_NOTHING: Mapping[str, Any] = {}

# The fields that every event has, ready to be passed on: see Event.
_Common = dict[str, Any]


class SessionReader:
    """Turns what a channel delivers into events and keeps the session's state.

    Args:
        line_limit: the longest line that is decoded, in bytes; a longer one
            becomes a :class:`MalformedEvent`.
    """

    def __init__(self, line_limit: int = DEFAULT_LINE_LIMIT) -> None:
        self.state = SessionState()
        self._framer = LineFramer(line_limit)

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
        self,
        lines: list[bytes | OversizedLine],
        position: int,
        received_at: float,
        exact: int,
    ) -> tuple[list[Event], list[int]]:
        events: list[Event] = []
        sizes: list[int] = []
        for index, line in enumerate(lines):
            size = len(line) + 1
            try:
                if type(line) is not bytes:
                    raise MalformedMessageError(
                        f"the line is {len(line)} bytes long, over the limit"
                    )
                message = loads(line) if index < exact else _loads_fast(line)
                event = self._decode(message, position, received_at, events)
            except (ValueError, MalformedMessageError, TransitionError) as error:
                self.state.malformed += 1
                raw = line.prefix if isinstance(line, OversizedLine) else line[:RAW_LIMIT]
                reason = "the line is empty" if not raw.strip() else str(error)
                event = MalformedEvent(raw, reason, position=position, received_at=received_at)
            # Gaps stand in front of the message that showed them, and took no bytes.
            sizes.extend([0] * (len(events) - len(sizes)))
            events.append(event)
            sizes.append(size)
            position += size
        return events, sizes

    def _decode(
        self, message: Any, position: int, received_at: float, events: list[Event]
    ) -> Event:
        if type(message) is not dict:
            raise MalformedMessageError(f"a message is a JSON object, this is {_kind(message)}")
        version = message.get(VERSION_FIELD)
        if version != PROTOCOL_VERSION:
            raise MalformedMessageError(_version_reason(message, version))
        method = message.get("method")
        decode = _DECODERS.get(method) if type(method) is str else None
        if decode is None:
            raise MalformedMessageError(f"unknown method {_short(method)}")
        params = message.get("params", _NOTHING)
        if type(params) is not dict:
            if params is not None or method not in _NO_PARAMS:
                raise MalformedMessageError(_params_reason(message, method))
            params = {}
        common: _Common = {"received_at": received_at, "position": position}
        writer = message.get("writer")
        if writer is not None:
            self._extension(message, writer, common, events)
        event = decode(params, common)
        if method == "log" and "fields" in message:
            event = _with_fields(event, message["fields"])
        self._advance(event, writer)
        return event

    def _extension(
        self, message: dict[str, Any], writer: Any, common: _Common, events: list[Event]
    ) -> None:
        if type(writer) is not str:
            raise MalformedMessageError(f"'writer' must be a string, got {_kind(writer)}")
        sequence = _integer(message.get("seq"), "seq")
        sent_at = message.get("sent_at")
        if type(sent_at) is not float:
            raise MalformedMessageError(f"'sent_at' must be a number, got {_kind(sent_at)}")
        # The number is used up whatever the rest of the message is worth: a message
        # that is malformed did arrive, and is not missing as well.
        gap = self.state.number(writer, sequence)
        if gap is not None:
            events.append(gap)
        if "dropped" in message:
            self.state.drop(writer, _integer(message["dropped"], "dropped"))
        common["writer"] = writer
        common["sent_at"] = sent_at
        common["sequence"] = sequence

    def _advance(self, event: Event, writer: str | None) -> None:
        if isinstance(event, OpenedEvent):
            self.state.open(writer)
        elif isinstance(event, ClosedEvent):
            self.state.close(writer, event.exception)
        else:
            self.state.message(writer)


def _loads_fast(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return loads_exact(line)


def _opened(params: dict[str, Any], common: _Common) -> Event:
    extras = params.pop("extras", None)
    _refuse_rest(params, "opened")
    if extras is None:
        extras = {}
    if type(extras) is not dict:
        raise MalformedMessageError(f"opened: 'extras' must be an object, got {_kind(extras)}")
    return OpenedEvent(extras, **common)


def _closed(params: dict[str, Any], common: _Common) -> Event:
    raw = params.pop("exception", None)
    _refuse_rest(params, "closed")
    return ClosedEvent(None if raw is None else decode_exception(raw), **common)


def _log(params: dict[str, Any], common: _Common) -> Event:
    message, level = params.get("message"), params.get("level")
    if type(message) is not str:
        raise MalformedMessageError(f"log: 'message' must be a string, got {_kind(message)}")
    if type(level) is not str or level not in _LEVELS:
        # The stock host takes any case, and other languages' clients make use of it.
        upper = level.upper() if type(level) is str else None
        if upper not in _LEVELS:
            raise MalformedMessageError(
                f"log: 'level' must be one of {', '.join(get_args(Level))}, got {_short(level)}"
            )
        level = upper
    if len(params) > 2:
        _refuse_rest({k: None for k in params if k not in ("message", "level")}, "log")
    return LogEvent(message, level, **common)  # type: ignore[arg-type]  # checked above


def _materialization(params: dict[str, Any], common: _Common) -> Event:
    method = "report_asset_materialization"
    asset_key = _text(params, "asset_key", method)
    data_version = params.pop("data_version", None)
    if data_version is not None and type(data_version) is not str:
        raise MalformedMessageError(
            f"{method}: 'data_version' must be a string or null, got {_kind(data_version)}"
        )
    metadata = decode_metadata(params.pop("metadata", None))
    _refuse_rest(params, method)
    return MaterializationEvent(asset_key, metadata, data_version, **common)


def _check(params: dict[str, Any], common: _Common) -> Event:
    method = "report_asset_check"
    asset_key = _text(params, "asset_key", method)
    check_name = _text(params, "check_name", method)
    passed = params.pop("passed", None)
    if type(passed) is not bool:
        raise MalformedMessageError(f"{method}: 'passed' must be a boolean, got {_kind(passed)}")
    severity = params.pop("severity", None)
    if severity not in _SEVERITIES:
        raise MalformedMessageError(
            f"{method}: 'severity' must be WARN or ERROR, got {_short(severity)}"
        )
    metadata = decode_metadata(params.pop("metadata", None))
    _refuse_rest(params, method)
    return AssetCheckEvent(asset_key, check_name, passed, severity, metadata, **common)


def _custom(params: dict[str, Any], common: _Common) -> Event:
    if "payload" not in params:
        raise MalformedMessageError("report_custom_message: 'payload' is missing")
    if len(params) > 1:
        _refuse_rest({k: None for k in params if k != "payload"}, "report_custom_message")
    return CustomMessageEvent(params["payload"], **common)


def _external_stream(params: dict[str, Any], common: _Common) -> Event:
    method = "log_external_stream"
    stream = params.pop("stream", None)
    if type(stream) is not str or stream not in _STREAMS:
        raise MalformedMessageError(
            f"{method}: 'stream' must be stdout or stderr, got {_short(stream)}"
        )
    text = _text(params, "text", method)
    extras = params.pop("extras", None)
    if extras is None:
        extras = {}
    if type(extras) is not dict:
        raise MalformedMessageError(f"{method}: 'extras' must be an object, got {_kind(extras)}")
    _refuse_rest(params, method)
    return ExternalStreamEvent(stream, text, extras, **common)  # type: ignore[arg-type]  # checked


_DECODERS: dict[str, Callable[[dict[str, Any], _Common], Event]] = {
    "opened": _opened,
    "closed": _closed,
    "log": _log,
    "report_asset_materialization": _materialization,
    "report_asset_check": _check,
    "report_custom_message": _custom,
    "log_external_stream": _external_stream,
}
#: Methods whose params may be null or left out.
_NO_PARAMS = frozenset({"opened", "closed"})


def _with_fields(event: Event, fields: Any) -> Event:
    if type(fields) is not dict:
        raise MalformedMessageError(f"'fields' must be an object, got {_kind(fields)}")
    assert isinstance(event, LogEvent)
    return LogEvent(
        event.message,
        event.level,
        fields,
        sequence=event.sequence,
        sent_at=event.sent_at,
        received_at=event.received_at,
        writer=event.writer,
        position=event.position,
    )


def _text(params: dict[str, Any], key: str, method: str) -> str:
    value = params.pop(key, None)
    if type(value) is not str:
        raise MalformedMessageError(f"{method}: '{key}' must be a string, got {_kind(value)}")
    return value


def _integer(value: Any, key: str) -> int:
    if type(value) is not int or value < 1:
        raise MalformedMessageError(f"'{key}' must be a positive integer, got {_short(value)}")
    return value


def _refuse_rest(params: dict[str, Any], method: str) -> None:
    # Protocol 0.1 has no extra parameters; to pass over one would be to lose it unseen.
    if params:
        raise MalformedMessageError(f"{method}: unknown parameter '{next(iter(params))}'")


def _version_reason(message: dict[str, Any], version: Any) -> str:
    if VERSION_FIELD not in message:
        return f"not a pipes message: '{VERSION_FIELD}' is missing"
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
