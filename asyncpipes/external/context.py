"""``open_pipes`` and ``PipesContext``: what a script sees of its host."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import ExitStack
from contextvars import Token
from types import TracebackType
from typing import Any, Literal, TypeVar, get_args

from ..channels.base import ChannelWriter
from ..channels.file import INCLUDE_STDIO_KEY
from ..errors import (
    ChannelError,
    ClosedError,
    InactiveError,
    InvalidParameterError,
    NotOpenError,
    UndefinedError,
)
from ..protocol.codec import is_numpy
from ..protocol.context import ContextData
from ..protocol.exceptions import encode_exception
from ..protocol.messages import (
    encode_custom_head,
    encode_head,
    encode_log_head,
    speaks_extension,
)
from ..protocol.metadata import encode_metadata
from . import lifecycle
from .inactive import ConsoleSink, InactiveWarning, NullSink
from .loaders import (
    ContextLoader,
    DefaultContextLoader,
    MappingParamsLoader,
    ParamsLoader,
    StockWriter,
    default_params_loader,
    default_writer,
)
from .logging import PipesHandler
from .outbox import Kind, Outbox, Room, wait_delivered
from .scope import StepScope
from .stdio import StreamCapture

Inactive = Literal["warn", "error", "console"]
T = TypeVar("T")

#: What may wait for the channel, in bytes: half a minute of messages for a channel
#: that takes 2 MB/s, and little enough for a small container.
DEFAULT_MAX_BUFFERED_BYTES = 64 * 1024 * 1024
DEFAULT_CLOSE_TIMEOUT = 30.0

_SEVERITIES = ("WARN", "ERROR")
_STREAMS = ("stdout", "stderr")


def open_pipes(
    *,
    params_loader: ParamsLoader | Mapping[str, Any] | None = None,
    context_loader: ContextLoader | None = None,
    message_writer: Any = None,
    inactive: Inactive = "warn",
    capture_stdio: bool | None = None,
    handle_signals: bool = True,
    register_stock: bool = False,
    max_buffered_bytes: int = DEFAULT_MAX_BUFFERED_BYTES,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
) -> PipesContext:
    """Connect this process to the host that launched it.

    Use it with ``async with`` or plain ``with``; nothing happens before that::

        async with open_pipes() as pipes:
            pipes.log.info("starting")
            pipes.report_asset_materialization(metadata={"rows": 2})

    Leaving the block sends what is left and the ``closed`` message. An exception of
    the block goes to the host with it, and on to the caller unchanged;
    ``sys.exit(0)`` is a clean end.

    Args:
        params_loader: where the bootstrap is. By default the environment, else the
            command line. A mapping with the two ``DAGSTER_PIPES_*`` entries, a loader
            of ours, or any loader of ``dagster_pipes`` will do.
        context_loader: reads the context data; loaders of ``dagster_pipes`` work.
        message_writer: where messages go, instead of what the host asks for: a
            message writer of ``dagster_pipes``, or a ``ChannelWriter``.
        inactive: what to do when no host launched this process. ``"warn"``: one
            warning, then everything is validated and sent nowhere; ``"error"``:
            raise; ``"console"``: print reports readably to stderr.
        capture_stdio: copy stdout and stderr to the host. By default if it asks.
        handle_signals: close properly on SIGTERM. Only where SIGTERM has its default
            action and this is the main thread; the exit status stays that of SIGTERM.
        register_stock: make this the context of ``dagster_pipes.PipesContext.get()``
            too, for libraries that call it, until the block is left.
        max_buffered_bytes: what may wait for a channel that is slower than the
            script; see ``report_*`` for what happens above it.
        close_timeout: how long leaving the block waits for the channel, in seconds.

    Raises (on entering):
        BootstrapError: the bootstrap or the context data cannot be used.
        ChannelError: the message channel cannot be opened.
        InactiveError: no host launched this process, and ``inactive="error"``.

    Raises (on leaving, after a clean block only):
        ChannelError: not everything was delivered; ``undelivered`` counts it.

    Cancellation: leaving the block is shielded from it, for ``close_timeout`` at most;
    it is raised afterwards.
    """
    if inactive not in get_args(Inactive):
        raise InvalidParameterError(
            f"open_pipes: `inactive` must be one of {', '.join(get_args(Inactive))}, got"
            f" {inactive!r}"
        )
    if max_buffered_bytes < 1:
        raise InvalidParameterError("open_pipes: `max_buffered_bytes` must be at least 1")
    if isinstance(params_loader, Mapping):
        params_loader = MappingParamsLoader(params_loader)
    return PipesContext(
        params_loader=params_loader,
        context_loader=context_loader,
        message_writer=message_writer,
        inactive=inactive,
        capture_stdio=capture_stdio,
        guard=lifecycle.TerminationGuard() if handle_signals else None,
        register_stock=register_stock,
        max_buffered_bytes=max_buffered_bytes,
        close_timeout=close_timeout,
    )


class PipesContext(StepScope):
    """The open connection to the host. Made by :func:`open_pipes`.

    All ``report_*`` methods are plain functions for any thread: when the call returns,
    the report is validated, encoded and queued, in the order of the calls, and later
    changes to its arguments change nothing. They return an awaitable that waits for
    room in the buffer; awaiting it is optional, and is the brake for scripts that
    report faster than the channel takes it. Materializations and checks are with a
    file channel when the call returns.

    Above ``max_buffered_bytes``: materializations and checks are always taken. Custom
    messages block, or, on an event loop's thread, are taken up to twice the limit
    and then raise ``BufferFullError``. Log and stream records block, or, on an event
    loop's thread, are dropped and counted, and the host's outcome says so.

    A channel that fails does not stop the script: reports are counted and go nowhere,
    after one line on stderr; :meth:`flush` and a clean exit raise ``ChannelError``.
    """

    def __init__(
        self,
        *,
        params_loader: ParamsLoader | None,
        context_loader: ContextLoader | None,
        message_writer: Any,
        inactive: Inactive,
        capture_stdio: bool | None,
        guard: lifecycle.TerminationGuard | None,
        register_stock: bool,
        max_buffered_bytes: int,
        close_timeout: float,
    ) -> None:
        self._params_loader = params_loader
        self._context_loader = context_loader
        self._message_writer = message_writer
        self._inactive = inactive
        self._capture_stdio = capture_stdio
        self._guard = guard
        self._register_stock = register_stock
        self._max_buffered_bytes = max_buffered_bytes
        self._close_timeout = close_timeout

        self._writer: ChannelWriter | None = None
        self._outbox: Outbox | None = None
        self._sink: Outbox | NullSink | None = None
        self._room = Room(None)
        self._closed = False
        self._close_lock = threading.Lock()
        self._captures: list[StreamCapture] = []
        self._token: Token[PipesContext | None] | None = None
        self._undo = ExitStack()
        self._materialized: set[str] = set()
        self._materialized_lock = threading.Lock()
        #: Whether log records carry ``fields``: the host is one of ours.
        self.has_log_fields = False
        self._logger = logging.Logger("asyncpipes")
        self._logger.addHandler(PipesHandler(self))

    @classmethod
    def get(cls) -> PipesContext:
        """The context of the current task; in a fresh thread, the one that is open.

        Raises:
            NotOpenError: none is open.
            AmbiguousContextError: several are open, and none is this task's.
        """
        return lifecycle.find()

    @classmethod
    def is_initialized(cls) -> bool:
        """Whether :meth:`get` would find a context."""
        return lifecycle.is_any_open()

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

    # Reporting.

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
        _check_choice(severity, _SEVERITIES, method, "severity")
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
            InvalidParameterError: the payload holds what JSON cannot; names the key.
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
        _check_choice(stream, _STREAMS, method, "stream")
        _check_type(text, str, method, "text")
        _check_type(extras, Mapping, method, "extras", optional=True)
        params = {"stream": stream, "text": text, "extras": dict(extras or {})}
        return self._send(encode_head(method, params), Kind.RECORD, method)

    def send_log(self, message: str, level: str, fields: Mapping[str, Any] | None) -> None:
        """Queue a log line; what the logging handler calls. Never raises for a closed context."""
        if self._sink is not None and not self._closed:
            self._sink.put(encode_log_head(message, level, fields), Kind.RECORD)

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
            _block(self._outbox.on_delivered, None)
            self._raise_failure("flush")
        return _DONE

    async def _flush(self) -> None:
        if self._outbox is not None:
            await wait_delivered(self._outbox)
            self._raise_failure("flush")

    def _send(self, head: bytes, kind: Kind, method: str) -> Awaitable[None]:
        assert self._sink is not None, "checked by _check_open()"
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

    def _raise_failure(self, what: str, otherwise: str | None = None) -> None:
        outbox = self._outbox
        assert outbox is not None, "only launched processes have a channel that can fail"
        failure = outbox.failure
        reason = str(failure) if failure is not None else otherwise
        if reason is None:
            return
        count = outbox.undelivered
        raise ChannelError(f"{what}: {count} messages were not delivered: {reason}",
                           undelivered=count) from failure

    # Opening.

    def __enter__(self) -> PipesContext:
        self._load()
        self._activate()
        return self

    async def __aenter__(self) -> PipesContext:
        if self._context_loader is None and self._message_writer is None:
            self._load()  # local files, read once: milliseconds
        else:
            # Somebody's loader or writer may talk to a server. It must not be left
            # half open, so a cancellation waits for it.
            cancelled = await _in_thread(self._load)
            if cancelled is not None:
                self._abort()
                raise cancelled
        self._activate()
        return self

    def _load(self) -> None:
        """Read the bootstrap and the context, open the channel. May block."""
        if self._sink is not None or self._closed:
            raise ClosedError("a context can be entered once: call open_pipes() again")
        loader = self._params_loader or default_params_loader()
        if not loader.is_dagster_pipes_process():
            self._become_inactive()
            return
        try:
            scope = (self._context_loader or DefaultContextLoader()).load_context(
                loader.load_context_params()
            )
            self._data = ContextData.from_wire(self._undo.enter_context(scope))
            params = loader.load_messages_params()
            self.has_log_fields = speaks_extension(params)
            if self._capture_stdio is None:
                self._capture_stdio = params.get(INCLUDE_STDIO_KEY) is True
            self._writer = _make_writer(self._message_writer, params)
            self._writer.open()
            if self._register_stock:
                self._undo.callback(_register_stock(self))
            name = os.urandom(6).hex() if self.has_log_fields else None
            self._outbox = Outbox(self._writer, name, self._max_buffered_bytes)
            extras = dict(self._writer.opened_extras())
            self._outbox.put(encode_head("opened", {"extras": extras}), Kind.RESULT)
        except BaseException:
            self._abort()
            raise

    def _abort(self) -> None:
        """Entering failed: release what it had got hold of."""
        try:
            if self._writer is not None:
                self._writer.close()
        finally:
            self._undo.close()

    def _become_inactive(self) -> None:
        self._launched = False
        self._data = ContextData()
        what = "this process was not launched by a Dagster Pipes host"
        if self._inactive == "error":
            raise InactiveError(
                f"{what}: neither the environment variables DAGSTER_PIPES_CONTEXT and"
                " DAGSTER_PIPES_MESSAGES nor their command line arguments are set. Launch it from"
                " a host, for instance with `asyncpipes run -- COMMAND`, or use inactive='warn'"
            )
        if self._register_stock:
            self._undo.callback(_register_stock(self))
        if self._inactive == "warn":
            warnings.warn(
                f"{what}: what it reports is checked and goes nowhere", InactiveWarning, stacklevel=4
            )
            self._sink = NullSink()
        else:
            self._sink = ConsoleSink()

    def _activate(self) -> None:
        """Start what belongs to the opening task and thread. Does not block."""
        if self._outbox is not None:
            self._sink = self._outbox
            self._room = self._outbox.room
            self._outbox.start()  # from here on it closes the writer
            if self._capture_stdio:
                self._captures = [StreamCapture(name, self._captured) for name in _STREAMS]
                for capture in self._captures:
                    capture.start()
            if self._guard is not None:
                self._guard.install()
        self._token = lifecycle.current.set(self)
        lifecycle.register(self)

    def _captured(self, stream: str, text: str) -> None:
        assert self._outbox is not None, "only launched processes capture"
        params = {"stream": stream, "text": text, "extras": {}}
        self._outbox.put(encode_head("log_external_stream", params), Kind.CAPTURE)

    # Closing.

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._start_closing():
            return
        try:
            if self._outbox is not None:
                for capture in self._captures:
                    capture.stop()
                head = self._closing_message(error)
                in_time = _block(lambda done: self._close_outbox(head, done), self._close_timeout)
                self._check_delivered(error, in_time)
        finally:
            self._release()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._start_closing():
            return
        cancelled: asyncio.CancelledError | None = None
        try:
            if self._outbox is not None:
                if self._captures:
                    cancelled = await _in_thread(self._stop_captures)
                head = self._closing_message(error)
                future, resolve = _loop_future()
                self._close_outbox(head, resolve)
                late = await _uncancelled(future, self._close_timeout)
                cancelled = cancelled or late
                self._check_delivered(error or cancelled, future.done())
        finally:
            self._release()
        if cancelled is not None:
            if error is None:
                raise cancelled
            # The body's own exception goes on; the cancellation comes at the next await.
            task = asyncio.current_task()
            if task is not None:
                task.cancel(*cancelled.args)

    def close(self) -> None:
        """Close without an exception, as leaving a plain ``with`` does. Idempotent.

        Raises:
            ChannelError: not everything was delivered.
        """
        self.__exit__(None, None, None)

    def _start_closing(self) -> bool:
        with self._close_lock:
            if self._closed or self._sink is None:
                return False
            # Logging and reporting end here, but for captured output.
            self._closed = True
            return True

    def _stop_captures(self) -> None:
        for capture in self._captures:
            capture.stop()

    def _closing_message(self, error: BaseException | None) -> bytes:
        if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
            return encode_head("closed", {})
        exception = encode_exception(error, extended=self.has_log_fields)
        if self._guard is not None and self._guard.received:
            exception["message"] = f"terminated by SIGTERM: {exception['message']}"
        return encode_head("closed", {"exception": exception})

    def _close_outbox(self, head: bytes, done: Callable[[], None]) -> None:
        assert self._outbox is not None, "only launched processes have an outbox"
        self._outbox.close(head, done)

    def _check_delivered(self, error: BaseException | None, in_time: bool) -> None:
        late = f"the channel did not take them within close_timeout={self._close_timeout} seconds"
        if not in_time and self._outbox is not None:
            self._outbox.abandon(ChannelError(late))
        if error is None:  # an exception of the body is never replaced
            self._raise_failure("closing", None if in_time else late)

    def _release(self) -> None:
        lifecycle.unregister(self)
        if self._token is not None:
            token, self._token = self._token, None
            try:
                lifecycle.current.reset(token)
            except ValueError:
                pass  # left in another Context than entered, as fixtures do; a closed
                # context in the variable is passed over by find()
        self._undo.close()
        if self._guard is not None:
            self._guard.finish()

    def drain_at_exit(self) -> None:
        """The interpreter ends and nobody left the block: write what was accepted."""
        if self._outbox is not None and not self._closed:
            self._outbox.drain()
            _block(self._outbox.on_delivered, self._close_timeout)


def _make_writer(given: Any, params: Mapping[str, Any]) -> ChannelWriter:
    if given is None:
        return default_writer(params)
    if isinstance(given, ChannelWriter):
        return given
    if hasattr(given, "open") and hasattr(given, "get_opened_payload"):
        return StockWriter(given, params)
    raise InvalidParameterError(
        "open_pipes: `message_writer` must be a ChannelWriter or a message writer of dagster_pipes,"
        f" got {type(given).__name__}"
    )


def _register_stock(context: PipesContext) -> Callable[[], None]:
    """Make ``dagster_pipes`` find our context; return what puts it back."""
    try:
        from dagster_pipes import PipesContext as Stock  # an extra of the script's own
    except ImportError as error:
        raise InvalidParameterError(
            "open_pipes: register_stock=True needs the package dagster-pipes, which is not"
            " installed here"
        ) from error
    before = Stock._instance
    Stock.set(context)  # type: ignore[arg-type]  # the same methods, no common class

    def restore() -> None:
        Stock._instance = before

    return restore


class _Done:
    """An awaitable that is done."""

    def __await__(self) -> Generator[object, None, None]:
        return
        yield


_DONE = _Done()


def _block(subscribe: Callable[[Callable[[], None]], None], timeout: float | None) -> bool:
    """Block this thread until the callback comes; False if it did not in time."""
    done = threading.Event()
    subscribe(done.set)
    return done.wait(timeout)


def _loop_future() -> tuple[asyncio.Future[None], Callable[[], None]]:
    """A future of this loop, and what resolves it from any thread."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def resolve() -> None:
        try:
            loop.call_soon_threadsafe(lambda: future.done() or future.set_result(None))
        except RuntimeError:
            pass  # the loop is closed, so nobody waits any more

    return future, resolve


