"""From the events of a session to Dagster: results at once, all that blocks in its own lane.

::

    session ─ results ─────────────────────────▶ handler.handle_message()     on the loop
            ─ log lines, engine events ─ lane ─▶ context.log, event log       a thread
            ─ captured output, excess ── lane ─▶ the step's stdout, stderr    a thread

``context.log`` takes up to 5 ms a line (a commit into SQLite): 200 lines a second. So a
result never waits for the lines before it, and where a script logs faster than that, a
bounded number of lines waits, for a bounded time once the script has ended; the others go to
the step's stderr, and one WARNING counts them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from dagster import PipesMessageHandler

from ..host.output import write_out
from ..host.pipes_session import PipesSession
from ..host.subscribers import describe_health
from ..protocol.events import (
    AssetCheckEvent,
    CustomMessageEvent,
    Event,
    ExternalStreamEvent,
    GapEvent,
    HealthEvent,
    Level,
    LogEvent,
    MalformedEvent,
    MaterializationEvent,
    OpenedEvent,
    Stream,
)
from ..protocol.metadata import MetadataValue
from ..protocol.outcome import Outcome
from .lanes import Lane

RESULTS = (MaterializationEvent, AssetCheckEvent, CustomMessageEvent)

#: Log lines that wait for Dagster: what SQLite takes in ten seconds on a disk that is idle.
MAX_LOG_LINES = 2_000
#: Of the lines of WARNING and above so many go to Dagster in any case, first come.
MAX_GRAVE_LINES = 200
#: Seconds by which log lines that wait may put off the end of a step.
LOG_SECONDS = 10.0
#: Seconds that the step's own stdout and stderr may take for what is left at the end.
OUTPUT_SECONDS = 10.0
#: Results that Dagster did not take and that are told one by one.
MAX_FAULTS = 20
#: Pieces of output that wait for the step's stdout and stderr; a line each, or 64 KiB.
_MAX_PIECES = 1_000
#: Characters of the longest line that is held back to go out whole.
_MAX_LINE = 65_536
#: Bytes of a bad line that are shown.
_SHOWN = 200
#: The name of ``pipes.log``, which says nothing of where a line comes from.
_OWN_LOGGER = "asyncpipes"


class _Entry(NamedTuple):
    """Something for Dagster; a log line with how it reads on stderr if it is one too many."""

    send: Callable[[], None]
    text: str | None = None
    is_grave: bool = False


class Reporting:
    """Hands what a session receives on to Dagster. Belongs to one event loop.

    Args:
        handler: what Dagster made for this session.

    """

    def __init__(self, handler: PipesMessageHandler) -> None:
        self._faults: list[str] = []
        self._more_faults = 0
        self._handler = handler
        self._log = Lane[_Entry]("asyncpipes dagster log", _send_all, limit=MAX_LOG_LINES)
        self._output = Lane[tuple[Stream, str]](
            "asyncpipes dagster output", _write_all, limit=_MAX_PIECES, at_most=_MAX_PIECES
        )
        #: Captured output after the last newline: a line goes out whole, since Dagster
        #: writes to the same streams.
        self._begun: dict[Stream, str] = {"stdout": "", "stderr": ""}
        self._has_opened = False
        self._excess = 0
        self._grave = 0  # lines of WARNING and above

    @property
    def faults(self) -> list[str]:
        """What of it Dagster did not take, in words."""
        faults = list(self._faults)
        if self._more_faults:
            faults.append(f"and {self._more_faults:,} more results")
        if self._log.error is not None:
            faults.append(
                f"{self._log.failed:,} log lines or events could not be written to Dagster:"
                f" {self._log.error!r}"
            )
        return faults

    def _fault(self, text: str) -> bool:
        if len(self._faults) == MAX_FAULTS:
            self._more_faults += 1
            return False
        self._faults.append(text)
        return True

    def subscribe(self, session: PipesSession) -> None:
        """Take all of a session's events but its results, which go to :meth:`take`."""
        session.subscribe(
            self._pass_on,
            OpenedEvent,
            LogEvent,
            ExternalStreamEvent,
            MalformedEvent,
            GapEvent,
            HealthEvent,
        )

    def take(self, event: Event) -> None:
        """Hand on a result. Does not block."""
        try:
            self._handle(_message(event))
        except Exception as error:  # Dagster's, of many kinds: of metadata that it does not take
            fault = f"Dagster did not take {_name(event)}: {error}"
            if self._fault(fault):
                self._log.force(self._line("ERROR", f"[pipes] {fault}"))

    def note(self, send: Callable[[], None]) -> None:
        """Have ``send`` called in its turn among the log lines, however many there are."""
        self._log.force(_Entry(send))

    def warn(self, text: str) -> None:
        """Log a WARNING in its turn."""
        self._log.force(self._line("WARNING", text))

    async def settle(self, *, hurried: bool) -> asyncio.CancelledError | None:
        """The session is over: have Dagster take the log lines that wait, for a while.

        Args:
            hurried: do not wait for them. Those that are left go to stderr.

        Returns:
            The cancellation that came meanwhile: it hurries, and is for the caller to raise.
        """
        cancelled = None
        try:
            is_done = await self._log.settle(0 if hurried else LOG_SECONDS)
        except asyncio.CancelledError as error:
            is_done, cancelled = False, error
        for entry in [] if is_done else self._log.cut():
            if entry.text is None or (entry.is_grave and not hurried):
                self._log.force(entry)
            else:
                self._excess += 1
                self._output.force(("stderr", f"{entry.text}\n"))
        return cancelled

    async def drain(self, outcome: Outcome) -> None:
        """See that Dagster gets the rest; waited for through a cancellation, which is raised.

        What it did not take is among the faults then.
        """
        if self._excess:
            lines = "log line" if self._excess == 1 else "log lines"
            self.warn(
                f"[pipes] {self._excess:,} {lines} came faster than Dagster takes them, or too"
                " late: see the step's stderr"
            )
        if outcome.closed:
            exception = outcome.exception
            params = {} if exception is None else {"exception": exception.to_wire(extended=False)}
            self.note(partial(self._handle, _wire("closed", params)))
        for stream, text in self._begun.items():
            if text:
                self._output.force((stream, text))
        self._begun = {"stdout": "", "stderr": ""}
        try:
            if not await self._output.settle(OUTPUT_SECONDS):
                self._output.cut()
                self._fault("not all of the output was written to the step's own")
        finally:
            self._output.let_go()
            await self._log.drain()

    async def close(self) -> None:
        """End the threads, with what came after :meth:`drain`; waited for likewise."""
        self._output.let_go()
        await self._log.close()

    def let_go(self) -> None:
        """Nobody waits for the rest."""
        self._log.let_go()
        self._output.let_go()

    async def _pass_on(self, event: Event) -> None:
        match event:
            case LogEvent():
                await self._send_line(event.level, log_text(event))
            case ExternalStreamEvent(stream=stream, text=text):
                await self._copy(stream, self._begun[stream] + text)
            case OpenedEvent(extras=extras):
                if not self._has_opened:  # Dagster expects it once, however many workers open
                    self._has_opened = True
                    opened = _wire("opened", {"extras": dict(extras)})
                    self.note(partial(self._handle, opened))
            case MalformedEvent(raw=raw, reason=reason):
                shown = repr(raw[:_SHOWN])[1:]
                await self._send_line(
                    "ERROR", f"[pipes] a line that is no message was left out: {reason}: {shown}"
                )
            case GapEvent(first=first, last=last):
                await self._send_line("ERROR", f"[pipes] messages {first} to {last} never arrived")
            case HealthEvent(status=status):
                level: Level = "INFO" if status == "alive" else "WARNING"
                await self._send_line(level, f"[pipes] {describe_health(event)}")

    async def _copy(self, stream: Stream, text: str) -> None:
        end = text.rfind("\n") + 1
        if not end and len(text) > _MAX_LINE:
            end = len(text)
        self._begun[stream] = text[end:]
        if end:
            await self._output.put((stream, text[:end]))

    async def _send_line(self, level: Level, text: str) -> None:
        if level not in ("DEBUG", "INFO") and self._grave < MAX_GRAVE_LINES:
            self._grave += 1
            self._log.force(self._line(level, text, is_grave=True))
        elif not self._log.offer(self._line(level, text)):
            await self._spill(f"{level}: {text}")

    async def _spill(self, text: str) -> None:
        self._excess += 1
        await self._output.put(("stderr", f"{text}\n"))

    def _line(self, level: Level, text: str, *, is_grave: bool = False) -> _Entry:
        message = _wire("log", {"message": text, "level": level})
        return _Entry(partial(self._handle, message), f"{level}: {text}", is_grave)

    def _handle(self, message: Mapping[str, Any]) -> None:
        self._handler.handle_message(message)  # type: ignore[arg-type]  # it is typed with an internal TypedDict


