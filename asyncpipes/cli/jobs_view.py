"""How jobs are shown: plain lines, JSON, or a line of state each on a terminal."""

from __future__ import annotations

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import TextIO

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from ..protocol.events import LEVEL_NUMBERS, AssetCheckEvent, Event, LogEvent
from ..protocol.outcome import Outcome
from .display import Display
from .frames import SPINNER, Frames
from .jobs_file import Job
from .leaving import PATIENCE
from .render import JsonPrinter, LinePrinter, Printer, event_lines
from .running import STDOUT, Interrupts, Subscribing
from .shown_state import ShownState
from .tally import Tally
from .text import one_line, safe
from .view import bar, style_of
from .words import count, duration

#: Of the longest state, as a column.
_STATE_CELLS = len("starting")
#: Of a job's bar: its counts stand beside it.
_BAR_CELLS = 12
#: Lines of the terminal that are not for running jobs.
_OTHER_LINES = 3
#: Lines that wait for a frame; of a script that is very unhappy more are left out.
_MAX_WAITING = 200
#: Terminal cells that names take at most.
_NAME_CELLS = 30
#: Log lines from this level on are shown.
_GRAVE = LEVEL_NUMBERS["WARNING"]


class JobsDisplay(ABC):
    """How jobs are shown."""

    error: str | None = None

    @abstractmethod
    def subscribing(self, job: Job) -> Subscribing:
        """What it wants of a job's session."""

    @abstractmethod
    def ended(self, job: Job, outcome: Outcome) -> None:
        """A job has ended, or was not started. May block."""

    @abstractmethod
    def close(self, lines: Sequence[str]) -> tuple[str, str]:
        """All have ended, and ``lines`` tell of it; what is left to say on stdout and stderr."""


class PrintedJobs(JobsDisplay):
    """All lines of all jobs, each with its job's name; or JSON, with the key ``job``."""

    def __init__(self, jobs: Sequence[Job], display: Display) -> None:
        self._is_json = display.kind == "json"
        self._display = display
        width = _width(jobs)
        self._printers: dict[str, Printer] = {
            job.name: JsonPrinter(job=job.name)
            if self._is_json
            else LinePrinter(f"{_padded(job.name, width)} │ ")
            for job in jobs
        }

    def subscribing(self, job: Job) -> Subscribing:
        printer = self._printers[job.name]

        def show(event: Event) -> None:
            if self._display.shows(event):
                printer(event)
                self.error = self.error or printer.error

        return Subscribing([job.tally.add], {STDOUT: show})

    def ended(self, job: Job, outcome: Outcome) -> None:
        printer = self._printers[job.name]
        printer.outcome(outcome, job.left_out.get(STDOUT, 0))
        for line in [job.line(), *(f"  - {safe(reason)}" for reason in job.reasons)]:
            printer.line(line)
        self.error = self.error or printer.error

    def close(self, lines: Sequence[str]) -> tuple[str, str]:
        text = "\n".join(lines)
        return ("", text) if self._is_json else (text, "")


class LiveJobs(JobsDisplay):
    """A line for each job that runs, and one of totals; above them those that have ended."""

    def __init__(self, jobs: Sequence[Job], display: Display, interrupts: Interrupts) -> None:
        self._display = display
        self._interrupts = interrupts
        self._frames = _JobFrames(sys.stdout, jobs, interrupts)
        self._frames.start()

    def subscribing(self, job: Job) -> Subscribing:
        def take(event: Event) -> None:
            job.tally.add(event)
            if self._display.shows(event):
                self._frames.take(job, event)

        state = ShownState(self._interrupts)
        job.session_state = lambda: state.text
        return Subscribing([take], opened=state.open)

    def ended(self, job: Job, outcome: Outcome) -> None:
        self._frames.ended(job)

    def close(self, lines: Sequence[str]) -> tuple[str, str]:
        self._frames.closing = lines
        self._frames.end(PATIENCE)
        self.error = self.error or self._frames.error
        return "", ""


