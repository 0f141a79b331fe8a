"""``open_pipes`` and ``PipesContext``: how a script's connection opens and closes."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from contextvars import Token
from types import TracebackType
from typing import Any, Literal, get_args

from ..channels.base import ChannelWriter
from ..channels.file import INCLUDE_STDIO_KEY
from ..errors import ChannelError, ClosedError, InactiveError, InvalidParameterError
from ..protocol.context import ContextData
from ..protocol.exceptions import encode_exception
from ..protocol.messages import encode_head, speaks_extension
from . import lifecycle
from .inactive import ConsoleSink, InactiveWarning, NullSink
from .loaders import (
    ContextLoader,
    DefaultContextLoader,
    MappingParamsLoader,
    ParamsLoader,
    default_params_loader,
)
from .outbox import Kind, Outbox
from .reporting import STREAMS, Reporter, check_number
from .stdio import StreamCapture
from .stock import make_writer, register_stock
from .waiting import block, cancel_again, in_thread, loop_future, uncancelled

Inactive = Literal["warn", "error", "console"]

#: What may wait for the channel, in bytes: half a minute of messages for a channel
#: that takes 2 MB/s, and little enough for a small container.
DEFAULT_MAX_BUFFERED_BYTES = 64 * 1024 * 1024
DEFAULT_CLOSE_TIMEOUT = 30.0


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
    check_number(max_buffered_bytes, int, 1, "max_buffered_bytes")
    check_number(close_timeout, (int, float), 0, "close_timeout")
    if isinstance(params_loader, Mapping):
        params_loader = MappingParamsLoader(params_loader)
    _check_loader(params_loader, ParamsLoader, "params_loader")
    _check_loader(context_loader, ContextLoader, "context_loader")
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


class PipesContext(Reporter):
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
        super().__init__()
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
        self._opened_extras: Mapping[str, Any] = {}
        self._close_lock = threading.RLock()
        self._captures: list[StreamCapture] = []
        self._token: Token[PipesContext | None] | None = None
        self._undo = ExitStack()
        self._pid = 0

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
            cancelled = await in_thread(self._load)
            if cancelled is not None:
                self._abort(cancelled)
                raise cancelled
        self._activate()
        return self

    def _load(self) -> None:
        """Read the bootstrap and the context, open the channel. May block."""
        if self._sink is not None or self._closed:
            raise ClosedError("a context can be entered once: call open_pipes() again")
        loader = self._params_loader or default_params_loader()
        try:
            self._launched = loader.is_dagster_pipes_process()
            if self._launched:
                self._connect(loader)
            elif self._inactive == "error":
                raise InactiveError(
                    f"{_NOT_LAUNCHED}: neither the environment variables DAGSTER_PIPES_CONTEXT and"
                    " DAGSTER_PIPES_MESSAGES nor their command line arguments are set. Launch it"
                    " from a host, for instance with `asyncpipes run -- COMMAND`, or use"
                    " inactive='warn'"
                )
            else:
                self._data = ContextData()
            if self._register_stock:
                self._undo.callback(register_stock(self))
        except BaseException as error:
            self._abort(error)
            raise

    def _connect(self, loader: ParamsLoader) -> None:
        scope = (self._context_loader or DefaultContextLoader()).load_context(
            loader.load_context_params()
        )
        self._data = ContextData.from_wire(self._undo.enter_context(scope))
        params = loader.load_messages_params()
        self.has_log_fields = speaks_extension(params)
        if self._capture_stdio is None:
            self._capture_stdio = params.get(INCLUDE_STDIO_KEY) is True
        self._writer = make_writer(self._message_writer, params)
        self._writer.open()
        self._opened_extras = dict(self._writer.opened_extras())

    def _activate(self) -> None:
        """Start what belongs to the opening task and thread. Does not block."""
        try:
            if self._writer is None:
                self._sink = self._inactive_sink()
            else:
                name = os.urandom(6).hex() if self.has_log_fields else None
                outbox = Outbox(self._writer, name, self._max_buffered_bytes)
                outbox.start()
                self._sink = self._outbox = outbox  # which closes the writer from here on
                self._room = outbox.room
                outbox.put(encode_head("opened", {"extras": self._opened_extras}), Kind.RESULT)
                if self._capture_stdio:
                    for stream in STREAMS:
                        capture = StreamCapture(stream, self._captured)
                        capture.start()
                        self._captures.append(capture)
                if self._guard is not None:
                    self._guard.install()
        except BaseException as error:
            self._abort(error)
            raise
        self._pid = os.getpid()
        self._token = lifecycle.current.set(self)
        lifecycle.register(self)

    def _inactive_sink(self) -> NullSink:
        if self._inactive == "console":
            return ConsoleSink()
        # The third frame from here is the one that enters the context.
        warnings.warn(
            f"{_NOT_LAUNCHED}: what it reports is checked and goes nowhere",
            InactiveWarning,
            stacklevel=4,
        )
        return NullSink()

    def _abort(self, error: BaseException) -> None:
        """Entering failed: release what it had got hold of, and tell the host if it knows."""
        writer, self._writer = self._writer, None
        outbox, self._outbox = self._outbox, None
        self._sink = self._data = None
        try:
            self._stop_captures()
            if outbox is not None:
                head = self._closing_message(error)
                block(lambda done: outbox.close(head, done), self._close_timeout)
            elif writer is not None:
                writer.close()
        finally:
            self._undo.close()

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
                self._stop_captures()
                block(self._closing(error), self._close_timeout)
                self._check_delivered(error)
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
                    cancelled = await in_thread(self._stop_captures)
                closed = loop_future(self._closing(error))
                cancelled = await uncancelled(closed, self._close_timeout) or cancelled
                self._check_delivered(error or cancelled)
        finally:
            self._release()
        if cancelled is not None:
            if error is None:
                raise cancelled
            cancel_again(cancelled)  # the body's own exception goes on

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
        captures, self._captures = self._captures, []
        for capture in captures:
            capture.stop()

    def _closing_message(self, error: BaseException | None) -> bytes:
        if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
            return encode_head("closed", {})
        exception = encode_exception(error, extended=self.has_log_fields)
        if self._guard is not None and self._guard.received:
            exception["message"] = f"terminated by SIGTERM: {exception['message']}"
        return encode_head("closed", {"exception": exception})

    def _closing(self, error: BaseException | None) -> Callable[[Callable[[], None]], None]:
        """What sends the last message, and calls back when the channel is closed."""
        outbox, head = self._outbox, self._closing_message(error)
        assert outbox is not None, "only launched processes have an outbox"
        return lambda done: outbox.close(head, done)

    def _check_delivered(self, error: BaseException | None) -> None:
        assert self._outbox is not None, "only launched processes have an outbox"
        if not self._outbox.is_closed:
            late = f"the channel was not done within close_timeout={self._close_timeout} seconds"
            self._outbox.abandon(ChannelError(late))
        if error is None:  # an exception of the body is never replaced
            self._raise_failure("closing")

    def _release(self) -> None:
        lifecycle.unregister(self)
        token, self._token = self._token, None
        if token is not None:
            try:
                lifecycle.current.reset(token)
            except ValueError:
                pass  # left in another Context than entered, as fixtures do; a closed
                # context in the variable is passed over by find()
        try:
            self._undo.close()
        finally:
            if self._guard is not None:
                self._guard.finish()

    def drain_at_exit(self) -> None:
        """The interpreter ends and nobody left the block: write what was accepted."""
        if self._outbox is not None and not self._closed and self._pid == os.getpid():
            self._stop_captures()
            self._outbox.drain()
            block(self._outbox.on_delivered, self._close_timeout)


_NOT_LAUNCHED = "this process was not launched by a Dagster Pipes host"


def _check_loader(loader: object, expected: type[Any], parameter: str) -> None:
    if loader is not None and not isinstance(loader, expected):
        raise InvalidParameterError(
            f"open_pipes: `{parameter}` must be a loader of asyncpipes or dagster_pipes, got"
            f" {type(loader).__name__}"
        )
