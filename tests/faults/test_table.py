"""The rules of this folder's own machinery: what is strict, and when the table is compared."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import asyncpipes

ROOT = Path(__file__).parents[2]

CASES = """
from tests.faults.cases import case

@case(7, stock=None, absent="{absent}", mutants=["believes_the_exit_code"])
async def test_case_07_of_this_test(subject):
    report = await subject.run("print('done')")
    assert not report.ok
"""
PASSED_BY_A_MUTANT = CASES.replace("believes_the_exit_code", "leaves_its_files")


class Folder:
    """A copy of the harness, with a test of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        shutil.copy(ROOT / "pyproject.toml", path)
        shutil.copytree(
            ROOT / "tests", path / "tests", ignore=shutil.ignore_patterns("test_*", "__pycache__")
        )
        self.table = path / "tests/faults/README.md"
        self.table.unlink(missing_ok=True)
        self.write(CASES.format(absent="none"))

    def write(self, source: str) -> None:
        """Write the one test."""
        (self.path / "tests/faults/test_one.py").write_text(source)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it."""
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
            cwd=self.path,
            env={**os.environ, "PYTHONPATH": str(Path(asyncpipes.__file__).parents[1])},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_the_table_is_written_and_compared(folder: Folder) -> None:
    assert folder.run("tests/faults", "--write-table").returncode == pytest.ExitCode.OK
    table = folder.table.read_text()
    assert "| `test_case_07_of_this_test` | passes | not run: none | `believes_the_exit_" in table

    folder.write(CASES.format(absent="another reason"))
    changed = folder.run("tests")
    assert changed.returncode == pytest.ExitCode.TESTS_FAILED
    assert "python -m pytest tests/faults --write-table" in changed.stdout
    # A part of the tests shows a part of the table.
    assert folder.run("tests/faults", "-k", "ours").returncode == pytest.ExitCode.OK
    assert folder.table.read_text() == table


def test_a_wrong_version_that_passes_fails_the_run(folder: Folder) -> None:
    folder.write(PASSED_BY_A_MUTANT.format(absent="none"))
    run = folder.run("tests/faults", "--write-table")
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    assert "XPASS(strict)" in run.stdout
    assert not folder.table.exists()