class _JobFrames(Frames):
    """Draws jobs.

    Attributes:
        closing: the last lines.
    """

    def __init__(self, file: TextIO, jobs: Sequence[Job], interrupts: Interrupts) -> None:
        super().__init__(file)
        self._interrupts = interrupts
        self.closing: Sequence[str] = ()
        self._jobs = jobs
        self._started = time.monotonic()
        self._width = _width(jobs)
        #: What scrolls by: grave things, and ends.
        self._waiting: deque[Text] = deque()
        self._left_out = 0
        self._lock = threading.Lock()  # of both

    def take(self, job: Job, event: Event) -> None:
        """Show an event if it is one of those that a person must not miss."""
        is_grave = isinstance(event, LogEvent) and event.level_number >= _GRAVE
        if is_grave or (isinstance(event, AssetCheckEvent) and not event.passed):
            style = "red" if getattr(event, "level", "ERROR") != "WARNING" else "yellow"
            first = event_lines(event)[0]
            text = Text.assemble(self._name(job), (one_line(first, 400), style))
            with self._lock:
                if len(self._waiting) < _MAX_WAITING:
                    self._waiting.append(text)
                else:
                    self._left_out += 1

    def ended(self, job: Job) -> None:
        """Show how it ended."""
        mark, style = {"ok": ("✓", "bold green"), "failed": ("✗", "bold red")}.get(
            job.state, ("·", "dim")
        )
        lines = [Text.assemble((f"{mark} ", style), self._name(job), job.line())]
        # What the others wrote is theirs to show; of one that failed it tells why.
        lines += [Text(f"      err │ {line}", "magenta") for line in job.stderr]
        lines += [Text(f"    - {safe(reason)}", "red") for reason in job.reasons]
        with self._lock:
            self._waiting += lines

    def above(self) -> list[str]:
        taken: list[Text] = []
        with self._lock:
            while self._waiting:
                taken.append(self._waiting.popleft())
            left_out, self._left_out = self._left_out, 0
        if left_out:
            taken.append(Text(f"… {count(left_out, 'line')} not shown, and counted", "dim italic"))
        return list(map(self.screen.text_of, taken))

    def live(self, frame: int) -> Sequence[Text]:
        now = time.monotonic()
        running = [job for job in self._jobs if job.state == "running"]
        room = max(self.screen.size[1] - _OTHER_LINES, 1)
        lines = [self._running(job, now, frame) for job in running[:room]]
        hidden = len(running) - room
        if hidden > 0:
            lines.append(Text(f"  … and {count(hidden, 'job')} more that run", "dim"))
        total = Tally()
        for job in self._jobs:
            total.merge(job.tally)
        states = [
            f"{number:,} {state}"
            for state in ("running", "waiting", "ok", "failed")
            if (number := sum(job.state == state for job in self._jobs))
        ]
        text = f"  {count(len(self._jobs), 'job')}: {', '.join(states)}  "
        text += f"{duration(now - self._started)}  {total.results()}"
        if self._interrupts.number is not None:
            text += "  ending (Ctrl-C again: at once)"
        return [*lines, Text(text, "bold")]

    def last(self) -> Sequence[str]:
        return [self.screen.text_of(Text(line)) for line in self.closing]

    def _running(self, job: Job, now: float, frame: int) -> Text:
        spinner = SPINNER[frame % len(SPINNER)]
        state = job.session_state()
        style = style_of(state)
        line = Text.assemble((f"{spinner} ", style), self._name(job))
        line.append(f"{state:<{_STATE_CELLS}} ", style)
        line.append(f"{duration(now - job.started):>7}  ", "dim")
        bars = list(job.tally.bars.values())
        if bars:
            line.append_text(bar(bars[-1], _BAR_CELLS)).append("  ")
        line.append(job.tally.results(), "dim")
        if others := job.tally.others():
            line.append(f", {others}", "dim")
        return line

    def _name(self, job: Job) -> tuple[str, str]:
        return f"{_padded(job.name, self._width)}  ", "bold"


def _width(jobs: Sequence[Job]) -> int:
    return min(max(cell_len(one_line(job.name, _NAME_CELLS)) for job in jobs), _NAME_CELLS)


def _padded(name: str, cells: int) -> str:
    """A name as a column; some characters are two cells wide."""
    return set_cell_size(one_line(name, cells), cells)
