"""``asyncpipes replay``: a file through the same displays as a run."""

from __future__ import annotations

import sys
import time
from typing import NoReturn

from ..errors import PipesError
from ..protocol.events import Event
from ..protocol.outcome import Outcome
from . import exit_codes
from .display import Display
from .leaving import PATIENCE, Signalled, leave, raise_when_signalled
from .recording import StreamFile
from .render import JsonPrinter, LinePrinter, Printer, summary
from .tally import Tally
from .text import safe

#: Seconds that a pause of the recording is shortened to, whatever the speed: nobody waits
#: for a script that slept for a night.
_LONGEST_PAUSE = 10.0
#: How a recording ended whose last line is not there.
_NO_END = Outcome(reasons=("the recording has no end: it was cut off",))
#: Events that a view has waiting before the file is read on: it would leave them out.
_AHEAD = 40


def replay(path: str, speed: float | None, display: Display) -> NoReturn:
    """Show what is in the file, and leave."""
    raise_when_signalled()
    try:
        file = StreamFile(path)
        if file.has_jobs:
            file.close()
            leave(
                exit_codes.USAGE,
                f"asyncpipes: {safe(path)} has the events of several jobs: give each job a"
                " `record`, and replay that",
            )
        tally, error = (_live if display.kind == "live" else _print)(file, speed, display)
    except PipesError as failure:
        leave(exit_codes.USAGE, f"asyncpipes: {safe(str(failure))}")
    except Signalled as signalled:
        leave(exit_codes.of_signal(signalled.number), f"asyncpipes: {signalled}")
    if error is not None:
        leave(exit_codes.OUTPUT, f"asyncpipes: cannot write to stdout: {error}")
    if display.kind == "live":
        leave(0)
    outcome = file.outcome or _NO_END
    text = summary(outcome, tally)
    if display.kind == "json":
        leave(0, err=text)
    leave(0, out=text)


def _print(file: StreamFile, speed: float | None, display: Display) -> tuple[Tally, str | None]:
    tally, pace = Tally(), _Pace(speed)
    printer: Printer = JsonPrinter() if display.kind == "json" else LinePrinter()
    for line in file.lines():
        if isinstance(line.what, Outcome):
            continue
        pace.wait(line.what)
        tally.add(line.what)
        if display.shows(line.what):
            printer(line.what)
        if printer.error is not None:
            break
    if file.outcome is not None:
        printer.outcome(file.outcome)
    return tally, printer.error


def _live(file: StreamFile, speed: float | None, display: Display) -> tuple[Tally, str | None]:
    from .view import View

    pace = _Pace(speed)
    view = View(sys.stdout, file.path, lambda: "replay", display.min_level)
    view.start()
    try:
        for line in file.lines():
            if isinstance(line.what, Outcome):
                continue
            pace.wait(line.what)
            # Nothing is left out of what is already there: it waits for the terminal.
            while speed is None and view.waiting > _AHEAD and view.error is None:
                time.sleep(0.02)
            view.take(line.what)
            if view.error is not None:
                break
    except BaseException:
        view.close(None, PATIENCE)
        raise
    view.close(file.outcome or _NO_END, PATIENCE)
    return view.tally, view.error


class _Pace:
    """Waits between events as long as was waited between them, divided by ``speed``."""

    def __init__(self, speed: float | None) -> None:
        self._speed = speed
        self._last: float | None = None

    def wait(self, event: Event) -> None:
        when = event.received_at or event.sent_at
        if self._speed is None or when is None:
            return
        if self._last is not None and when > self._last:
            time.sleep(min((when - self._last) / self._speed, _LONGEST_PAUSE))
        self._last = when
