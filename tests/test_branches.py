"""Branch coverage is judged by itself, whatever the lines make of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import branches

pytestmark = pytest.mark.usefixtures("unmeasured_scripts")

#: Each ``if`` has two branches; all lines are run by the first call.
SOURCE = """
def f(x):
    if x:
        print(x)
    return x

f(1)
"""


def measured(folder: Path, source: str, *options: str) -> Path:
    (folder / "module.py").write_text(source)
    command = ["-m", "coverage", "run", *options, "--include=module.py", "module.py"]
    subprocess.run([sys.executable, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.mark.parametrize(
    ("calls", "code", "said"),
    [
        ("", 1, "50.00 %, 1 of 2 branches\nthat is less than 95 %"),
        ("f(0)\n", 0, "100.00 %, 2 of 2 branches\n"),
    ],
)
def test_lines_do_not_stand_for_branches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], calls: str, code: int, said: str
) -> None:
    assert branches.main(measured(tmp_path, SOURCE + calls, "--branch")) == code
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(("taken", "code"), [(9_499, 1), (9_500, 0), (9_501, 0)])
def test_the_share_is_not_rounded(monkeypatch: pytest.MonkeyPatch, taken: int, code: int) -> None:
    monkeypatch.setattr(branches, "counted", lambda root: (taken, 10_000))
    assert branches.main() == code


def test_a_run_without_branches_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert branches.main(measured(tmp_path, SOURCE)) == 1
    assert "no branches were measured" in capsys.readouterr().out


def test_make_test_judges_them() -> None:
    makefile = (branches.ROOT / "Makefile").read_text()
    judged = "\t@$(python) -m coverage report\n\t@$(python) -m tests.branches\n"
    assert judged in makefile
