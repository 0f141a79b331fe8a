"""Where messages go in a process that no host launched: nowhere, or readably to stderr."""

from __future__ import annotations

from typing import Any

from ..protocol.codec import loads
from .outbox import Kind
from .stderr import complain


class InactiveWarning(UserWarning):
    """This process was not launched by a host; what it reports goes nowhere."""


class NullSink:
    """Takes messages and sends none. The ``inactive="warn"`` mode."""

    def put(self, head: bytes, kind: Kind) -> bool:
        """Take a message; it has been validated by being encoded."""
        return True


class ConsoleSink(NullSink):
    """Prints messages to stderr, one line each. The ``inactive="console"`` mode."""

    def put(self, head: bytes, kind: Kind) -> bool:
        message = loads(head + b"}")
        complain(_line(message["method"], message["params"]))
        return True


def _line(method: str, params: dict[str, Any]) -> str:
    return f"[pipes] {_LINES.get(method, _other)(params)}"


def _log(params: dict[str, Any]) -> str:
    return f"{params['level']:<8} {params['message']}"


def _materialization(params: dict[str, Any]) -> str:
    parts = ["materialization", params["asset_key"], _metadata(params["metadata"])]
    if params["data_version"]:
        parts.append(f"data_version={params['data_version']}")
    return " ".join(part for part in parts if part)


def _check(params: dict[str, Any]) -> str:
    verdict = "passed" if params["passed"] else f"failed ({params['severity']})"
    parts = ["check", params["asset_key"], params["check_name"], verdict]
    return " ".join(part for part in [*parts, _metadata(params["metadata"])] if part)


def _custom(params: dict[str, Any]) -> str:
    return f"custom message {_short(params['payload'])}"


def _stream(params: dict[str, Any]) -> str:
    return f"{params['stream']} {params['text']!r}"


def _other(params: dict[str, Any]) -> str:
    return _short(params)


def _metadata(metadata: dict[str, Any] | None) -> str:
    if not metadata:
        return ""
    return " ".join(f"{key}={_short(value['raw_value'])}" for key, value in metadata.items())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


_LINES = {
    "log": _log,
    "report_asset_materialization": _materialization,
    "report_asset_check": _check,
    "report_custom_message": _custom,
    "log_external_stream": _stream,
}
