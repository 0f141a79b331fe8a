"""What the tests have shown, gathered over all processes that share them.

A plugin of the whole run, and no part of this folder's ``conftest.py``: a process that runs no
tests itself does not load that.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.table import Table

HERE = Path(__file__).parent
TABLE = pytest.StashKey[Table]()
#: By this name a process that shares the tests says which it has.
COLLECTED = "tests_of_faults"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-table",
        action="store_true",
        help="write what the tests in tests/faults have shown into its README.md",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "case(about): one of the numbered cases; set by @case")
    config.stash[TABLE] = table = Table(HERE)
    config.pluginmanager.register(Listener(table))


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        item.config.stash[TABLE].deselect(item)


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[TABLE].collect(session.items, session.config.args)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if HERE in item.path.parents:
        item.config.stash[TABLE].mark(item, report)
    return report


class Listener:
    """Hears of every test, whichever process ran it."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._table.add(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        if (collected := getattr(node, "workeroutput", {}).get(COLLECTED)) is not None:
            self._table.hear(collected)


def pytest_sessionfinish(session: pytest.Session) -> None:
    table = session.config.stash[TABLE]
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[COLLECTED] = table.collected
        return
    if session.exitstatus != pytest.ExitCode.OK or not table.is_complete:
        return
    if session.config.getoption("write_table", default=False):
        table.write()
    elif not table.is_current():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in terminalreporter.config.stash[TABLE].remarks:
        terminalreporter.section("tests/faults/README.md", red=True)
        terminalreporter.line(line)
