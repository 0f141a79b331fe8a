"""README.md of this folder: what the tests are, and what each subject did, from a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from tests.faults.cases import CASES, Case
from tests.faults.subjects import Kind

_HEAD = """\
# Cases that every version must survive

Made by `python -m pytest tests/faults --write-table` from a run; a complete run of these
tests fails if it shows anything else. Each test is one body. It runs with our host and
script, where it must pass; with Dagster's own ("stock"), on the same input; and with
wrong versions of ours (`mutants*.py`), each of which must fail it. "Fails" is a strict
expectation: a stock version that passes fails the run.
"""

_HALF = {"both": "", "host": "host: ", "script": "script: "}


@dataclass
class _Row:
    """A test, and how its subjects did: passed, or failed as expected."""

    name: str
    case: Case
    outcomes: dict[str, set[str]] = field(default_factory=dict)
    mutants: dict[str, str] = field(default_factory=dict)


class Table:
    """Gathers outcomes while tests run, and makes the file of them.

    Where several processes share the tests, each of them runs some, and knows which there are;
    one that runs none hears of all.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "README.md"
        self._rows: dict[tuple[str, str], _Row] = {}
        self._files: set[str] = set()
        self._is_partial = False
        #: What is to be said at the end of the run.
        self.remarks: list[str] = []

    def deselect(self, item: pytest.Item) -> None:
        """Note that a test does not run."""
        if self._is_about(item):
            self._is_partial = True

    def collect(self, items: Sequence[pytest.Item], args: Sequence[str]) -> None:
        """Note which tests run."""
        self._files = {item.path.name for item in items if self._folder in item.path.parents}
        self._is_partial |= any("::" in arg for arg in args)

    @property
    def collected(self) -> tuple[list[str], bool]:
        """Which tests run, for :meth:`hear`."""
        return sorted(self._files), self._is_partial

    def hear(self, collected: tuple[list[str], bool]) -> None:
        """Note which tests run in another process."""
        files, is_partial = collected
        self._files |= set(files)
        self._is_partial |= is_partial

    def mark(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Have the report of a test's call say what it is about, in plain values."""
        marker = item.get_closest_marker("case")
        if report.when != "call" or marker is None or not self._is_about(item):
            return
        assert isinstance(item, pytest.Function)
        kind = item.callspec.params["subject"]
        assert isinstance(kind, Kind)
        mutant = kind.mutant
        report.of_case = {  # type: ignore[attr-defined]  # a report takes what it is given
            "file": item.path.name,
            "name": item.originalname,
            "case": asdict(marker.args[0]),
            "subject": kind.name,
            "mutant": None if mutant is None else (mutant.name, mutant.description),
        }

    def add(self, report: pytest.TestReport) -> None:
        """Take the outcome of a test's call."""
        about = getattr(report, "of_case", None)
        if about is None:
            return
        key = about["file"], about["name"]
        row = self._rows.setdefault(key, _Row(about["name"], Case(**about["case"])))
        row.outcomes.setdefault(about["subject"], set()).add(report.outcome)
        if about["mutant"] is not None:
            name, description = about["mutant"]
            row.mutants[name] = description

    def _is_about(self, item: pytest.Item) -> bool:
        return self._folder in item.path.parents and item.get_closest_marker("soak") is None

    @property
    def is_complete(self) -> bool:
        """Whether all tests of this folder ran, but for those of the long form."""
        files = {path.name for path in self._folder.glob("test_*.py")}
        return not self._is_partial and self._files == files

    def is_current(self) -> bool:
        """Whether the file says what the run has shown; a remark if it does not."""
        if self._path.exists() and self._path.read_text(encoding="utf-8") == self.render():
            return True
        self.remarks.append(
            "It does not say what this run has shown. Look at what changed, then write it:\n"
            "python -m pytest tests/faults --write-table"
        )
        return False

    def write(self) -> None:
        """Write the file."""
        self._path.write_text(self.render(), encoding="utf-8")

    def render(self) -> str:
        """The whole file."""
        parts = [_HEAD]
        for number, title in CASES.items():
            rows = [row for row in self._rows.values() if row.case.number == number]
            if not rows:
                continue
            parts.append(f"\n## {number}. {title}\n\n")
            parts.append(
                "| test | ours | stock | wrong versions that fail it |\n|---|---|---|---|\n"
            )
            parts += [_line(row) for row in sorted(rows, key=lambda row: row.name)]
        return "".join(parts)


def _line(row: _Row) -> str:
    mutants = "; ".join(f"`{name}`: {row.mutants[name]}" for name in sorted(row.mutants))
    cells = [f"`{row.name}`", _ours(row), _stock(row), mutants or "—"]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _ours(row: _Row) -> str:
    return "passes" if row.outcomes.get("ours") == {"passed"} else "did not run"


def _stock(row: _Row) -> str:
    about = row.case
    if about.stock is None:
        return f"not run: {about.absent}"
    outcomes = row.outcomes.get("stock")
    if outcomes == {"passed"}:
        return f"{_HALF[about.stock]}passes"
    return f"{_HALF[about.stock]}fails: {about.fails}" if outcomes == {"skipped"} else "did not run"
