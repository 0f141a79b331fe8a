"""The subject of each test, and the table of what they have shown."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

import asyncpipes
from tests.faults.runs import StockHosts
from tests.faults.subjects import Kind, Subject
from tests.faults.table import Table

HERE = Path(__file__).parent
TABLE = pytest.StashKey[Table]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-table",
        action="store_true",
        help="write what the tests in tests/faults have shown into its README.md",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "case(about): one of the numbered cases; set by @case")
    config.stash[TABLE] = Table(HERE)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.host)


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
        item.config.stash[TABLE].add(item, report)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    table = session.config.stash[TABLE]
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


@pytest.fixture(scope="session")
def _stock_hosts() -> Iterator[StockHosts]:
    hosts = StockHosts()
    yield hosts
    hosts.close()


@pytest.fixture
def subject(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    _stock_hosts: StockHosts,
) -> Iterator[Subject]:
    """What the test is put to. Our own leaves nothing behind, the others are cleared away."""
    kind = request.param
    assert isinstance(kind, Kind)
    # Scripts import the same asyncpipes as the tests, and the tests' mutants.
    monkeypatch.setenv("PYTHONPATH", str(Path(asyncpipes.__file__).parent.parent))
    subject = Subject(kind, tmp_path, monkeypatch, _stock_hosts)
    monkeypatch.setenv("TMPDIR", str(subject.temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield subject
    left = subject.left_behind(), subject.alive()
    subject.end()
    subject.check_mutant()
    if subject.name == "ours":
        assert left == ([], [])
