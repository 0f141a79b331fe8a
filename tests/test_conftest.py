"""The test run's own rules: no silent skip in CI, warnings are errors, two loops on request."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import asyncpipes

ROOT = Path(__file__).parents[1]

SKIPS = """
import pytest

def test_passes(): pass

@pytest.mark.xfail(reason="known")
def test_expected_to_fail(): assert False

@pytest.mark.skip(reason="no such component")
def test_skipped(): pass

def test_skips_itself(): pytest.skip("nor this one")
"""
SKIPS_WHOLE = "import pytest\npytest.skip('a whole module', allow_module_level=True)"

LOOPS = """
import asyncio

async def test_plain(): pass

async def test_both(any_loop): print("RAN ON", type(asyncio.get_running_loop()).__module__)
"""

UNCLOSED = """
def test_forgets_a_file(tmp_path):
    open(tmp_path / "file", "w")
"""

LAUNCHED = """
import os

def test_sees_no_host(): assert not [name for name in os.environ if "DAGSTER_PIPES" in name]
"""


def run_pytest(folder: Path, *, ci: str | None = None, **modules: str) -> tuple[int, str]:
    """Exit code and output of a test run of its own, under this project's rules."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    tests = folder / "tests"
    tests.mkdir()
    for shared in ("conftest.py", "blocking.py"):
        shutil.copy(ROOT / "tests" / shared, tests)
    for name, text in modules.items():
        (tests / f"{name}.py").write_text(text)
    unwanted = ("CI", "FORCE_COLOR", "PY_COLORS")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    environment["DAGSTER_PIPES_CONTEXT"] = "garbage"
    environment["PYTHONPATH"] = str(Path(asyncpipes.__file__).parents[1])
    if ci is not None:
        environment["CI"] = ci
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-s"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("ci", [None, "", "0", "false"])
def test_a_skip_outside_ci_is_a_skip(tmp_path: Path, ci: str | None) -> None:
    code, output = run_pytest(tmp_path, ci=ci, test_skips=SKIPS, test_whole=SKIPS_WHOLE)
    assert re.search(r"1 passed, 3 skipped, 1 xfailed", output), output
    assert code == 0


def test_a_skip_in_ci_is_a_failure_that_says_what_is_missing(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, ci="true", test_skips=SKIPS)
    assert re.search(r"1 failed, 1 passed, 1 xfailed, 1 error", output), output
    assert "CI allows no skip: Skipped: no such component" in output
    assert "CI allows no skip: Skipped: nor this one" in output
    assert code == 1


def test_a_skipped_module_in_ci_is_a_failure(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, ci="true", test_whole=SKIPS_WHOLE)
    assert "CI allows no skip: Skipped: a whole module" in output, output
    assert code != 0


def test_a_forgotten_resource_is_a_failure(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, test_unclosed=UNCLOSED)
    assert "ResourceWarning: unclosed file" in output, output
    assert code == 1


def test_any_loop_runs_on_both_loops(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, ci="true", test_loops=LOOPS)
    assert set(re.findall(r"RAN ON (\w+)", output)) == {"asyncio", "uvloop"}, output
    assert "3 passed" in output
    assert code == 0


def test_the_environment_of_a_test_has_no_bootstrap(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, test_launched=LAUNCHED)
    assert code == 0, output
