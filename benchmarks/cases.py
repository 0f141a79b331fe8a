"""What is measured against what: the rows of the table, and the targets beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each benchmark does."""

    messages: int
    host_messages: int
    latency_messages: int
    bursts: int
    imports: int


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a measurement.

    Attributes:
        key: its key in what a subject returns.
        label: how the table calls it, with the unit.
        target: what the ratio of ours to stock is to reach, in words.
        floor_target: the share of the floor that is to be reached, in words.
    """

    key: str
    label: str
    target: str = ""
    floor_target: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """One row.

    Attributes:
        label: what the table calls it.
        target: ``module:function``, called with the size in a fresh process.
        divisor: it does this much less than the benchmark's size; rates are compared.
        floor: the label of the floor that it is held against, for subjects of ours.
        base: the label of what it is compared with, where that is not the case's.
    """

    label: str
    target: str
    divisor: int = 1
    floor: str = ""
    base: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One benchmark; its subject ``base`` is what those of ours are compared with."""

    name: str
    title: str
    size: Callable[[Sizes], int]
    metrics: tuple[Metric, ...]
    subjects: tuple[Subject, ...]
    base: str = "stock"


_RATE = "messages/s"
_HERE = "benchmarks.subjects"

CASES = (
    Case(
        "emit",
        "emit: 235 B custom messages to a file, first call to last line readable",
        lambda sizes: sizes.messages,
        (Metric("per_second", _RATE, "at least 10 x", "at least 35 %"),),
        (
            Subject("ours, await every 100th", f"{_HERE}.emit:await_some", floor="floor"),
            Subject("ours, await each", f"{_HERE}.emit:await_each", floor="floor"),
            Subject("ours, plain with", f"{_HERE}.emit:plain_with", floor="floor"),
            Subject("ours, under a stock host", f"{_HERE}.emit:stock_host", floor="floor"),
            Subject("stock", f"{_HERE}.emit:stock", divisor=4),
            Subject("floor", f"{_HERE}.emit:floor"),
        ),
    ),
    Case(
        "host",
        "host: backlog of 235 B custom messages, read -> typed events -> one sync subscriber",
        lambda sizes: sizes.host_messages,
        (Metric("per_second", _RATE, "at least 3 x", "at least 40 %"),),
        (
            Subject("ours, our script's lines", f"{_HERE}.host:ours", floor="floor, our lines"),
            Subject("ours, stock lines", f"{_HERE}.host:ours_plain", floor="floor, stock lines"),
            Subject(
                "ours, our lines, collecting",
                f"{_HERE}.host:ours_collecting",
                divisor=4,
                floor="floor, our lines",
            ),
            Subject("stock", f"{_HERE}.host:stock", divisor=4),
            Subject("floor, our lines", f"{_HERE}.host:floor"),
            Subject("floor, stock lines", f"{_HERE}.host:floor_plain"),
        ),
    ),
    Case(
        "run",
        "run: script start to outcome, script and host of one kind",
        lambda sizes: sizes.messages,
        (Metric("per_second", _RATE, "at least 5 x"),),
        (
            Subject("ours", f"{_HERE}.whole:ours"),
            Subject("stock", f"{_HERE}.whole_stock:stock"),
        ),
    ),
    Case(
        "stall",
        "stall: the loop's longest stall in a burst of 1,000 reports without an await",
        lambda sizes: sizes.bursts,
        (
            Metric("median_ms", "ms, median of bursts", "at most 1/10"),
            Metric("max_ms", "ms, longest", "at most 1/10"),
        ),
        (
            Subject("ours", f"{_HERE}.stall:ours"),
            Subject("ours, 1 s a write", f"{_HERE}.stall:ours_slow"),
            Subject("stock", f"{_HERE}.stall:stock"),
        ),
    ),
    Case(
        "import",
        "import: the external side, beside `import asyncio, dagster_pipes`",
        lambda sizes: sizes.imports,
        (Metric("median_ms", "ms", "at most 1.1 x"),),
        (
            Subject("ours", f"{_HERE}.imports:ours"),
            Subject("stock", f"{_HERE}.imports:stock"),
        ),
    ),
    Case(
        "latency",
        "latency: report to subscriber through a file, one message in 2 ms",
        lambda sizes: sizes.latency_messages,
        (
            Metric("p50_ms", "ms, p50", "at most 1/10"),
            Metric("p99_ms", "ms, p99", "at most 1/5"),
        ),
        (
            Subject("ours", f"{_HERE}.latency:ours"),
            Subject("stock", f"{_HERE}.latency:stock"),
        ),
    ),
    Case(
        "view",
        "view: a script's log lines, or tables and lines, through the live view, beside a"
        " subscriber that counts",
        lambda sizes: sizes.messages,
        (Metric("per_second", _RATE, "at least 0.8 x"),),
        (
            Subject("ours, live view", f"{_HERE}.view:live"),
            Subject("bare run()", f"{_HERE}.view:bare"),
            Subject(
                "ours, live view, tables",
                f"{_HERE}.view:live_tables",
                divisor=2,
                base="bare run(), tables",
            ),
            Subject("bare run(), tables", f"{_HERE}.view:bare_tables", divisor=2),
            # What is drawn after the end has a second, whatever the length of the run.
            Subject(
                "ours, live view, few tables",
                f"{_HERE}.view:live_tables",
                divisor=10,
                base="bare run(), few tables",
            ),
            Subject("bare run(), few tables", f"{_HERE}.view:bare_tables", divisor=10),
        ),
        base="bare run()",
    ),
)
