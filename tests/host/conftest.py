"""Each test of the host: own TMPDIR, and nothing left in it."""

from __future__ import annotations

import gc
import logging
import os
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

import asyncpipes


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
        for record in caplog.get_records("call") + caplog.get_records("teardown")
        if record.name == "asyncio" and record.levelno >= logging.WARNING
    ]
    assert complaints == []