def log_text(event: LogEvent) -> str:
    """A log line as Dagster shows it: the logger's name in front, the traceback below."""
    fields = event.fields
    logger = fields.get("logger")
    text = event.message if logger in (None, _OWN_LOGGER) else f"{logger}: {event.message}"
    below = [fields[key] for key in ("traceback", "stack") if fields.get(key)]
    return "\n".join([text, *map(str, below)])


def _send_all(entries: list[_Entry]) -> None:
    for entry in entries:
        entry.send()


def _write_all(pieces: list[tuple[Stream, str]]) -> None:
    for stream in ("stdout", "stderr"):
        text = "".join(piece for of, piece in pieces if of == stream)
        if text:
            write_out(stream, text.encode("utf-8", "backslashreplace"))


def _message(event: Event) -> dict[str, Any]:
    match event:
        case MaterializationEvent():
            return _wire(
                "report_asset_materialization",
                {
                    "asset_key": event.asset_key,
                    "metadata": _metadata(event.metadata),
                    "data_version": event.data_version,
                },
            )
        case AssetCheckEvent():
            return _wire(
                "report_asset_check",
                {
                    "asset_key": event.asset_key,
                    "check_name": event.check_name,
                    "passed": event.passed,
                    "severity": event.severity,
                    "metadata": _metadata(event.metadata),
                },
            )
        case CustomMessageEvent():
            return _wire("report_custom_message", {"payload": event.payload})
    raise AssertionError(f"{event!r} is no result")


def _metadata(metadata: Mapping[str, MetadataValue]) -> dict[str, dict[str, Any]]:
    return {
        label: {"type": value.type, "raw_value": value.raw_value}
        for label, value in metadata.items()
    }


def _wire(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"__dagster_pipes_version": "0.1", "method": method, "params": params}


def _name(event: Event) -> str:
    match event:
        case MaterializationEvent(asset_key=key):
            return f"the materialization of {key}"
        case AssetCheckEvent(asset_key=key, check_name=name):
            return f"the check {name} of {key}"
    return "a custom message"
