"""``python -m benchmarks dagster``: our clients in Dagster, beside its own and beside asyncio."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from .cases import Subject
from .loss import file_system
from .patterns import pattern
from .runner import measure
from .table import machine_line

#: Its name on the command line.
DAGSTER = "dagster"
#: Its parts, which may be named after it.
PARTS = ("loss", "many", "backlog")

_HERE = "benchmarks.subjects"
_LOSS = Subject("loss", f"{_HERE}.dagster_loss:one_round")
_BARE = Subject("bare asyncio subprocesses", f"{_HERE}.dagster_many:bare")
#: The last of them without scripts, and so without a ratio.
_MANY = (
    _BARE,
    Subject("`AsyncPipesSubprocessClient`, one asset", f"{_HERE}.dagster_many:ours"),
    Subject("the same, an asset each", f"{_HERE}.dagster_many:ours_each"),
    Subject("the same, one asset, event log in SQLite", f"{_HERE}.dagster_many:ours_sqlite"),
    Subject("no scripts, their log lines alone into SQLite", f"{_HERE}.dagster_many:lines"),
)
_BACKLOG = Subject("backlog", f"{_HERE}.dagster_backlog:ours")

_CLIENTS = {
    "stock": "`dagster.PipesSubprocessClient`",
    "async": "`asyncpipes.dagster.AsyncPipesSubprocessClient`",
    "sync": "`asyncpipes.dagster.PipesSubprocessClient`",
}
_SCRIPTS = ("dagster_pipes", "asyncpipes")
Round = dict[str, float]


@dataclass(frozen=True, slots=True)
class Work:
    """How much is done in a round.

    Attributes:
        divisor: of the messages that may be lost, only every so-manieth is reported.
        scripts: awaited at once.
        lines: logged before the result.
    """

    divisor: int = 1
    scripts: int = 50
    lines: int = 100_000


@dataclass(slots=True)
class DagsterReport:
    """All that was measured, and what it was measured on.

    Attributes:
        loss: every run of a script under a client.
        many: for each way of running them, what each round gave.
        backlog: what each round gave.
    """

    machine: dict[str, Any]
    work: Work = field(default_factory=Work)
    file_system: str = field(default_factory=lambda: file_system(tempfile.gettempdir()))
    loss: list[dict[str, Any]] = field(default_factory=list)
    many: dict[str, list[Round]] = field(default_factory=dict)
    backlog: list[Round] = field(default_factory=list)

    @property
    def lossy(self) -> list[dict[str, Any]]:
        """The runs under a client of ours that lost messages, or failed."""
        return [run for run in self.loss if run["client"] != "stock" and _is_lossy(run)]

    def tables(self) -> list[str]:
        """A table in Markdown for each part that was measured."""
        parts = (
            (self.loss, self._loss_table),
            (self.many, self._many_table),
            (self.backlog, self._backlog_table),
        )
        return [table() for measured, table in parts if measured]

    def text(self) -> str:
        """What it ran on, the tables, and each lossy run of ours."""
        about = f"{machine_line(self.machine)}; files on {self.file_system}"
        lossy = [
            f"{run['client']}, {run['script']} script, round {run['round']}:"
            f" {run['lost']} messages lost. {run['failure']}"
            for run in self.lossy
        ]
        return "\n\n".join([about, *self.tables(), *lossy])

    def as_json(self) -> str:
        """Everything: each round's numbers, and the tables."""
        return json.dumps({**asdict(self), "tables": self.tables()}, indent=1) + "\n"

    def _loss_table(self) -> str:
        title = pattern("20KB").title(self.work.divisor)
        rows = []
        for client, name in _CLIENTS.items():
            for script in _SCRIPTS:
                runs = [r for r in self.loss if (r["client"], r["script"]) == (client, script)]
                counts = len(runs), sum(map(_is_lossy, runs)), sum(run["lost"] for run in runs)
                rows.append([name, f"`{script}`", *(f"{count:,}" for count in counts)])
        headings = (f"{title} under", "script of", "runs", "lossy runs", "messages lost")
        return _table(headings, rows, texts=2)

    def _many_table(self) -> str:
        rows = []
        bare = _of(self.many[_BARE.label], "seconds")
        for subject in _MANY:
            measured = self.many[subject.label]
            ratio, target = "", ""
            if subject not in (_BARE, _MANY[-1]):
                ratio, target = _ratio(_of(measured, "seconds"), bare), "at most 1.25"
            keys = ("seconds", "cpu_seconds", "lag_median_ms", "lag_max_ms")
            took, cpu, late, latest = (_spread(_of(measured, key)) for key in keys)
            rows.append([subject.label, took, ratio, target, cpu, late, latest])
        headings = (
            f"{self.work.scripts:,} scripts awaited at once in one step",
            "s",
            "x bare",
            "target",
            "CPU of the step's process, s",
            "loop late, median ms",
            "longest ms",
        )
        return _table(headings, rows)

    def _backlog_table(self) -> str:
        late, rest, in_log = (
            _spread(_of(self.backlog, key)) for key in ("late_ms", "rest_seconds", "in_log")
        )
        headings = (
            "a result reported after",
            "is yielded after, ms",
            "target",
            "the step then ends after, s",
            "lines in Dagster's log; the others are in stderr, and counted",
        )
        row = [f"{self.work.lines:,} log lines", late, "about 1,000", rest, in_log]
        return _table(headings, [row])


def measure_dagster(
    report: DagsterReport,
    *,
    parts: Collection[str],
    rounds: int,
    done: Callable[[int, str], None],
) -> None:
    """Measure ``rounds`` times, each time everything in ``parts``, a fresh process each.

    Args:
        report: takes what is measured.
        parts: of :data:`PARTS`.
        rounds: how often. The order within a round turns around with each.
        done: called after each part of a round, with the round's number and the part's name.

    Raises:
        BenchmarkError: something could not be run, or lost messages where that is not counted.
    """
    for number in range(1, rounds + 1):
        if "loss" in parts:
            runs: Iterable[dict[str, Any]] = measure(_LOSS, report.work.divisor)["runs"]
            report.loss += [{"round": number, **run} for run in runs]
            done(number, "loss")
        if "many" in parts:
            for subject in _MANY[:: 1 if number % 2 else -1]:
                measured = measure(subject, report.work.scripts)
                report.many.setdefault(subject.label, []).append(measured)
            done(number, "many")
        if "backlog" in parts:
            report.backlog.append(measure(_BACKLOG, report.work.lines))
            done(number, "backlog")


def _is_lossy(run: dict[str, Any]) -> bool:
    return bool(run["lost"] or run["failure"])


def _of(rounds: Sequence[Round], key: str) -> list[float]:
    return [each[key] for each in rounds]


def _spread(values: Sequence[float]) -> str:
    return f"{_number(median(values))} ({_number(min(values))} to {_number(max(values))})"


def _ratio(ours: Sequence[float], bare: Sequence[float]) -> str:
    of_rounds = [one / other for one, other in zip(ours, bare, strict=True)]
    return f"{median(ours) / median(bare):.2f} ({min(of_rounds):.2f} to {max(of_rounds):.2f})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> str:
    rule = ["---"] * texts + ["--:"] * (len(headings) - texts)
    lines = [_line(headings), "|" + "|".join(rule) + "|", *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
