"""``asyncpipes run`` of one script: what shows it, the recording, the exit code."""

from __future__ import annotations

import asyncio
import shlex
import signal
from collections.abc import Sequence
from typing import NoReturn, Protocol

from ..errors import PipesError
from ..host.settings import ForwardStdio
from ..protocol.events import Event, ExternalStreamEvent
from ..protocol.outcome import Outcome
from . import exit_codes
from .display import Display
from .leaving import PATIENCE, in_time, interrupted, leave, leave_at_once
from .recording import Recorder
from .render import JsonPrinter, LinePrinter, Printer, left_out_words, verdict
from .running import (
    RECORDING,
    STDOUT,
    Ending,
    Interrupts,
    Request,
    Script,
    Subscribing,
    check_context,
    run_script,
)
from .tally import Tally
from .text import safe


def run_one(command: Sequence[str], request: Request, display: Display) -> NoReturn:
    """Run it, show it, and leave with its exit code.

    Raises:
        InvalidParameterError: an option has a wrong value.
    """
    check_context(request.context)  # before the recording of another run is replaced
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
        subscribing.in_threads = {**subscribing.in_threads, RECORDING: recorder}
    try:
        ending = asyncio.run(
            _run(request.script(command), subscribing, interrupts, forward_stdio, request.strict)
        )
    except (KeyboardInterrupt, asyncio.CancelledError):  # before our handlers were there
        interrupts.number = signal.SIGINT
        outcome = Outcome(cancelled=True, reasons=("it was interrupted",))
        ending = Ending(outcome, exit_codes.of_outcome(outcome))
    _tell_and_leave(ending, subscribing, interrupts, shown, recorder)


def _tell_and_leave(
    ending: Ending,
    subscribing: Subscribing,
    interrupts: Interrupts,
    shown: Shown,
    recorder: Recorder | None,
) -> NoReturn:
    code, outcome, left_out = ending.code, ending.outcome, subscribing.left_out
    words = [f"asyncpipes: {line}" for line in left_out_words(left_out)]
    if interrupts.number is not None:
        code = exit_codes.of_signal(interrupts.number)
        words.append(f"asyncpipes: {interrupted(interrupts.number)}; the script has been ended")
    shown.tally.kinds[ExternalStreamEvent] += subscribing.uncounted
    if recorder is not None:
        recorder.close(outcome, left_out.get(RECORDING, 0))
    out, err = shown.close(ending, left_out.get(STDOUT, 0))
    if recorder is not None and recorder.error is not None:
        code = code or exit_codes.OUTPUT
        words.append(f"asyncpipes: cannot write to {safe(recorder.path)}: {recorder.error}")
    if shown.error is not None:
        code = code or exit_codes.OUTPUT
        words.append(f"asyncpipes: cannot write to stdout: {shown.error}")
        out, err = "", verdict(ending, shown.tally)
    leave(code, "\n".join(filter(None, [*words, err])), out)


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

    def close(self, ending: Ending | None, left_out: int = 0) -> tuple[str, str]:
        """What is left to say, on stdout and on stderr; without an ending nothing.

        Args:
            ending: how the script ended.
            left_out: pieces of its output that came too fast for this.
        """


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
        self._display = display
        self._is_json = display.kind == "json"
        self._printer: Printer = JsonPrinter() if self._is_json else LinePrinter()

    @property
    def error(self) -> str | None:
        return self._printer.error

    def subscribing(self) -> Subscribing:
        return Subscribing([self.tally.add], {STDOUT: self._print})

    def _print(self, event: Event) -> None:
        if not self._display.shows(event):
            return
        is_captured = isinstance(event, ExternalStreamEvent) and event.position is None
        if self._has_output or not is_captured:
            self._printer(event)

    def close(self, ending: Ending | None, left_out: int = 0) -> tuple[str, str]:
        if ending is None:
            return "", ""
        text = verdict(ending, self.tally)
        if not self._is_json:
            # Where there was no run, these are words of ours.
            return (text, "") if ending.fault is None else ("", text)
        if not in_time(lambda: self._printer.outcome(ending.outcome, left_out)):
            self._printer.error = self._printer.error or "it has stalled"
        return "", text


async def _run(
    script: Script,
    subscribing: Subscribing,
    interrupts: Interrupts,
    forward_stdio: ForwardStdio,
    strict: bool,
) -> Ending:
    interrupts.install()
    ending = await run_script(
        script, subscribing, interrupts, strict=strict, forward_stdio=forward_stdio
    )
    interrupts.over()
    return ending
