"""The subject of each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import asyncpipes
from tests.faults.runs import StockHosts
from tests.faults.subjects import Kind, Subject

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.host)


@pytest.fixture(scope="session")
def _stock_hosts() -> Iterator[StockHosts]:
    hosts = StockHosts()
    yield hosts
    hosts.close()


@pytest.fixture
def subject(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    _stock_hosts: StockHosts,
) -> Iterator[Subject]:
    """What the test is put to. Our own leaves nothing behind, the others are cleared away."""
    kind = request.param
    assert isinstance(kind, Kind)
    # Scripts import the same asyncpipes as the tests, and the tests' mutants.
    monkeypatch.setenv("PYTHONPATH", str(Path(asyncpipes.__file__).parent.parent))
    # Not tmp_path: multiprocessing has sockets in there, and the path of one must be short.
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    subject = Subject(kind, folder, monkeypatch, _stock_hosts)
    monkeypatch.setenv("TMPDIR", str(subject.temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield subject
    left = subject.left_behind(), subject.alive()
    subject.close()
    try:
        subject.check_mutant()
    finally:
        shutil.rmtree(folder)
    if subject.name == "ours":
        assert left == ([], [])
