"""The live view of one script: what it says scrolls by, how it is doing stands below.

::

    events ─▶ take()   counts every one of them, on the loop
                │      keeps what is to be shown, as far as it can be read
                ▼
              frame    ten times a second, in a thread of its own: a terminal may stall

Nobody reads more than some hundred lines a second. Of what comes faster, log lines and output
are the first to be left out, and a line in their place says how many; the counts are of all.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TextIO

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.text import Text

from ..protocol.events import (
    LEVEL_NUMBERS,
    AssetCheckEvent,
    CustomMessageEvent,
    Event,
    ExternalStreamEvent,
    Level,
    LogEvent,
    MaterializationEvent,
)
from ..protocol.outcome import Outcome
from .frames import SPINNER, Frames
from .render import after, event_lines
from .rich_render import render
from .tally import Progress, Tally
from .text import one_line, safe
from .words import count, duration

#: Events of a frame: what scrolls by at 300 lines a second can be seen, not read.
_PER_FRAME = 30
#: Seconds that a frame may spend on them: the live lines wait for it, and a table takes
#: a hundredth or more.
_FRAME_SECONDS = 0.05
#: Seconds in which all are drawn as they should be once the script has ended. Results that still
#: wait then are drawn as plain lines, which takes next to no time.
_CLOSING_SECONDS = 0.25
#: Events that wait for a frame. Above the first bound common ones are left out, above the
#: second all of them.
_MANY, _MOST = 60, 600
_COMMON = (ExternalStreamEvent, CustomMessageEvent)
#: Events that take long to draw, since they have metadata.
_COSTLY = (MaterializationEvent, AssetCheckEvent)
#: Log lines from this level on are not common.
_GRAVE = LEVEL_NUMBERS["WARNING"]
#: Bars that are drawn; and their width.
_BARS, _BAR_CELLS = 5, 30


class _LeftOut:
    """Stands for events that are not shown."""

    def __init__(self) -> None:
        self.number = 1


class View(Frames):
    """Shows one script's events on a terminal; :meth:`take` is the subscriber.

    Args:
        file: the terminal.
        title: the command, as it is shown.
        state: asked for each frame, what the session is doing.
        min_level: log lines below it are counted and not shown.

    Attributes:
        tally: the counts.
    """

    def __init__(
        self, file: TextIO, title: str, state: Callable[[], str], min_level: Level = "DEBUG"
    ) -> None:
        super().__init__(file)
        self.tally = Tally()
        self._title = title
        self._state = state
        self._min_level = LEVEL_NUMBERS[min_level]
        self._waiting: deque[Event | _LeftOut] = deque()
        self._lock = threading.Lock()  # of what is left out: a frame takes it away
        self._started = time.monotonic()
        self._outcome: Outcome | None = None
        self._plain_from = math.inf
        self._bars: list[str] = []

    @property
    def waiting(self) -> int:
        """Events that wait to be shown."""
        return len(self._waiting)

    def take(self, event: Event) -> None:
        """Count an event, and show it if it can be. Does not block."""
        if self.tally.add(event) is not None:
            return  # it is a bar
        is_log = type(event) is LogEvent
        if is_log and event.level_number < self._min_level:  # type: ignore[attr-defined]  # a log line
            return
        waiting = len(self._waiting)
        if waiting >= _MANY:
            is_common = (
                event.level_number < _GRAVE if is_log else isinstance(event, _COMMON)  # type: ignore[attr-defined]  # a log line
            )
            if is_common or waiting >= _MOST:
                self._leave_out()
                return
        self._waiting.append(event)

    def close(self, outcome: Outcome | None, seconds: float) -> None:
        """Show what waits, and the summary in the place of the live lines.

        Args:
            outcome: how it ended; None where there is none to tell.
            seconds: how long the terminal may take for each frame of that.
        """
        self._outcome = outcome
        self._plain_from = time.monotonic() + _CLOSING_SECONDS
        self.end(seconds)

    def _leave_out(self) -> None:
        with self._lock:
            last = self._waiting[-1] if self._waiting else None
            if isinstance(last, _LeftOut):
                last.number += 1
            else:
                self._waiting.append(_LeftOut())

    def above(self) -> list[str]:
        """What waits, as much as a frame takes."""
        taken: list[str] = []
        ends_at = time.monotonic() + _FRAME_SECONDS
        while len(taken) < _PER_FRAME and (not taken or time.monotonic() < ends_at):
            with self._lock:
                if not self._waiting:
                    break
                item = self._waiting.popleft()
            if isinstance(item, _LeftOut):
                text = f"         … {count(item.number, 'line')} not shown, and counted below"
                taken.append(self.screen.text_of(Text(text, "dim italic")))
            else:
                taken.append(self._text(item))
        return taken

    def live(self, frame: int) -> Sequence[Text]:
        """Bars, state, counts."""
        state = self._state()
        seconds = time.monotonic() - self._started
        style = style_of(state)
        status = Text.assemble(
            (f"{SPINNER[frame % len(SPINNER)]} ", style),
            (state, style),
            f" {duration(seconds)}  ",
            (one_line(self._title, 60), "bold"),
        )
        counts = Text(f"  {self.tally.results()}", "dim")
        if others := self.tally.others():
            counts.append(f", {others}")
        return [*self._drawn_bars(), status, counts]

    def _drawn_bars(self) -> list[Text]:
        """Those that move, each in its place as long as it does."""
        bars = dict(self.tally.bars)
        latest = list(bars)[-2 * _BARS :]
        kept = [name for name in self._bars if name in latest and not bars[name].is_complete]
        free = [name for name in reversed(latest) if name not in kept]
        free.sort(key=lambda name: bars[name].is_complete)
        self._bars = [*kept, *reversed(free[: _BARS - len(kept)])]
        lines = [bar(bars[name]) for name in self._bars]
        others = [name for name in bars if name not in self._bars and not bars[name].is_complete]
        if others:
            lines.append(Text(f"  … and {count(len(others), 'more bar')}", "dim"))
        return lines

    def last(self) -> list[str]:
        """The summary."""
        if self._outcome is None:
            return []
        return list(map(self.screen.text_of, outcome_lines(self._outcome, self.tally)))

    def _text(self, event: Event) -> str:
        if time.monotonic() < self._plain_from or not isinstance(event, _COSTLY):
            # Of rich, and of values that no type foresees: never the view's end.
            with suppress(Exception):
                return self.screen.text_of(render(event))
        return self.screen.text_of(Text("\n".join(event_lines(event))))


def style_of(state: str) -> str:
    """The colour of a session's state."""
    return {"open": "green", "starting": "cyan", "waiting": "cyan", "closed": "green"}.get(
        state, "yellow"
    )


