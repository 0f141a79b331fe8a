"""``PipesContext``: how a script's connection opens, and how it closes."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from contextvars import Token
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from ..channels.base import ChannelWriter
from ..channels.file import INCLUDE_STDIO_KEY
from ..errors import ChannelError, ClosedError, InactiveError
from ..protocol.context import ContextData
from ..protocol.messages import encode_head
from . import forking, lifecycle
from .closing import Ending, closing_message
from .inactive import ConsoleSink, InactiveWarning, NullSink
from .link import Host, Link
from .loaders import ContextLoader, DefaultContextLoader, ParamsLoader, default_params_loader
from .outbox import Kind
from .reporting import STREAMS, Reporter
from .stderr import complain
from .stdio import StreamCapture
from .stock import make_writer, register_stock
from .waiting import (
    block,
    cancel_again,
    in_own_thread,
    in_thread,
    loop_future,
    nothing,
    uncancelled,
)

Inactive = Literal["warn", "error", "console"]


@dataclass(frozen=True, slots=True)
class Options:
    """What :func:`asyncpipes.open_pipes` was called with; see there."""

    params_loader: ParamsLoader | None
    context_loader: ContextLoader | None
    message_writer: Any
    inactive: Inactive
    capture_stdio: bool | None
    handle_signals: bool
    register_stock: bool
    max_buffered_bytes: int
    close_timeout: float


class PipesContext(Reporter):
    """The open connection to the host. Made by :func:`open_pipes`.

    All ``report_*`` methods are plain functions for any thread: when the call returns,
    the report is validated, encoded and queued, in the order of the calls, and later
    changes to its arguments change nothing. They return an awaitable that waits for
    room in the buffer; awaiting it is optional, and is the brake for scripts that
    report faster than the channel takes it. Materializations and checks are with a
    file channel when the call returns; not while its disk is full, since the call does
    not wait for that: then ``flush()`` tells.

    Above ``max_buffered_bytes``: materializations and checks are always taken. Custom
    messages block, or, on an event loop's thread, are taken up to twice the limit
    and then raise ``BufferFullError``. Log and stream records block, or, on an event
    loop's thread, are dropped and counted, and the host's outcome says so.

    A channel that fails does not stop the script: reports are counted and go nowhere,
    after one line on stderr; :meth:`flush` and a clean exit raise ``ChannelError``.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._options = options
        self._writer: ChannelWriter | None = None  # open, and not yet a link's
        self._opened_extras: Mapping[str, Any] = {}
        self._host = Host(is_ours=False, heartbeat=None)
        self._link: Link | None = None
        self._close_lock = threading.RLock()
        self._capture = options.capture_stdio
        self._captures: list[StreamCapture] = []
        self._token: Token[PipesContext | None] | None = None
        self._termination: lifecycle.Termination | None = None
        self._undo = ExitStack()
        self._is_fork = False
        self._worker_failure: BaseException | None = None
        #: What ``register_stock`` put this context in the place of.
        self.replaced_stock: object = None

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
        if self._options.context_loader is None and self._options.message_writer is None:
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
        loader = self._options.params_loader or default_params_loader()
        try:
            self._launched = loader.is_dagster_pipes_process()
            if self._launched:
                self._connect(loader)
            elif self._options.inactive == "error":
                raise InactiveError(
                    f"{_NOT_LAUNCHED}: neither the environment variables DAGSTER_PIPES_CONTEXT and"
                    " DAGSTER_PIPES_MESSAGES nor their command line arguments are set. Launch it"
                    " from a host, for instance with `asyncpipes run -- COMMAND`, or use"
                    " inactive='warn'"
                )
            else:
                self._data = ContextData()
            if self._options.register_stock:
                self._undo.callback(register_stock(self))
        except BaseException as error:
            self._abort(error)
            raise

    def _connect(self, loader: ParamsLoader) -> None:
        scope = (self._options.context_loader or DefaultContextLoader()).load_context(
            loader.load_context_params()
        )
        self._data = ContextData.from_wire(self._undo.enter_context(scope))
        params = loader.load_messages_params()
        self._host = Host.of(params)
        self.has_log_fields = self._host.is_ours
        if self._capture is None:
            self._capture = params.get(INCLUDE_STDIO_KEY) is True
        self._writer = make_writer(self._options.message_writer, params)
        self._writer.open()
        self._opened_extras = dict(self._writer.opened_extras())

    def _activate(self) -> None:
        """Start what belongs to the opening task and thread. Does not block."""
        try:
            if self._writer is None:
                self._sink = self._inactive_sink()
            else:
                limit = self._options.max_buffered_bytes
                link = Link(self._writer, self._host, self._opened_extras, limit)
                self._link, self._writer = link, None  # which closes the writer from here on
                link.outbox.start()
                link.greet()
                self._use(link)  # after that, so that no thread's report comes before `opened`
                if self._capture:
                    for stream in STREAMS:
                        capture = StreamCapture(stream, self._captured)
                        capture.start()
                        self._captures.append(capture)
            self._token = lifecycle.current.set(self)
            lifecycle.register(self)
            if self._outbox is not None and self._options.handle_signals:
                self._termination = lifecycle.guard.join(self)
        except BaseException as error:
            self._abort(error)
            raise

    def _use(self, link: Link) -> None:
        self._link = link
        self._sink = self._outbox = link.outbox
        self._room = link.outbox.room

    def _inactive_sink(self) -> NullSink:
        if self._options.inactive == "console":
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
        link, self._link = self._link, None
        self._sink = self._data = self._outbox = None
        try:
            self._stop_captures()
            if link is not None:
                link.end(self._closing_message(error), error, self._deadline())
            elif writer is not None:
                writer.close()
        finally:
            self._release()

    def _captured(self, stream: str, text: str) -> None:
        assert self._outbox is not None, "only launched processes capture"
        params = {"stream": stream, "text": text, "extras": {}}
        self._outbox.put(encode_head("log_external_stream", params), Kind.CAPTURE)

    # Closing.

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close(error)

    def _close(self, error: Ending) -> None:
        head = self._closing_message(error)
        if not self._start_closing():
            return
        try:
            if self._link is not None and not self._link.is_idle:
                deadline = self._deadline()
                if self._captures:
                    block(in_own_thread(self._stop_captures), self._capture_timeout)
                self._link.end(head, error, deadline)
                self._check_delivered(error)
        finally:
            self._release()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_fork and asyncio._get_running_loop() is None:
            self._close(error)  # the loop went on in the parent alone
            return
        if not self._start_closing():
            return
        cancelled: asyncio.CancelledError | None = None
        try:
            if self._link is not None and not self._link.is_idle:
                deadline = self._deadline()
                if self._captures:
                    stopped = loop_future(in_own_thread(self._stop_captures))
                    cancelled = await uncancelled(stopped, self._capture_timeout)
                head = self._closing_message(error)
                closed = loop_future(self._link.closing(head, error))
                left = max(0.0, deadline - time.monotonic())
                cancelled = await uncancelled(closed, left) or cancelled
                self._check_delivered(error or cancelled)
        finally:
            self._release()
        if cancelled is not None:
            if error is None:
                raise cancelled
            if not isinstance(error, asyncio.CancelledError):
                cancel_again(cancelled)  # the body's own exception goes on

    def close(self, exc: Ending = None) -> None:
        """Close, as leaving a plain ``with`` does. Idempotent.

        Blocks for ``close_timeout`` at most.

        Args:
            exc: why the script failed, for the host: an exception, or one as
                ``dagster_pipes`` gives it, a mapping with ``message``, ``stack`` and
                ``name``.

        Raises:
            InvalidParameterError: ``exc`` is neither; the context stays open.
            ChannelError: not everything was delivered, and no ``exc`` was given.
        """
        self._close(exc)

    def _start_closing(self) -> bool:
        with self._close_lock:
            if self._closed or self._sink is None:
                return False
            # Logging and reporting end here, but for captured output.
            self._closed = True
            return True

    def _deadline(self) -> float:
        return time.monotonic() + self._options.close_timeout

    @property
    def _capture_timeout(self) -> float:
        # The other half is for the last message, which goes whatever the captures do.
        return self._options.close_timeout / 2

    def _stop_captures(self) -> None:
        captures, self._captures = self._captures, []
        for capture in captures:
            try:
                capture.stop()
            except OSError as error:
                complain(f"asyncpipes: the capture of {capture.stream} cannot be ended: {error}")

    def _closing_message(self, ending: Ending) -> bytes:
        terminated = self._termination is not None and self._termination.received
        return closing_message(ending, extended=self.has_log_fields, terminated=terminated)

    def _check_delivered(self, error: object) -> None:
        assert self._outbox is not None, "only launched processes have an outbox"
        if not self._outbox.is_closed:
            timeout = self._options.close_timeout
            late = f"the channel was not done within close_timeout={timeout} seconds"
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
        termination, self._termination = self._termination, None
        try:
            self._undo.close()
        finally:
            if termination is not None:
                lifecycle.guard.leave(termination)

    def drain_at_exit(self) -> None:
        """The interpreter ends and nobody left the block: write what was accepted."""
        if self._is_fork:
            self.close_fork()
        elif self._outbox is not None and not self._outbox.is_closed:
            deadline = self._deadline()
            if self._captures:
                block(in_own_thread(self._stop_captures), self._capture_timeout)
            self._outbox.drain()
            block(self._outbox.on_delivered, max(0.0, deadline - time.monotonic()))

    # In a forked process.

    def follow_fork(self) -> None:
        """This process is a fork of the one that opened: go on as a writer of its own.

        It begins with the first report. Takes no lock that a thread of the parent may
        have held.
        """
        self._is_fork = True
        self._close_lock = threading.RLock()
        self._materialized_lock = threading.RLock()
        self._captures = []  # the parent's threads go on copying this process's output too
        self._termination = None
        self._undo = ExitStack()
        if self._link is None:
            return
        link = self._link.in_fork(self._begin_in_fork)
        if self._closed:  # or on its way to be: that is the parent's to end
            self._link, self._outbox, self._sink = None, None, NullSink()
            return
        self._use(link)
        forking.watch_worker(self, PipesContext._note_failure)

    def _begin_in_fork(self) -> None:
        if self._options.handle_signals:
            forking.guard.begin()

    def _note_failure(self, error: BaseException) -> None:
        self._worker_failure = error

    def close_fork(self) -> None:
        """The forked process ends: end its writer. Never raises."""
        if self._is_fork:
            self._end_now(self._worker_failure)

    def end_by_signal(self) -> None:
        """SIGTERM ends this fork: end what it has open, be it its parent's or its own."""
        if self._is_fork:
            self._end_now(None)
        else:
            self._end_now(SystemExit(128 + signal.SIGTERM))

    def end_with_thread(self) -> None:
        """The thread ends that forked this process, which its other threads would keep alive.

        A context that it has opened and never left sends no ``closed``, as where the
        interpreter ends.
        """
        self._closed = True  # a thread that is still there would make ours begin anew
        self.drain_at_exit()
        if self._outbox is not None and not self._outbox.is_closing and not self._is_fork:
            self._outbox.close(b"", nothing)

    def _end_now(self, error: BaseException | None) -> None:
        link = self._link
        if link is None or link.is_idle:
            return
        self._closed = True
        try:
            link.end(self._closing_message(error), error, self._deadline())
            self._check_delivered(error)
        except ChannelError as failure:
            complain(f"asyncpipes: {failure}")


_NOT_LAUNCHED = "this process was not launched by a Dagster Pipes host"
