"""The README is true: each of its blocks is run, in order, as a new user would.

A virtual environment gets the package by the README's own install line; then, in an
empty directory, blocks under a ``file:`` comment are written there, and every ``$``
line of a console block is run and its output compared. ``...`` stands for anything.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FENCE = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)

pytestmark = pytest.mark.host


@dataclass
class Block:
    kind: str
    text: str
    note: str
    line: int


def blocks() -> list[Block]:
    readme = (ROOT / "README.md").read_text()
    found = [
        Block(m["kind"], m["text"], m["note"] or "", readme.count("\n", 0, m.start()) + 1)
        for m in FENCE.finditer(readme)
    ]
    assert len(found) == len(re.findall(r"^```\w", readme, re.M)), "a fence that is not understood"
    return found


def commands(block: Block) -> list[tuple[str, str]]:
    """The command and the expected output of each ``$`` line."""
    parts = re.split(r"^\$ (.*)\n", block.text, flags=re.M)
    assert not parts[0], f"line {block.line}: a console block starts with $"
    return list(zip(parts[1::2], parts[2::2], strict=True))


def matches(expected: str, actual: str, *, any_order: bool) -> bool:
    if any_order:
        patterns = [as_pattern(line) for line in expected.splitlines()]
        lines = actual.splitlines()
        for pattern in patterns:
            found = next((line for line in lines if re.fullmatch(pattern, line)), None)
            if found is None:
                return False
            lines.remove(found)
        return not lines
    return re.fullmatch(as_pattern(expected.rstrip()), actual.rstrip(), re.S) is not None


def as_pattern(text: str) -> str:
    return ".*?".join(map(re.escape, text.split("...")))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A fresh virtual environment with the package, and Dagster within its reach."""
    home = tmp_path_factory.mktemp("readme-home")
    source = home / "clone"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "asyncpipes"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    for name in [*listed, "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    venv = home / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    variables = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    for name in ("PYTHONPATH", "DAGSTER_HOME"):
        variables.pop(name, None)
    [install] = [block for block in blocks() if block.note == "run: install"]
    for command, _ in commands(install):
        subprocess.run(command, shell=True, cwd=source, env=variables, check=True)
    shutil.rmtree(source)  # what was installed must not need it
    # After the environment's own packages, so that asyncpipes is the installed one.
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(venv)}))
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib"))
    dagster = venv / "bin" / "dagster"
    # Guarded, since Dagster's executor spawns processes that import the main script.
    dagster.write_text(
        f"#!{venv}/bin/python\nfrom dagster._cli import main\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    dagster.chmod(0o755)
    return variables


def test_every_block_of_the_readme_runs(environment: dict[str, str], tmp_path: Path) -> None:
    check = "import asyncpipes; print(asyncpipes.__file__)"
    where = run(f'python -c "{check}"', tmp_path, environment)
    assert str(ROOT) not in where, "the installed package is tested, not the sources"
    ran = 0
    for block in blocks():
        if block.note == "run: install":
            continue
        if block.kind == "console":
            for command, expected in commands(block):
                actual = run(command, tmp_path, environment)
                any_order = block.note == "lines in any order"
                assert matches(expected, actual, any_order=any_order), (
                    f"README.md, line {block.line}: $ {command}\n{actual}\ninstead of\n{expected}"
                )
                ran += 1
        elif block.kind == "diff":
            new = [line[1:] for line in block.text.splitlines() if line.startswith("+")]
            (tmp_path / "moved.py").write_text("\n".join([*new, "    pipes.log.info('moved')", ""]))
            run("python -W ignore moved.py", tmp_path, environment)
            ran += 1
        else:
            name = re.fullmatch(r"file: (\S+)", block.note)
            assert name, f"README.md, line {block.line}: a {block.kind} block without a file name"
            (tmp_path / name[1]).write_text(block.text)
    assert ran >= 10


def run(command: str, cwd: Path, environment: dict[str, str]) -> str:
    """Run a shell command as a user would; its stdout."""
    done = subprocess.run(
        command, shell=True, cwd=cwd, env=environment, capture_output=True, text=True,
        timeout=120, executable="/bin/bash",
    )  # fmt: skip
    shown = f"$ {command}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr, shown
    return done.stdout


@pytest.mark.parametrize(
    ("expected", "actual", "any_order", "same"),
    [
        ("a ... c", "a b c", False, True),
        ("a ... c", "a b d", False, False),
        ("a", "a\nb", False, False),
        ("b\na", "a\nb", True, True),
        ("b\na", "a\nb\nc", True, False),
        ("b\na", "a", True, False),
    ],
)
def test_the_comparison_can_fail(expected: str, actual: str, any_order: bool, same: bool) -> None:
    assert matches(expected, actual, any_order=any_order) is same
