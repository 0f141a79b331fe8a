"""Message readers for Dagster's sessions: ours for its clients, and its own for ours."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from dagster import PipesMessageHandler, PipesMessageReader

from ..channels.base import Channel, ChannelReader, Guarantees
from ..channels.file import FileChannel
from ..channels.finishing import to_its_end
from ..channels.memory import MemoryChannel
from ..errors import ChannelError, ClosedError, InvalidParameterError
from ..host.result import RunResult
from ..host.session import open_pipes_session
from ..protocol.bootstrap import MESSAGES_VARIABLE, decode_param
from .failures import failure, reasons_against
from .internals import ExecutionContext
from .reporting import RESULTS, Reporting

T = TypeVar("T")


#: Seconds that opening a channel may go on after an interrupt.
_OPENING = 5.0


class PipesChannelMessageReader(PipesMessageReader):
    """Any channel as a message reader for Dagster's own pipes clients.

    ::

        PipesSubprocessClient(message_reader=PipesChannelMessageReader(FileChannel()))

    Half a line, or a line that is no message, costs itself alone: what follows is read. Then,
    under ``strict``, leaving Dagster's session raises :class:`PipesFailure`, unless something
    raises already, and the step fails. Scripts may use ``dagster_pipes`` or asyncpipes.

    Log lines are written by a thread of their own; where they come faster than Dagster takes
    them, 2,000 wait and the others go to the step's stderr, counted by one WARNING.

    Args:
        channel: how messages come; a ``FileChannel()`` by default. It may serve any number
            of sessions, one after the other or at once, if the channel can.
        strict: fail a step whose script never opened its context or did not close it, or
            some of whose messages were lost or malformed.
    """

    def __init__(self, channel: Channel | None = None, *, strict: bool = True) -> None:
        if channel is not None and not isinstance(channel, Channel):
            raise InvalidParameterError(
                "PipesChannelMessageReader: `channel` must be a channel of asyncpipes.channels,"
                f" got {channel!r}"
            )
        if not isinstance(strict, bool):
            raise InvalidParameterError(
                f"PipesChannelMessageReader: `strict` must be True or False, got {strict!r}"
            )
        self.channel = FileChannel() if channel is None else channel
        self.strict = strict

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Iterator[Mapping[str, Any]]:
        """Read in a thread until the session is left.

        Raises:
            ChannelError: the channel cannot be created.
            PipesFailure: it cannot be read; or on leaving, under ``strict``.
        """
        reading = _Reading(self.channel, handler)
        try:
            params = reading.start()
        except BaseException:  # an interrupt of this thread, while the other one opens
            reading.abandon()
            raise
        try:
            yield params
        finally:
            result, faults = reading.finish()
        reasons = reasons_against(result, faults)
        if reasons and self.strict:
            raise failure(result, reasons, handler.get_reported_results())

    @property
    def expected_writer_count(self) -> int:
        """For Dagster: one ``opened`` and one ``closed`` come, however many workers open."""
        return 1

    def no_messages_debug_text(self) -> str:
        """What Dagster adds to its warning when nothing came."""
        return f"Attempted to read messages through {type(self.channel).__name__}."


class _Reading:
    """A session in a thread, with a loop of its own, for a script that Dagster launches."""

    def __init__(self, channel: Channel, handler: PipesMessageHandler) -> None:
        self._channel = channel
        self._handler = handler
        self._ready = threading.Event()
        self._params: dict[str, Any] = {}
        self._error: BaseException | None = None
        self._finish: Callable[[], object] | None = None
        self._outcome: tuple[RunResult, list[str]] | None = None
        self._thread = threading.Thread(
            target=self._run, name="asyncpipes dagster reader", daemon=True
        )

    def start(self) -> dict[str, Any]:
        """Begin to read; return the messages params."""
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error
        return self._params

    def abandon(self) -> None:
        """Have the thread end, whatever it has come to."""
        if self._ready.wait(_OPENING) and self._finish is not None:
            with suppress(RuntimeError):
                self._finish()
        self._thread.join(_OPENING)

    def finish(self) -> tuple[RunResult, list[str]]:
        """The script has ended: read to the end; return how it went, and what was not taken."""
        assert self._finish is not None, "started"
        with suppress(RuntimeError):  # the channel has failed, and the loop is over already
            self._finish()
        self._thread.join()
        if self._outcome is None:
            assert self._error is not None, "or there is an outcome"
            raise self._error
        return self._outcome

    def _run(self) -> None:
        try:
            self._outcome = asyncio.run(self._read())
        except BaseException as error:  # handed over to the thread that waits
            self._error = error
        finally:
            self._ready.set()

    async def _read(self) -> tuple[RunResult, list[str]]:
        reporting = Reporting(self._handler)
        session = open_pipes_session(
            channel=self._channel, strict=False, collect="none", until_finish=True
        )
        loop = asyncio.get_running_loop()
        async with session:
            with suppress(ClosedError):  # it cannot be read: the reasons come below
                reporting.subscribe(session)
                session.subscribe(reporting.take, *RESULTS)
                encoded = session.bootstrap[MESSAGES_VARIABLE]
                self._params = decode_param(encoded, name="the session's bootstrap")
                self._finish = partial(loop.call_soon_threadsafe, session.finish)
                self._ready.set()
                await session.wait_drained()
        if self._finish is None:
            raise failure(session.result, reasons_against(session.result, ()), ())
        await reporting.settle(hurried=False)
        await reporting.drain(session.outcome)
        await reporting.close()
        return session.result, reporting.faults


def named_after(users: object, ours: type[T]) -> type[T]:
    """``ours`` by the name of the class that the user chose: Dagster's warnings show it."""
    return type(type(users).__name__, (ours,), {})


