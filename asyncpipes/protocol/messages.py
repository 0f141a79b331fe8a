"""The seven messages of protocol 0.1, as bytes ready for a channel.

A message is written in two steps. The caller's thread encodes all that the
caller said into a *head*, a JSON object that lacks its last brace::

    {"__dagster_pipes_version":"0.1","method":"log","params":{"message":"hi","level":"INFO"}

and whoever accepts it for sending closes it with a *tail*: the bare ``}`` for a
stock host, or the negotiated extension, whose numbers exist only then::

    ,"writer":"k3f9","seq":17,"sent_at":1767225600.123456}

The stock host ignores unknown keys at the top level, and only there; they are
still sent to a host of ours alone (``"asyncpipes": {"v": 1}`` in the messages
params of the bootstrap).

A host that asks for it (``"asyncpipes": {"v": 1, "heartbeat": 10.0}``, in seconds) is
sent a *heartbeat* at that interval too, a line of its own that has no number::

    {"__dagster_pipes_version":"0.1","method":"asyncpipes.heartbeat","params":{"interval":10.0,
     "lag":0.012,"pid":4711},"writer":"k3f9","sent_at":1767225600.123456}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .codec import dumps

PROTOCOL_VERSION = "0.1"
VERSION_FIELD = "__dagster_pipes_version"

#: The key in the messages params by which our host and our scripts agree on extensions.
EXTENSION_KEY = "asyncpipes"
EXTENSION_VERSION = 1

#: The longest id of a writer, in characters: room for any UUID or digest, where ours are 12.
#: A host keeps the ids of all writers, so a longer one is refused.
MAX_WRITER_ID = 64
#: The largest number that the extension may name: with ``seq`` and ``dropped`` it would take
#: a machine centuries to get there, and Python refuses to print sums of some thousand digits.
MAX_NUMBER = 2**63 - 1

#: Not one of protocol 0.1, and never sent to a stock host, whose reader it would end.
HEARTBEAT_METHOD = "asyncpipes.heartbeat"
#: The limits of a heartbeat's interval, in seconds: more often costs more than it tells,
#: and what comes once a day tells nothing any more.
MIN_HEARTBEAT = 0.01
MAX_HEARTBEAT = 86_400.0

METHODS = (
    "opened",
    "closed",
    "log",
    "report_asset_materialization",
    "report_asset_check",
    "report_custom_message",
    "log_external_stream",
)

_START = {
    method: f'{{"{VERSION_FIELD}":"{PROTOCOL_VERSION}","method":"{method}","params":'.encode()
    for method in METHODS
}
_LOG_START = _START["log"] + b'{"message":'
_CUSTOM_START = _START["report_custom_message"] + b'{"payload":'
_LEVEL_ENDS = {
    level: f',"level":"{level}"}}'.encode()
    for level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
}

_HEARTBEAT = (
    f'{{"{VERSION_FIELD}":"{PROTOCOL_VERSION}","method":"{HEARTBEAT_METHOD}","params":'.encode()
    + b'{"interval":%.6f,"lag":%b,"pid":%d},"writer":"%b","sent_at":%.6f}\n'
)

#: The end of a line towards a stock host.
PLAIN_TAIL = b"}\n"


def encode_head(method: str, params: Mapping[str, Any]) -> bytes:
    """Encode a message but for its last brace.

    Raises:
        InvalidParameterError: ``params`` hold what JSON cannot.
    """
    return _START[method] + dumps(params, where=method)


def encode_log_head(message: str, level: str, fields: Mapping[str, Any] | None = None) -> bytes:
    """Encode a log line but for its last brace; ``fields`` go to a host of ours alone."""
    head = _LOG_START + dumps(message, where="log: message") + _LEVEL_ENDS[level]
    if fields:
        head += b',"fields":' + dumps(fields, where="log: fields")
    return head


def encode_custom_head(payload: Any) -> bytes:
    """Encode a custom message but for its last brace.

    Raises:
        InvalidParameterError: the payload holds what JSON cannot; names the key.
    """
    return _CUSTOM_START + dumps(payload, where="report_custom_message: payload") + b"}"


def extension_tail(writer: str, seq: int, sent_at: float, dropped: int = 0) -> bytes:
    """The end of a line towards a host of ours where extensions were agreed on.

    ``dropped`` is how many log and stream records this writer has dropped so
    far; it is left out while it is 0.
    """
    if dropped:
        return b',"writer":"%b","seq":%d,"sent_at":%.6f,"dropped":%d}\n' % (
            writer.encode(),
            seq,
            sent_at,
            dropped,
        )
    return b',"writer":"%b","seq":%d,"sent_at":%.6f}\n' % (writer.encode(), seq, sent_at)


def encode_heartbeat(
    writer: str, interval: float, lag: float | None, pid: int, sent_at: float
) -> bytes:
    """A heartbeat, a whole line with its newline; for a host of ours that asked for it.

    Args:
        interval: seconds from one heartbeat to the next.
        lag: seconds that the script's event loop took, or is taking by now, to answer;
            None where there is no loop.
        pid: the process that sends it.
        sent_at: seconds since the epoch.
    """
    answer = b"null" if lag is None else b"%.6f" % lag
    return _HEARTBEAT % (interval, answer, pid, writer.encode(), sent_at)


def heartbeat_interval(messages_params: Mapping[str, Any]) -> float | None:
    """How often the host that sent these params wants a heartbeat, in seconds; None for never.

    What is no number from :data:`MIN_HEARTBEAT` to :data:`MAX_HEARTBEAT` is no wish: a
    script must not fail for it.
    """
    if not speaks_extension(messages_params):
        return None
    interval = messages_params[EXTENSION_KEY].get("heartbeat")
    is_number = type(interval) in (int, float)  # True is none
    return float(interval) if is_number and MIN_HEARTBEAT <= interval <= MAX_HEARTBEAT else None


def speaks_extension(messages_params: Mapping[str, Any]) -> bool:
    """Whether the host that sent these params is one of ours, of version 1 or later."""
    offer = messages_params.get(EXTENSION_KEY)
    if not isinstance(offer, Mapping):
        return False
    version = offer.get("v")
    return type(version) is int and version >= EXTENSION_VERSION
