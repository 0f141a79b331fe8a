"""Counts of what has come: exact, however much of it is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from ..protocol.events import (
    AssetCheckEvent,
    CustomMessageEvent,
    Event,
    ExternalStreamEvent,
    GapEvent,
    LogEvent,
    MalformedEvent,
    MaterializationEvent,
)
from .words import count

#: The key of a custom message that tells how far a script is.
PROGRESS_KEY = "progress"
#: Bars that are remembered; a script that names ever new ones would fill the memory.
_MAX_BARS = 100
#: Integers above it have no float, and nothing counts that far.
_MOST = 1e300


@dataclass
class Progress:
    """How far a script is, as a custom message says.

    The payload is an object with the key ``progress``, and that an object::

        {"progress": {"completed": 7, "total": 12, "description": "months"}}

    ``total`` and ``description`` may be left out. Each description is a bar of its own.
    """

    description: str
    completed: float
    total: float | None

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.total is not None and self.completed >= self.total

    @classmethod
    def of(cls, payload: Any) -> Progress | None:
        """What a payload says of progress; None if it says nothing of the kind."""
        if not isinstance(payload, Mapping):
            return None
        told = payload.get(PROGRESS_KEY)
        if not isinstance(told, Mapping):
            return None
        completed, total = told.get("completed"), told.get("total")
        description = told.get("description") or ""
        if not _is_amount(completed) or not isinstance(description, str):
            return None
        if total is not None and not _is_amount(total):
            return None
        # Of nothing there is no part to draw.
        return cls(description, float(completed), float(total) if total else None)


def _is_amount(value: object) -> TypeGuard[float]:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 <= value <= _MOST  # type: ignore[operator]  # a number


class Tally:
    """Counts of one script's events.

    Attributes:
        kinds: how many of each class.
        levels: how many log lines of each level.
        failed_checks: how many checks failed.
        bars: the latest of each progress bar, by its description; the one that moved last is
            the last.
    """

    def __init__(self) -> None:
        self.kinds: Counter[type[Event]] = Counter()
        self.levels: Counter[str] = Counter()
        self.failed_checks = 0
        self.bars: dict[str, Progress] = {}

    def add(self, event: Event) -> Progress | None:
        """Count an event; return the progress that it tells of, if it does."""
        kind = type(event)
        self.kinds[kind] += 1
        if kind is LogEvent:
            self.levels[event.level] += 1  # type: ignore[attr-defined]  # of this class
        elif kind is CustomMessageEvent:
            progress = Progress.of(event.payload)  # type: ignore[attr-defined]  # of this class
            if progress is not None:
                self._keep(progress)
                return progress
        elif kind is AssetCheckEvent and not event.passed:  # type: ignore[attr-defined]  # of this class
            self.failed_checks += 1
        return None

    def _keep(self, progress: Progress) -> None:
        self.bars.pop(progress.description, None)  # or it would stay where it was first
        self.bars[progress.description] = progress
        if len(self.bars) > _MAX_BARS:
            del self.bars[next(iter(self.bars))]

    def merge(self, other: Tally) -> None:
        """Add the counts of another script."""
        # Copies, which are made at once: its events may come in another thread.
        self.kinds.update(dict(other.kinds))
        self.levels.update(dict(other.levels))
        self.failed_checks += other.failed_checks

    def results(self) -> str:
        """Materializations, checks and custom messages, in words."""
        checks = self.kinds[AssetCheckEvent]
        failed = f" ({self.failed_checks:,} failed)" if self.failed_checks else ""
        return ", ".join(
            [
                count(self.kinds[MaterializationEvent], "materialization"),
                count(checks, "check") + failed,
                count(self.kinds[CustomMessageEvent], "custom message"),
            ]
        )

    def log_lines(self) -> str:
        """How many log lines, and of the grave ones how many of each level, in words."""
        grave = [
            f"{self.levels[level]:,} {level}"
            for level in ("WARNING", "ERROR", "CRITICAL")
            if self.levels[level]
        ]
        lines = count(self.kinds[LogEvent], "log line")
        return lines + (f" ({', '.join(grave)})" if grave else "")

    def others(self) -> str:
        """Log lines, output and what went wrong, in words; nothing of what there is none of."""
        parts = []
        if self.kinds[LogEvent]:
            parts.append(self.log_lines())
        if lines := self.kinds[ExternalStreamEvent]:
            parts.append(count(lines, "piece") + " of output")
        if lines := self.kinds[MalformedEvent]:
            parts.append(count(lines, "bad line"))
        if gaps := self.kinds[GapEvent]:
            parts.append(count(gaps, "gap"))
        return ", ".join(parts)
