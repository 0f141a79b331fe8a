"""How events are shown: what fits our own output, and from which level on."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Literal, cast

from ..host.settings import ForwardStdio
from ..protocol.events import LEVEL_NUMBERS, Event, Level, LogEvent

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

    def shows(self, event: Event) -> bool:
        """Whether an event is shown."""
        if type(event) is not LogEvent or self.kind == "json":
            return True
        return event.level_number >= LEVEL_NUMBERS[self.min_level]

    def forward_stdio(self, *, is_recorded: bool = False) -> ForwardStdio:
        """What becomes of the script's own output.

        A terminal never gets it as it is, and a recording has it as events.
        """
        if self.kind != "lines" or is_terminal():
            return "events"
        return "both" if is_recorded else True


def is_terminal() -> bool:
    """Whether stdout is one."""
    try:
        return sys.stdout is not None and sys.stdout.isatty()
    except ValueError:  # closed
        return False


def _is_live() -> bool:
    """Whether stdout is a terminal that obeys, and colours are not unwanted (no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") in ("", "dumb", "unknown"):
        return False
    return is_terminal() and "utf" in sys.stdout.encoding.lower()
