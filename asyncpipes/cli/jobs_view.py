"""How jobs are shown: plain lines, JSON, or a line of state each on a terminal."""

from __future__ import annotations

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TextIO

from rich.text import Text

from ..protocol.events import LEVEL_NUMBERS, AssetCheckEvent, Event, LogEvent
from ..protocol.outcome import Outcome
from .frames import SPINNER, Frames
from .leaving import PATIENCE
from .render import JsonPrinter, LinePrinter, Printer, event_lines
from .run import Display
from .running import Script, Subscribing
from .tally import Tally, count
from .text import one_line
from .view import bar, duration

State = Literal["waiting", "running", "ok", "failed", "not started"]

#: Of a job's bar: its counts stand beside it.
_BAR_CELLS = 12
#: Lines of the terminal that are not for running jobs.
_OTHER_LINES = 3
#: Lines that wait for a frame; of a script that is very unhappy more are left out.
_MAX_WAITING = 200
#: Log lines from this level on are shown.
_GRAVE = LEVEL_NUMBERS["WARNING"]


@dataclass
class Job:
    """A script of the file, and how it is doing.

    Attributes:
        name: of the file, or made of its number.
        script: what is run.
        record: where to, if it is to be recorded.
        state: how it is doing.
        tally: its counts.
        seconds: how long it took, or since when it runs.
        code: its exit code, once it has ended.
        reasons: why it failed.
    """

    name: str
    script: Script
    record: str | None = None
    state: State = "waiting"
    tally: Tally = field(default_factory=Tally)
    started: float = 0.0
    seconds: float = 0.0
    code: int = 0
    reasons: Sequence[str] = ()

    def line(self) -> str:
        """How it ended, in words."""
        if self.state == "not started":
            return "not started"
        verdict = "ok" if self.state == "ok" else f"NOT OK ({self.code})"
        return f"{verdict} after {duration(self.seconds)}: {self.tally.results()}"


class JobsDisplay(ABC):
    """How jobs are shown."""

    error: str | None = None

    @abstractmethod
    def subscribing(self, job: Job) -> Subscribing:
        """What it wants of a job's session."""

    @abstractmethod
    def ended(self, job: Job, outcome: Outcome | None) -> None:
        """A job has ended, or was not started. May block."""

    @abstractmethod
    def close(self, lines: Sequence[str]) -> tuple[str, str]:
        """All have ended, and ``lines`` tell of it; what is left to say on stdout and stderr."""


class PrintedJobs(JobsDisplay):
    """All lines of all jobs, each with its job's name; or JSON, with the key ``job``."""

    def __init__(self, jobs: Sequence[Job], display: Display) -> None:
        self._is_json = display.kind == "json"
        self._min_level = 0 if self._is_json else LEVEL_NUMBERS[display.min_level]
        width = min(max(len(job.name) for job in jobs), 30)
        self._printers: dict[str, Printer] = {
            job.name: JsonPrinter(job=job.name)
            if self._is_json
            else LinePrinter(f"{one_line(job.name, width):<{width}} │ ")
            for job in jobs
        }

    def subscribing(self, job: Job) -> Subscribing:
        printer = self._printers[job.name]

        def show(event: Event) -> None:
            if not (isinstance(event, LogEvent) and event.level_number < self._min_level):
                printer(event)
                self.error = self.error or printer.error

        return Subscribing([job.tally.add], [show])

    def ended(self, job: Job, outcome: Outcome | None) -> None:
        printer = self._printers[job.name]
        if outcome is not None:
            printer.outcome(outcome)
        printer.line(job.line())
        self.error = self.error or printer.error

    def close(self, lines: Sequence[str]) -> tuple[str, str]:
        text = "\n".join(lines)
        return ("", text) if self._is_json else (text, "")


class LiveJobs(JobsDisplay):
    """A line for each job that runs, and one of totals; above them those that have ended."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._frames = _JobFrames(sys.stdout, jobs)
        self._frames.start()

    def subscribing(self, job: Job) -> Subscribing:
        def take(event: Event) -> None:
            job.tally.add(event)
            self._frames.take(job, event)

        return Subscribing([take])

    def ended(self, job: Job, outcome: Outcome | None) -> None:
        self._frames.ended(job)

    def close(self, lines: Sequence[str]) -> tuple[str, str]:
        self._frames.closing = lines
        self._frames.end(PATIENCE)
        self.error = self._frames.error
        return "", ""


class _JobFrames(Frames):
    """Draws jobs.

    Attributes:
        closing: the last lines.
    """

    def __init__(self, file: TextIO, jobs: Sequence[Job]) -> None:
        super().__init__(file)
        self.closing: Sequence[str] = ()
        self._jobs = jobs
        self._started = time.monotonic()
        self._width = min(max(len(job.name) for job in jobs), 30)
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
        text = Text.assemble((f"{mark} ", style), self._name(job), job.line())
        with self._lock:
            self._waiting.append(text)

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
        return [*lines, Text(text, "bold")]

    def last(self) -> Sequence[str]:
        return [self.screen.text_of(Text(line)) for line in self.closing]

    def _running(self, job: Job, now: float, frame: int) -> Text:
        spinner = SPINNER[frame % len(SPINNER)]
        line = Text.assemble((f"{spinner} ", "cyan"), self._name(job))
        line.append(f"{duration(now - job.started):>7}  ", "dim")
        bars = list(job.tally.bars.values())
        if bars:
            line.append_text(bar(bars[-1], _BAR_CELLS)).append("  ")
        line.append(job.tally.results(), "dim")
        if others := job.tally.others():
            line.append(f", {others}", "dim")
        return line

    def _name(self, job: Job) -> tuple[str, str]:
        return f"{one_line(job.name, self._width):<{self._width}}  ", "bold"
