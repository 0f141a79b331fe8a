"""Running the subjects: a fresh process each, in turn, round after round.

Rounds are interleaved, so that what else the machine does meets all subjects alike,
and the order turns around with each round, so that none always comes first.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from .call import LOST
from .cases import Case, Metric, Sizes, Subject
from .launching import environment

#: Seconds for one measurement. The longest, a million messages through a host on a
#: slow machine, takes a tenth of it.
TIMEOUT = 600.0


class BenchmarkError(Exception):
    """A subject failed or lost messages: there is no number that could be shown."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one subject gave in one round."""

    round: int
    case: str
    subject: str
    numbers: dict[str, float]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        value: median of the rounds; ``low`` and ``high`` are their extremes.
        against_stock: ours divided by stock, or by what else is the case's or the subject's
            base; None for that and the floor.
        share_of_floor: ours divided by the floor; None where there is none.
    """

    case: str
    subject: str
    metric: str
    value: float
    low: float
    high: float
    against_stock: float | None = None
    share_of_floor: float | None = None
    target: str = ""
    floor_target: str = ""


@dataclass(slots=True)
class Report:
    """All that was measured, and what it was measured on."""

    machine: dict[str, Any]
    sizes: Sizes
    measurements: list[Measurement] = field(default_factory=list)

    def rows(self, cases: Sequence[Case]) -> list[Row]:
        """The table, from the medians of the rounds so far."""
        return [
            self._row(case, subject, metric)
            for case in cases
            for metric in case.metrics
            for subject in case.subjects
        ]

    def losses(self, case: Case, subject: Subject) -> list[int]:
        """What a subject that may lose messages lost in each round that lost any."""
        lost = [int(each.numbers.get("lost", 0)) for each in self._of(case, subject.label)]
        return [count for count in lost if count]

    def as_json(self, cases: Sequence[Case]) -> str:
        """Everything: each round's numbers, and the table."""
        whole = {**asdict(self), "table": [asdict(row) for row in self.rows(cases)]}
        return json.dumps(whole, indent=1) + "\n"

    def _row(self, case: Case, subject: Subject, metric: Metric) -> Row:
        values = self._values(case, subject.label, metric)
        row = Row(case.name, subject.label, metric.key, median(values), min(values), max(values))
        if not subject.label.startswith("ours"):
            return row
        share = None
        if subject.floor:
            share = row.value / median(self._values(case, subject.floor, metric))
        against = row.value / median(self._values(case, subject.base or case.base, metric))
        return Row(
            case.name,
            subject.label,
            metric.key,
            row.value,
            row.low,
            row.high,
            against,
            share,
            metric.target,
            metric.floor_target if subject.floor else "",
        )

    def _values(self, case: Case, label: str, metric: Metric) -> list[float]:
        return [each.numbers[metric.key] for each in self._of(case, label)]

    def _of(self, case: Case, label: str) -> list[Measurement]:
        return [m for m in self.measurements if m.case == case.name and m.subject == label]


def run_round(number: int, cases: Sequence[Case], sizes: Sizes) -> Iterator[Measurement]:
    """Measure every subject once.

    Raises:
        BenchmarkError: one failed, or lost messages and does not say so by itself.
    """
    for case in cases:
        for subject in case.subjects[:: 1 if number % 2 else -1]:
            size = max(1, case.size(sizes) // subject.divisor)
            yield Measurement(number, case.name, subject.label, measure(subject, size))


def measure(subject: Subject, size: int) -> dict[str, Any]:
    """Call a subject in a fresh process, and return what it returns.

    Raises:
        BenchmarkError: it failed, or lost messages and does not say so by itself.
    """
    command = [sys.executable, "-m", "benchmarks.call", subject.target, str(size)]
    try:
        done = subprocess.run(
            command,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"{subject.target} took longer than {TIMEOUT:g} s") from error
    if done.returncode == LOST:
        raise BenchmarkError(f"messages were lost: {done.stderr.strip().splitlines()[-1]}")
    if done.returncode:
        raise BenchmarkError(
            f"{subject.target} ended with exit code {done.returncode}:\n{done.stderr}"
        )
    numbers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return numbers
