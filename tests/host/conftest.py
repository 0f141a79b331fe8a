"""Each test of the host: own TMPDIR, nothing left in it, and a loop that is never blocked."""

from __future__ import annotations

import gc
import logging
import os
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

import asyncpipes


@pytest.fixture(autouse=True)
def _no_blocking_of_the_loop() -> Generator[None, None, None]:
    """A blocking call on a loop's thread that has a frame of asyncpipes under it fails."""
    with blockbuster_ctx("asyncpipes") as blockbuster:
        # Tests of raising subscribers and of failed launches print no traceback, but
        # importing a codec or a module for the first time reads files.
        for function in blockbuster.functions.values():
            function.can_block_in("importlib/_bootstrap.py", "_find_and_load")
            function.can_block_in("<frozen importlib._bootstrap>", "_find_and_load")
            # The interpreter itself starts processes this way; there is no other.
            function.can_block_in("subprocess.py", "_execute_child")
        yield


@pytest.fixture(autouse=True)
def _importable_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts in other directories import the same asyncpipes as the tests."""
    monkeypatch.setenv("PYTHONPATH", str(Path(asyncpipes.__file__).parent.parent))


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path, None, None]:
    """TMPDIR; a file or directory that a session leaves in it fails the test."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield path
    assert os.listdir(path) == []


@pytest.fixture(autouse=True)
def _nothing_goes_unretrieved(caplog: pytest.LogCaptureFixture) -> Generator[None, None, None]:
    """asyncio's complaints ("... was never retrieved", slow and lost tasks) fail a test."""
    yield
    gc.collect()
    complaints = [
        record.getMessage()
        for record in caplog.records
        if record.name == "asyncio" and record.levelno >= logging.WARNING
    ]
    assert complaints == []