class Bridge(PipesMessageReader):
    """Stands for a message reader in Dagster's session while a client of ours reads.

    It takes hold of the session's handler. Where the user chose a reader of Dagster's, that
    reads, and what it read goes through our session too, so that it is counted and judged
    like everything else.

    Args:
        reader: the user's.
        context: the step's.

    Attributes:
        channel: the channel for our session.
        handler: what Dagster made for this session, once it is entered.
    """

    handler: PipesMessageHandler

    def __init__(self, reader: PipesMessageReader, context: ExecutionContext) -> None:
        self._reader = reader
        self._context = context
        self._relay: Relay | None = None
        if (
            isinstance(reader, PipesChannelMessageReader)
            and type(reader).read_messages is PipesChannelMessageReader.read_messages
        ):
            self.channel: Channel = reader.channel
        else:
            self.channel = self._relay = Relay()

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Iterator[Mapping[str, Any]]:
        self.handler = handler
        if self._relay is None:
            yield {}
            return
        with self._relay.reading(_Relaying(self._context, self._reader, self._relay)):
            yield self._relay.params

    @property
    def expected_writer_count(self) -> int:
        return 1

    def no_messages_debug_text(self) -> str:
        return self._reader.no_messages_debug_text()


class Relay(Channel):
    """What a message reader of Dagster's reads, as a channel. For one session.

    Attributes:
        params: the reader's messages params.
        fault: what ended the reader, if something did.
    """

    guarantees = Guarantees(ordered=True, immediate=False, acknowledged=False, durable=False)

    def __init__(self) -> None:
        self.params: Mapping[str, Any] = {}
        self.fault: str | None = None
        # Without a bound, as Dagster's own queue of messages is: the reader's thread must end
        # before the last of them are taken out here.
        self._memory = MemoryChannel(max_bytes=sys.maxsize)
        self._writer = self._memory.writer()
        self._reading = ExitStack()

    @contextmanager
    def reading(self, handler: _Relaying) -> Iterator[None]:
        """Have its reader read until :meth:`end_reading`, or until this is left."""
        with self._reading:
            self.params = self._reading.enter_context(handler.reader.read_messages(handler))
            yield

    def end_reading(self) -> None:
        """Let the reader read to its end. Blocks, for as long as the reader takes."""
        self._reading.close()

    def put(self, message: Mapping[str, Any]) -> None:
        """Pass a message on, from any thread."""
        try:
            # Not as our scripts do: stock ones may send numbers that JSON has not.
            self._writer.write(json.dumps(message).encode() + b"\n")
        except ChannelError as error:
            self.fault = self.fault or str(error)

    async def open_reader(self) -> ChannelReader:
        return _RelayReader(self, await self._memory.open_reader())


class _RelayReader(ChannelReader):
    extensible = False

    def __init__(self, relay: Relay, memory: ChannelReader) -> None:
        self._relay = relay
        self._memory = memory

    @property
    def params(self) -> Mapping[str, Any]:
        return self._relay.params

    async def read(self) -> bytes:
        return await self._memory.read()

    async def read_available(self) -> bytes:
        return await self._memory.read_available()

    async def backlog(self) -> int | None:
        return await self._memory.backlog()

    async def settle(self) -> None:
        await to_its_end(self._relay.end_reading)
        if self._relay.fault is not None:
            raise ChannelError(self._relay.fault)

    async def aclose(self) -> None:
        await self._memory.aclose()


class _Relaying(PipesMessageHandler):
    """The handler that a reader of Dagster's gets: passes everything on, and takes nothing."""

    def __init__(self, context: ExecutionContext, reader: PipesMessageReader, relay: Relay) -> None:
        super().__init__(context, reader)
        self.reader = reader
        self._relay = relay
        self._opened = self._closed = 0

    @property
    def received_opened_message(self) -> bool:
        return self._opened > 0

    @property
    def received_closed_message(self) -> bool:
        return self._closed >= getattr(self.reader, "expected_writer_count", 1)

    def handle_message(self, message: Mapping[str, Any]) -> None:
        method = message.get("method")
        if method == "opened":
            self._opened += 1
            self.reader.on_opened(message.get("params") or {})  # type: ignore[arg-type]  # likewise
        elif method == "closed":
            self._closed += 1
        self._relay.put(message)

    def report_pipes_framework_exception(self, origin: str, exc_info: Any) -> None:
        self._relay.fault = f"{origin} failed: {exc_info[1]!r}"
        super().report_pipes_framework_exception(origin, exc_info)
