"""From the JSON of a message to its event: the decoders of the seven methods.

Protocol 0.1 is taken at its word, and what does not keep to it is refused with a reason
that names the method, the key and the value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, get_args

from ..errors import MalformedMessageError
from .codec import shown
from .events import (
    AssetCheckEvent,
    ClosedEvent,
    CustomMessageEvent,
    Event,
    ExternalStreamEvent,
    Level,
    LogEvent,
    MaterializationEvent,
    OpenedEvent,
    Severity,
    Stream,
    fast_constructor,
)
from .exceptions import decode_exception
from .messages import MAX_NUMBER, PROTOCOL_VERSION, VERSION_FIELD
from .metadata import decode_metadata

_LEVELS = frozenset(get_args(Level))
_SEVERITIES = frozenset(get_args(Severity))
_STREAMS = frozenset(get_args(Stream))
#: The longest time that is one, in seconds: 30,000 years, which floats can still count.
_LONGEST = 1e12

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


# The decoders of the seven methods: from the params, the whole message and the fields
# that every event has, in the order of Event.


def _opened(params: _Params, message: _Params, common: _Common) -> Event:
    extras = _optional_object(params, "extras", "opened")
    refuse_rest(params, "opened")
    if "pid" in message and common[3] is not None:  # common[3]: the writer, if it is ours
        positive(message["pid"], "pid")
    return _make_opened(*common, extras)


def _closed(params: _Params, message: _Params, common: _Common) -> Event:
    raw = params.pop("exception", None)
    refuse_rest(params, "closed")
    return _make_closed(*common, None if raw is None else decode_exception(raw))


def _log(params: _Params, message: _Params, common: _Common) -> Event:
    text, level = params.get("message"), params.get("level")
    if type(text) is not str:
        raise MalformedMessageError(f"log: 'message' must be a string, got {kind(text)}")
    if type(level) is not str or level not in _LEVELS:
        # The stock host takes any case, and other languages' clients make use of it.
        upper = level.upper() if type(level) is str else None
        if upper not in _LEVELS:
            raise MalformedMessageError(
                f"log: 'level' must be one of {', '.join(get_args(Level))}, got {shown(level)}"
            )
        level = upper
    if len(params) > 2:
        refuse_rest({key for key in params if key not in ("message", "level")}, "log")
    fields = _optional_object(message, "fields", "log") if "fields" in message else {}
    return _make_log(*common, text, level, fields)


def _materialization(params: _Params, message: _Params, common: _Common) -> Event:
    method = "report_asset_materialization"
    asset_key = _text(params, "asset_key", method)
    data_version = params.pop("data_version", None)
    if data_version is not None and type(data_version) is not str:
        raise MalformedMessageError(
            f"{method}: 'data_version' must be a string or null, got {kind(data_version)}"
        )
    metadata = decode_metadata(params.pop("metadata", None))
    refuse_rest(params, method)
    return _make_materialization(*common, asset_key, metadata, data_version)


def _check(params: _Params, message: _Params, common: _Common) -> Event:
    method = "report_asset_check"
    asset_key = _text(params, "asset_key", method)
    check_name = _text(params, "check_name", method)
    passed = params.pop("passed", None)
    if type(passed) is not bool:
        raise MalformedMessageError(f"{method}: 'passed' must be a boolean, got {kind(passed)}")
    severity = params.pop("severity", None)
    if type(severity) is not str or severity not in _SEVERITIES:
        raise MalformedMessageError(
            f"{method}: 'severity' must be WARN or ERROR, got {shown(severity)}"
        )
    metadata = decode_metadata(params.pop("metadata", None))
    refuse_rest(params, method)
    return _make_check(*common, asset_key, check_name, passed, severity, metadata)


def _custom(params: _Params, message: _Params, common: _Common) -> Event:
    if len(params) != 1 or "payload" not in params:
        if "payload" not in params:
            raise MalformedMessageError("report_custom_message: 'payload' is missing")
        refuse_rest({key for key in params if key != "payload"}, "report_custom_message")
    return _make_custom(*common, params["payload"])


def _external_stream(params: _Params, message: _Params, common: _Common) -> Event:
    method = "log_external_stream"
    stream = params.pop("stream", None)
    if type(stream) is not str or stream not in _STREAMS:
        raise MalformedMessageError(
            f"{method}: 'stream' must be stdout or stderr, got {shown(stream)}"
        )
    text = _text(params, "text", method)
    extras = _optional_object(params, "extras", method)
    refuse_rest(params, method)
    return _make_external_stream(*common, stream, text, extras)


DECODERS: dict[str, Callable[[_Params, _Params, _Common], Event]] = {
    "opened": _opened,
    "closed": _closed,
    "log": _log,
    "report_asset_materialization": _materialization,
    "report_asset_check": _check,
    "report_custom_message": _custom,
    "log_external_stream": _external_stream,
}
#: Methods that change who is open, and whose params may be null or left out.
NO_PARAMS = frozenset({"opened", "closed"})


def _optional_object(params: _Params, key: str, method: str) -> dict[str, Any]:
    value = params.pop(key, None)
    if value is None:
        return {}
    if type(value) is not dict:
        raise MalformedMessageError(f"{method}: '{key}' must be an object, got {kind(value)}")
    return value


def _text(params: dict[str, Any], key: str, method: str) -> str:
    value = params.pop(key, None)
    if type(value) is not str:
        raise MalformedMessageError(f"{method}: '{key}' must be a string, got {kind(value)}")
    return value


def positive(value: Any, key: str) -> int:
    """``value``, which must be an integer from 1 to :data:`~.messages.MAX_NUMBER`.

    Raises:
        MalformedMessageError: it is not; names ``key``.
    """
    if type(value) is not int or not 1 <= value <= MAX_NUMBER:
        raise MalformedMessageError(positive_reason(value, key))
    return value


def positive_reason(value: Any, key: str) -> str:
    """Why ``value`` is not :func:`positive`; for the reader, which checks that itself."""
    limit = " of at most 63 bits" if type(value) is int and value > MAX_NUMBER else ""
    return f"'{key}' must be a positive integer{limit}, got {shown(value)}"


def is_seconds(value: Any) -> bool:
    """Whether it is a length of time: a finite number from 0, no boolean."""
    return type(value) in (int, float) and 0 <= value <= _LONGEST


def sent_at_reason(value: Any) -> str:
    """Why ``value`` is not when a message was sent, which is a finite number of seconds."""
    if type(value) is float:
        return f"'sent_at' must be a finite number, got {value}"
    return f"'sent_at' must be a number, got {kind(value)}"


def refuse_rest(params: Collection[str], method: str) -> None:
    """Refuse parameters that no decoder has taken.

    Protocol 0.1 has no extra ones; to pass over one would be to lose it unseen.

    Raises:
        MalformedMessageError: there is one; names the first.
    """
    if params:
        raise MalformedMessageError(f"{method}: unknown parameter {shown(next(iter(params)))}")


def version_reason(message: dict[str, Any]) -> str:
    """Why ``message`` is none of the protocol's version."""
    if VERSION_FIELD not in message:
        return f"not a pipes message: '{VERSION_FIELD}' is missing"
    version = message[VERSION_FIELD]
    return f"protocol version {shown(version)}, only {PROTOCOL_VERSION} is known"


def params_reason(message: dict[str, Any], method: Any) -> str:
    """Why the params of ``message`` are none."""
    if "params" not in message:
        return f"{method}: 'params' is missing"
    return f"{method}: 'params' must be an object, got {kind(message['params'])}"


def kind(value: Any) -> str:
    """The JSON name of a value's type."""
    if value is None:
        return "nothing"
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")
