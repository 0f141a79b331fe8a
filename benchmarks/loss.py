"""``python -m benchmarks loss``: who loses messages to the stock host's reader, and how many."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .cases import Subject
from .patterns import PATTERNS, WAYS
from .runner import measure
from .table import machine_line

_ROUND = Subject("a round", "benchmarks.subjects.loss:one_round")

#: Its name on the command line.
LOSS = "loss"

#: Lossy runs of the stock script that are waited for: fewer would show too little, since
#: ours may have had luck.
ENOUGH = 5


@dataclass(frozen=True, slots=True)
class Run:
    """One script under the stock host.

    Attributes:
        lost: messages that were reported and that the host does not have.
        failure: what else is wrong with the run, or nothing.
    """

    round: int
    pattern: str
    way: str
    subject: str
    messages: int
    lost: int
    failure: str

    @property
    def is_lossy(self) -> bool:
        """Whether it ended in another way than it should."""
        return bool(self.lost or self.failure)


@dataclass(slots=True)
class LossReport:
    """All runs, and what they ran on."""

    machine: dict[str, Any]
    divisor: int
    file_system: str = field(default_factory=lambda: file_system(tempfile.gettempdir()))
    runs: list[Run] = field(default_factory=list)

    def lossy(self, subject: str, pattern: str | None = None, way: str | None = None) -> list[Run]:
        """The lossy runs of a subject, perhaps of one pattern and way alone."""
        return [run for run in self.of(subject, pattern, way) if run.is_lossy]

    def of(self, subject: str, pattern: str | None = None, way: str | None = None) -> list[Run]:
        """All runs of a subject, perhaps of one pattern and way alone."""
        return [
            run
            for run in self.runs
            if run.subject == subject and pattern in (None, run.pattern) and way in (None, run.way)
        ]

    def table(self) -> str:
        """The table, in Markdown."""
        lines = [
            "| reported under Dagster's own client | runs | with `dagster_pipes`: lossy runs"
            " | messages lost | with `asyncpipes`: lossy runs | messages lost |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        for pattern in PATTERNS:
            for way in WAYS:
                title = f"{pattern.title(self.divisor)}, {_WAY_TITLES[way]}"
                lines.append(self._line(title, pattern.name, way))
        lines.append(self._line("all"))
        return "\n".join(lines)

    def text(self) -> str:
        """How often, on what, the table, and each lossy run of ours: all of it Markdown."""
        rounds = len({run.round for run in self.runs})
        lines = [
            f"{rounds} rounds; {machine_line(self.machine)}; files on {self.file_system}",
            "",
            self.table(),
        ]
        for run in self.lossy("ours"):
            where = f"{run.pattern}, {run.way}, round {run.round}"
            lines.append(f"ours, {where}: {run.lost} messages lost. {run.failure}")
        return "\n".join(lines)

    def shows_too_little(self) -> str:
        """Why no loss of ours proves nothing here, or nothing."""
        lossy = len(self.lossy("stock"))
        if lossy >= ENOUGH:
            return ""
        return (
            f"only {lossy} of {len(self.of('stock'))} runs of the stock script were lossy, and"
            f" fewer than {ENOUGH} show nothing of ours: try --max-rounds above"
            f" {max((run.round for run in self.runs), default=0)}, or a busier machine"
        )

    def _line(self, title: str, pattern: str | None = None, way: str | None = None) -> str:
        cells = [title, f"{len(self.of('ours', pattern, way)):,}"]
        for subject in ("stock", "ours"):
            lossy = self.lossy(subject, pattern, way)
            cells += f"{len(lossy):,}", f"{sum(run.lost for run in lossy):,}"
        return "| " + " | ".join(cells) + " |"

    def as_json(self) -> str:
        """Everything: each run, and the table."""
        return json.dumps({**asdict(self), "table": self.table()}, indent=1) + "\n"


_WAY_TITLES = {"burst": "in bursts", "single": "each flushed"}


def measure_loss(
    report: LossReport,
    *,
    rounds: int,
    most_rounds: int,
    done: Callable[[int], None],
) -> None:
    """Run rounds until the stock script has lost often enough, and at least ``rounds``.

    Args:
        report: takes the runs.
        rounds: at least so many, each with every pattern in every way by both scripts.
        most_rounds: no more than so many, whoever lost what.
        done: called after each round, with its number.

    Raises:
        BenchmarkError: a round could not be run.
    """
    for number in range(1, most_rounds + 1):
        runs: Iterable[dict[str, Any]] = measure(_ROUND, report.divisor)["runs"]
        report.runs += [Run(round=number, **run) for run in runs]
        done(number)
        if number >= rounds and len(report.lossy("stock")) >= ENOUGH:
            break


def file_system(directory: str) -> str:
    """The type of the file system that a directory is on, or "an unknown file system"."""
    found = ("", "an unknown file system")
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return found[1]
    real = Path(directory).resolve()
    for mount in mounts:
        _, place, kind, *_ = mount.split(" ")
        # Of several at one place the last one is on top.
        if real.is_relative_to(place) and len(place) >= len(found[0]):
            found = (place, kind)
    return found[1]