async def _uncancelled(
    future: asyncio.Future[T], timeout: float | None = None
) -> asyncio.CancelledError | None:
    """Wait for ``future`` whatever cancellation comes; return the cancellation, if one did."""
    deadline = None if timeout is None else time.monotonic() + timeout
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            break
        try:
            await asyncio.wait([future], timeout=left)
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


async def _in_thread(function: Callable[[], None]) -> asyncio.CancelledError | None:
    """Run ``function`` in a worker thread to its end; return a cancellation that came."""
    future = asyncio.get_running_loop().run_in_executor(None, function)
    cancelled = await _uncancelled(future)
    future.result()
    return cancelled


def _check_type(
    value: Any, expected: type, method: str, parameter: str, *, optional: bool = False
) -> None:
    if isinstance(value, expected) or (optional and value is None):
        return
    name = f"{expected.__name__} or None" if optional else expected.__name__
    raise InvalidParameterError(
        f"{method}: `{parameter}` must be {name}, got {type(value).__name__}: {value!r:.100}"
    )


def _check_choice(value: Any, choices: tuple[str, ...], method: str, parameter: str) -> None:
    if not isinstance(value, str) or value not in choices:
        raise InvalidParameterError(
            f"{method}: `{parameter}` must be {' or '.join(choices)}, got {value!r:.100}"
        )
