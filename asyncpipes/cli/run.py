"""``asyncpipes run`` of one script: the display, the recording, the exit code."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, Protocol, cast

from ..errors import InvalidParameterError, LaunchError, PipesError
from ..host.process import Command
from ..host.result import RunResult
from ..host.settings import ForwardStdio
from ..protocol.events import LEVEL_NUMBERS, Event, ExternalStreamEvent, Level, LogEvent
from ..protocol.outcome import Outcome
from . import exit_codes
from .leaving import PATIENCE, in_time, leave, leave_at_once
from .recording import Recorder
from .render import JsonPrinter, LinePrinter, Printer, summary
from .running import Interrupts, Script, Subscribing, run_script
from .tally import Tally, count
from .text import safe

Kind = Literal["live", "lines", "json"]


@dataclass(frozen=True)
class Display:
    """How events are shown.

    Attributes:
        kind: a live view, lines for a person, or JSON.
        min_level: log lines below it are not shown; JSON has them all.
    """

    kind: Kind
    min_level: Level

    @classmethod
    def chosen(cls, log_level: str, *, as_json: bool) -> Display:
        """What fits our own output."""
        kind: Kind = "json" if as_json else "live" if _is_live() else "lines"
        return cls(kind, cast("Level", log_level.upper()))

    def forward_stdio(self, *, is_recorded: bool = False) -> ForwardStdio:
        """What becomes of the script's own output.

        A terminal never gets it as it is, and a recording has it as events.
        """
        if self.kind != "lines" or _is_terminal():
            return "events"
        return "both" if is_recorded else True


def _is_live() -> bool:
    """Whether stdout is a terminal that obeys, and colours are not unwanted (no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") in ("", "dumb", "unknown"):
        return False
    return _is_terminal() and "utf" in sys.stdout.encoding.lower()


def _is_terminal() -> bool:
    try:
        return sys.stdout is not None and sys.stdout.isatty()
    except ValueError:  # closed
        return False


@dataclass(frozen=True)
class Request:
    """What the options say of the script, or of all scripts."""

    context: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    timeout: float | None = None
    grace: float = 10.0
    strict: bool = True
    record: str | None = None

    def script(self, command: Command) -> Script:
        """The script with these options."""
        return Script(command, self.context, self.env, self.cwd, self.timeout, self.grace)


def run_one(command: Sequence[str], request: Request, display: Display) -> NoReturn:
    """Run it, show it, and leave with its exit code.

    Raises:
        InvalidParameterError: an option has a wrong value.
    """
    try:
        recorder = None if request.record is None else Recorder(request.record)
    except PipesError as error:
        leave(exit_codes.OUTPUT, f"asyncpipes: {error}")
    interrupts = Interrupts()
    forward_stdio = display.forward_stdio(is_recorded=recorder is not None)
    shown: Shown = _Printed(display, has_output=forward_stdio == "events")
    if display.kind == "live":
        from .live import Live  # rich takes 0.1 s to import

        shown = Live(shlex.join(command), display.min_level, interrupts, PATIENCE)

    def at_last() -> None:
        shown.close(None)
        code = exit_codes.of_signal(interrupts.number or signal.SIGINT)
        leave_at_once(code, "asyncpipes: interrupted twice; the script has been killed")

    interrupts.at_last = at_last
    subscribing = shown.subscribing()
    if recorder is not None:
        subscribing.in_threads = [*subscribing.in_threads, recorder]
    try:
        result = asyncio.run(_run(request.script(command), subscribing, interrupts, forward_stdio))
    except InvalidParameterError:
        shown.close(None)
        raise
    except LaunchError as error:
        outcome = Outcome(reasons=(str(error),))
        if recorder is not None:
            recorder.close(outcome)
        shown.close(outcome if display.kind == "json" else None)
        leave(of_launch(error), f"asyncpipes: {error}")
    except PipesError as error:
        shown.close(None)
        leave(exit_codes.PROTOCOL, f"asyncpipes: {error}")
    except TimeoutError:
        shown.close(None)
        leave(
            exit_codes.TIMEOUT, "asyncpipes: --timeout passed, and stdout has not taken all events"
        )
    except (KeyboardInterrupt, asyncio.CancelledError):
        shown.close(None)
        leave(
            exit_codes.of_signal(signal.SIGINT),
            "asyncpipes: interrupted; the script has been ended",
        )
    code = exit_codes.of_outcome(result.outcome, strict=request.strict)
    words = []
    if interrupts.number is not None:
        code = exit_codes.of_signal(interrupts.number)
        words.append(f"asyncpipes: {interrupted(interrupts.number)}; the script has been ended")
    shown.tally.kinds[ExternalStreamEvent] += subscribing.dropped
    if subscribing.dropped and display.kind != "live":
        words.append(
            f"asyncpipes: {count(subscribing.dropped, 'piece')} of the script's output came"
            " faster than could be written, and is left out"
        )
    _tell_and_leave(result.outcome, code, words, shown, recorder)


def _tell_and_leave(
    outcome: Outcome, code: int, words: Sequence[str], shown: Shown, recorder: Recorder | None
) -> NoReturn:
    words = list(words)
    if recorder is not None:
        recorder.close(outcome)
    out, err = shown.close(outcome)
    if recorder is not None and recorder.error is not None:
        code = code or exit_codes.OUTPUT
        words.append(f"asyncpipes: cannot write to {safe(recorder.path)}: {recorder.error}")
    if shown.error is not None:
        code = code or exit_codes.OUTPUT
        words.append(f"asyncpipes: cannot write to stdout: {shown.error}")
        out, err = "", summary(outcome, shown.tally)
    leave(code, "\n".join(filter(None, [*words, err])), out)


def interrupted(number: int) -> str:
    """What happened to us, by the signal's number."""
    return "interrupted" if number == signal.SIGINT else "terminated"


def of_launch(error: LaunchError) -> int:
    """The exit code of a command that cannot be started, as shells have it."""
    is_missing = isinstance(error.__cause__, FileNotFoundError)
    return exit_codes.NOT_FOUND if is_missing else exit_codes.NOT_EXECUTABLE


class Shown(Protocol):
    """What shows a session.

    Attributes:
        tally: the counts.
        error: why our output takes nothing more, if so.
    """

    @property
    def tally(self) -> Tally: ...

    @property
    def error(self) -> str | None: ...

    def subscribing(self) -> Subscribing:
        """What it wants of the session."""

    def close(self, outcome: Outcome | None) -> tuple[str, str]:
        """What is left to say, on stdout and on stderr; without an outcome nothing."""


class _Printed:
    """Plain lines, or JSON.

    Args:
        display: which.
        has_output: the script's own output is among the events that are printed; otherwise
            it is passed on as it is, and an event for a recording at most.
    """

    def __init__(self, display: Display, *, has_output: bool) -> None:
        self._has_output = has_output
        self.tally = Tally()
        self._is_json = display.kind == "json"
        self._printer: Printer = JsonPrinter() if self._is_json else LinePrinter()
        self._min_level = 0 if self._is_json else LEVEL_NUMBERS[display.min_level]

    @property
    def error(self) -> str | None:
        return self._printer.error

    def subscribing(self) -> Subscribing:
        return Subscribing([self.tally.add], [self._print])

    def _print(self, event: Event) -> None:
        if isinstance(event, LogEvent) and event.level_number < self._min_level:
            return
        is_captured = isinstance(event, ExternalStreamEvent) and event.position is None
        if self._has_output or not is_captured:
            self._printer(event)

    def close(self, outcome: Outcome | None) -> tuple[str, str]:
        if outcome is None:
            return "", ""
        text = summary(outcome, self.tally)
        if not self._is_json:
            return text, ""
        if not in_time(lambda: self._printer.outcome(outcome)):
            self._printer.error = self._printer.error or "it has stalled"
        return "", text


async def _run(
    script: Script, subscribing: Subscribing, interrupts: Interrupts, forward_stdio: ForwardStdio
) -> RunResult:
    interrupts.install()
    return await run_script(script, subscribing, interrupts, forward_stdio=forward_stdio)