def bar(progress: Progress, cells: int = _BAR_CELLS) -> Text:
    """A progress bar as one line; the bar itself takes so many cells."""
    line = Text(f"  {one_line(progress.description, 30)} " if progress.description else "  ")
    total = progress.total
    if total is None:
        return line.append(f"{progress.completed:,g}", "bold")
    done = min(progress.completed, total)
    console = Console(width=cells, color_system="standard", force_terminal=True)
    pulse = ProgressBar(total=total, completed=done, width=cells)
    for segment in console.render(pulse):
        line.append(segment.text.rstrip("\n"), segment.style)
    return line.append(f" {progress.completed:,g}/{total:,g}  {int(100 * done / total)}%")


def outcome_lines(outcome: Outcome, tally: Tally) -> list[RenderableType]:
    """The closing summary."""
    mark, style = ("✓", "bold green") if outcome.ok else ("✗", "bold red")
    verdict = "ok" if outcome.ok else "NOT OK"
    head = Text.assemble((f"{mark} {verdict}", style), f"{after(outcome)}: {tally.results()}")
    lines: list[RenderableType] = [head]
    if others := tally.others():
        lines.append(Text(f"  {others}", "dim"))
    lines += [Text(f"  - {safe(reason)}", "red") for reason in outcome.reasons]
    return lines
