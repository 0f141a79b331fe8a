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
    assert subject.name == "ours"
"""
# One mutant that the test passes, and one that breaks down.
WRONG = """
import pytest
from tests.faults.cases import case
from tests.faults.mutants import module, mutant

@mutant("host")
def takes_no_arguments(patch):
    "It breaks down."
    patch(module("host.runner"), "judge", lambda: None)

@case(7, stock=None, absent="none", mutants=["leaves_its_files", "takes_no_arguments"])
async def test_case_07_of_this_test(subject):
    if subject.name == "takes_no_arguments":
        with pytest.raises(TypeError):
            module("host.runner").judge("an argument")
        raise AssertionError("as a test does of a run that the host gave up")
"""


class Folder:
    """A copy of the harness, with a test of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.basetemp = f"--basetemp={path / 'temporary'}"
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
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                self.basetemp,
                *arguments,
            ],
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
    # Likewise where several processes share the tests.
    folder.write(CASES.format(absent="none"))
    assert folder.run("tests", "-n", "2").returncode == pytest.ExitCode.OK
    folder.write(CASES.format(absent="another reason"))
    changed = folder.run("tests", "-n", "2")
    assert changed.returncode == pytest.ExitCode.TESTS_FAILED
    assert "python -m pytest tests/faults --write-table" in changed.stdout
    # A part of the tests shows a part of the table.
    assert folder.run("tests/faults", "-k", "ours").returncode == pytest.ExitCode.OK
    assert folder.table.read_text() == table


def test_a_wrong_version_that_passes_or_breaks_down_fails_the_run(folder: Folder) -> None:
    folder.write(WRONG)
    run = folder.run("tests/faults", "--write-table")
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    assert "XPASS(strict)" in run.stdout
    assert "VoidMutantError: takes_no_arguments broke down" in run.stdout
    assert "1 passed, 1 xfailed, 1 error" in run.stdout
    assert not folder.table.exists()
