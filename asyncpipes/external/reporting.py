"""What a script reports: checked, encoded and queued before the call returns."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Mapping
from typing import Any, Literal

from ..errors import ChannelError, ClosedError, InvalidParameterError, NotOpenError, UndefinedError
from ..protocol.codec import dumps, is_numpy, shown
from ..protocol.framing import DEFAULT_LINE_LIMIT
from ..protocol.messages import encode_custom_head, encode_head, encode_log_head
from ..protocol.metadata import encode_metadata
from .inactive import NullSink
from .logging import PipesHandler
from .outbox import Kind, Outbox
from .scope import StepScope
from .waiting import Done, Room, block, loop_future

SEVERITIES = ("WARN", "ERROR")
STREAMS = ("stdout", "stderr")

#: What a host of ours takes as a line, without the tail.
_MAX_HEAD = DEFAULT_LINE_LIMIT - 1024
#: What is left of a log line that is longer than that: so many characters of the message, if
#: it is the message that is too long, and the fields that take no more bytes than this.
_CUT_LOG = 100_000


class Reporter(StepScope):
    """The half of ``PipesContext`` that reports; see there for what it promises."""

    def __init__(self) -> None:
        # Where messages go: None before the context is open.
        self._sink: Outbox | NullSink | None = None
        self._outbox: Outbox | None = None  # the same, in a process that a host launched
        self._room = Room(None)
        self._closed = False
        # Reentrant, as is every lock that reporting takes: the garbage collector may
        # run a __del__ that reports inside any of them.
        self._materialized_lock = threading.RLock()
        self._materialized: set[str] = set()
        #: Whether log records carry ``fields``: the host is one of ours.
        self.has_log_fields = False
        self._logger = logging.Logger("asyncpipes")
        self._logger.addHandler(PipesHandler(self))

    @property
    def is_closed(self) -> bool:
        """Whether the context has been closed."""
        return self._closed

    @property
    def log(self) -> logging.Logger:
        """A ``logging.Logger`` whose records go to the host. All levels pass.

        Attach :class:`asyncpipes.PipesHandler` to other loggers to send theirs.
        """
        return self._logger

    def report_asset_materialization(
        self,
        metadata: Mapping[str, Any] | None = None,
        data_version: str | None = None,
        asset_key: str | None = None,
    ) -> Awaitable[None]:
        """Report that an asset was materialized. Once for each asset.

        Args:
            metadata: labels to values; see ``protocol.metadata`` for what each
                Python type becomes, or give ``{"type": ..., "raw_value": ...}``.
            data_version: the data version, if there is one.
            asset_key: which asset; may be left out where the step has just one.

        Returns:
            An awaitable that waits for room in the buffer.

        Raises:
            InvalidParameterError: a wrong type; names the parameter.
            UndefinedError: the asset is not in scope, or not determined, or has been
                materialized already.
            ClosedError: the context is closed.
        """
        method = "report_asset_materialization"
        self._check_open(method)
        _check_type(asset_key, str, method, "asset_key", optional=True)
        key = self._resolve_asset_key(asset_key, method)
        _check_type(data_version, str, method, "data_version", optional=True)
        params = {
            "asset_key": key,
            "data_version": data_version,
            "metadata": encode_metadata(metadata, method=method),
        }
        head = encode_head(method, params)
        with self._materialized_lock:
            if key in self._materialized:
                raise UndefinedError(
                    f"{method}: asset `{key}` has been materialized already; report all of its"
                    " metadata in one call"
                )
            self._materialized.add(key)
        return self._send(head, Kind.RESULT, method)

    def report_asset_check(
        self,
        check_name: str,
        passed: bool,
        severity: Literal["WARN", "ERROR"] = "ERROR",
        metadata: Mapping[str, Any] | None = None,
        asset_key: str | None = None,
    ) -> Awaitable[None]:
        """Report the result of an asset check.

        Args:
            check_name: the name under which the host knows the check.
            passed: whether it passed.
            severity: what a failure means: ``"WARN"`` or ``"ERROR"``.
            metadata: as for :meth:`report_asset_materialization`.
            asset_key: which asset; may be left out where the step has just one.

        Returns:
            An awaitable that waits for room in the buffer.

        Raises:
            InvalidParameterError: a wrong type or severity; names the parameter.
            UndefinedError: the asset is not in scope, or not determined.
            ClosedError: the context is closed.
        """
        method = "report_asset_check"
        self._check_open(method)
        _check_type(asset_key, str, method, "asset_key", optional=True)
        key = self._resolve_asset_key(asset_key, method)
        _check_type(check_name, str, method, "check_name")
        if is_numpy(passed) and isinstance(value := passed.item(), bool):  # type: ignore[attr-defined]  # numpy.bool_
            passed = value
        _check_type(passed, bool, method, "passed")
        _check_choice(severity, SEVERITIES, method, "severity")
        params = {
            "asset_key": key,
            "check_name": check_name,
            "passed": passed,
            "metadata": encode_metadata(metadata, method=method),
            "severity": severity,
        }
        return self._send(encode_head(method, params), Kind.RESULT, method)

    def report_custom_message(self, payload: Any) -> Awaitable[None]:
        """Send any JSON value to the host; see ``protocol.codec`` for Python's other types.

        Returns:
            An awaitable that waits for room in the buffer: above the limit, until it
            is half empty. Cancelling that takes nothing back.

        Raises:
            InvalidParameterError: the payload holds what JSON cannot, and it names the key; or
                the message is longer than the 64 MiB that a host of ours takes.
            BufferFullError: on an event loop's thread, twice the limit is waiting.
            ClosedError: the context is closed.
        """
        method = "report_custom_message"
        self._check_open(method)
        return self._send(encode_custom_head(payload), Kind.CUSTOM, method)

    def log_external_stream(
        self,
        stream: Literal["stdout", "stderr"],
        text: str,
        extras: Mapping[str, Any] | None = None,
    ) -> Awaitable[None]:
        """Send a piece of another process's output.

        Args:
            stream: ``"stdout"`` or ``"stderr"``.
            text: any piece of text, not necessarily a line.
            extras: JSON values that say more about it.

        Returns:
            An awaitable that waits for room in the buffer.

        Raises:
            InvalidParameterError: a wrong type or stream; names the parameter.
            ClosedError: the context is closed.
        """
        method = "log_external_stream"
        self._check_open(method)
        _check_choice(stream, STREAMS, method, "stream")
        _check_type(text, str, method, "text")
        _check_type(extras, Mapping, method, "extras", optional=True)
        params = {"stream": stream, "text": text, "extras": dict(extras or {})}
        return self._send(encode_head(method, params), Kind.RECORD, method)

    def send_log(self, message: str, level: str, fields: Mapping[str, Any] | None) -> None:
        """Queue a log line; what the logging handler calls. Never raises for a closed context."""
        if self._sink is None or self._closed:
            return
        head = encode_log_head(message, level, fields)
        if self.has_log_fields and len(head) > _MAX_HEAD:
            head = _shortened_log(message, level, fields or {})
        self._sink.put(head, Kind.RECORD)

    def flush(self) -> Awaitable[None]:
        """Make sure that all that was reported is with the channel.

        On an event loop's thread it returns an awaitable that waits; elsewhere it
        blocks. Cancelling the wait takes nothing back.

        Raises:
            ChannelError: the channel failed; ``undelivered`` counts what it did not take.
        """
        self._check_open("flush")
        if asyncio._get_running_loop() is not None:
            return self._flush()
        if self._outbox is not None:
            block(self._outbox.on_delivered)
            self._raise_failure("flush")
        return Done()

    async def _flush(self) -> None:
        if self._outbox is not None:
            await loop_future(self._outbox.on_delivered)
            self._raise_failure("flush")

    def _raise_failure(self, what: str) -> None:
        assert self._outbox is not None, "only launched processes have a channel that can fail"
        failure = self._outbox.failure
        if failure is None:
            return
        count = self._outbox.undelivered
        lost = (
            "1 message was not delivered: "
            if count == 1
            else f"{count} messages were not delivered: "
        )
        text = f"{what}: {lost if count else ''}{failure}"
        raise ChannelError(text, undelivered=count) from failure

    def _send(self, head: bytes, kind: Kind, method: str) -> Awaitable[None]:
        assert self._sink is not None, "checked by _check_open()"
        if self.has_log_fields and len(head) > _MAX_HEAD:
            raise InvalidParameterError(
                f"{method}: the message is {len(head)} bytes long, and the host takes lines of at"
                f" most {DEFAULT_LINE_LIMIT}; put the data into a file or a store, and report"
                " where it is"
            )
        if not self._sink.put(head, kind) and self._closed:
            self._check_open(method)  # closed between the check and the put
        return self._room

    def _check_open(self, method: str) -> None:
        if self._closed:
            raise ClosedError(
                f"{method}: the context is closed, so nothing can be reported through it; report"
                " inside the `with` block, or open another context"
            )
        if self._sink is None:
            raise NotOpenError(
                f"{method}: the context is not open yet; report inside `with open_pipes() as"
                " pipes:` or `async with open_pipes() as pipes:`"
            )


def _shortened_log(message: str, level: str, fields: Mapping[str, Any]) -> bytes:
    """A log line that the host takes, in the place of one that is too long; says what is gone."""
    sizes = {name: len(dumps(value, where="log: fields")) for name, value in fields.items()}
    long = [f"{name}, {size} bytes" for name, size in sizes.items() if size > _CUT_LOG]
    note = f" (left out: {'; '.join(long)})" if long else ""
    kept = {name: value for name, value in fields.items() if sizes[name] <= _CUT_LOG}
    head = encode_log_head(message + note, level, kept)
    if len(head) <= _MAX_HEAD:
        return head
    cut = f"{message[:_CUT_LOG]}... (cut: {len(message)} characters in all)"
    return encode_log_head(cut + note, level, kept)


def _check_type(
    value: Any, expected: type, method: str, parameter: str, *, optional: bool = False
) -> None:
    if isinstance(value, expected) or (optional and value is None):
        return
    name = f"{expected.__name__} or None" if optional else expected.__name__
    raise InvalidParameterError(
        f"{method}: `{parameter}` must be {name}, got {type(value).__name__}: {shown(value, 100)}"
    )


def _check_choice(value: Any, choices: tuple[str, ...], method: str, parameter: str) -> None:
    if not isinstance(value, str) or value not in choices:
        raise InvalidParameterError(
            f"{method}: `{parameter}` must be {' or '.join(choices)}, got {shown(value, 100)}"
        )
