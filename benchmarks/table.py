"""The report in plain text."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .cases import Case
from .runner import Report, Row

_HEADINGS = ("", "median", "from", "to", "x stock", "target", "of floor", "target")
_WIDTHS = (30, 10, 10, 10, 13, 15, 10, 15)


def machine() -> dict[str, Any]:
    """What the numbers were measured on; nothing that names the machine itself."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cpus": os.cpu_count(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {name: _version(name) for name in ("dagster", "dagster-pipes", "orjson")},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def machine_line(about: dict[str, Any]) -> str:
    """One line of it."""
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    return f"{about['python']}, {about['cpus']} CPUs, {about['platform']}; {packages}"


def print_report(report: Report, cases: Sequence[Case], rounds: int) -> None:
    """Print the table: medians of the rounds, ratios of medians, targets beside them."""
    print(machine_line(report.machine))
    print(f"medians of {rounds} interleaved rounds, a fresh process each; ratios of medians")
    rows = report.rows(cases)
    for case in cases:
        print(f"\n{case.title}")
        for metric in case.metrics:
            columns = len(_HEADINGS) if metric.floor_target else len(_HEADINGS) - 2
            headings = [f"x {case.base}" if each == "x stock" else each for each in _HEADINGS]
            _print_line((f"  {metric.label}", *headings[1:columns]))
            for row in rows:
                if (row.case, row.metric) == (case.name, metric.key):
                    _print_line(_cells(row))
        for subject in case.subjects:
            losses = report.losses(case, subject)
            if losses:
                print(
                    f"  {subject.label}: {sum(losses):,} messages were lost, in {len(losses)} of"
                    f" {rounds} runs; a lossy run's time counts, and is shorter for it"
                )
    sys.stdout.flush()


def _cells(row: Row) -> tuple[str, ...]:
    share = row.share_of_floor
    return (
        f"  {row.subject}",
        _number(row.value),
        _number(row.low),
        _number(row.high),
        "" if row.against_stock is None else ratio(row.against_stock),
        row.target,
        "" if share is None else f"{share:.0%}",
        row.floor_target,
    )


def _print_line(cells: Sequence[str]) -> None:
    first, *others = zip(cells, _WIDTHS, strict=False)
    line = first[0].ljust(first[1]) + "".join(cell.rjust(width) for cell, width in others)
    print(line.rstrip())


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def ratio(value: float) -> str:
    """A ratio of ours to stock as people say it: ``12.3 x``, or ``1/12.3``."""
    return f"{value:.2f} x" if value > 0.5 else f"1/{1 / value:.1f}"
