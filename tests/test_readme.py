"""The README is true: each of its blocks is run, in order, as a new user would.

A wheel is built and installed by the README's own lines, in a fresh virtual environment;
then, in an empty directory, blocks under a ``file:`` comment are written there, and every
``$`` line of a console block is run and its output compared. ``...`` stands for anything.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import PATIENCE

ROOT = Path(__file__).parents[1]
FENCE = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)
#: Blocks that are run by a test of their own, in a place of their own.
INSTALL, QUICK_START = "run: install", "run: quick start"

pytestmark = pytest.mark.host


@dataclass
class Block:
    kind: str
    text: str
    note: str
    line: int


def readme() -> str:
    return (ROOT / "README.md").read_text()


def blocks() -> list[Block]:
    text = readme()
    found = [
        Block(m["kind"], m["text"], m["note"] or "", text.count("\n", 0, m.start()) + 1)
        for m in FENCE.finditer(text)
    ]
    assert len(found) == len(re.findall(r"^```\w", text, re.M)), "a fence that is not understood"
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


def check(block: Block, command: str, expected: str, actual: str) -> None:
    any_order = block.note in ("lines in any order", QUICK_START)
    assert matches(expected, actual, any_order=any_order), (
        f"README.md, line {block.line}: $ {command}\n{actual}\ninstead of\n{expected}"
    )


def copy_sources(target: Path, *paths: str) -> None:
    """What a clone has of ``paths``, with what is not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *paths],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    for name in [*listed, "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"]:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)


def fresh_environment(home: Path) -> dict[str, str]:
    """The variables of somebody with an empty virtual environment."""
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
    return variables


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A fresh virtual environment with the wheel, and what else is installed within its reach."""
    home = tmp_path_factory.mktemp("readme-home")
    copy_sources(home / "asyncpipes", "asyncpipes")
    variables = fresh_environment(home)
    [install] = [block for block in blocks() if block.note == INSTALL]
    for command, _ in commands(install):
        subprocess.run(command, shell=True, cwd=home, env=variables, check=True)
    shutil.rmtree(home / "asyncpipes")  # what was installed must not need it
    bin_directory = home / "venv" / "bin"
    python = bin_directory / "python"
    # After the environment's own packages, so that asyncpipes is the installed one.
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home / "venv")}))
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib"))
    # Guarded, since Dagster's executor spawns processes that import the main script.
    program(
        bin_directory / "dagster",
        f"#!{python}\nfrom dagster._cli import main\nif __name__ == '__main__':\n    main()\n",
    )
    stand_in = ROOT / "tests" / "readme_docker.py"
    docker = shlex.join([sys.executable, str(stand_in)])
    program(bin_directory / "docker", f'#!/bin/sh\nexec {docker} "$@"\n')
    return variables


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def test_every_block_of_the_readme_runs(environment: dict[str, str], tmp_path: Path) -> None:
    where = run('python -c "import asyncpipes; print(asyncpipes.__file__)"', tmp_path, environment)
    assert where.startswith(environment["HOME"]), "the installed package is tested, not the sources"
    [wheel] = Path(environment["HOME"], "dist").iterdir()
    shutil.copy(wheel, tmp_path)  # as the container's files have it
    ran = 0
    for block in blocks():
        if block.note in (INSTALL, QUICK_START) or block.kind == "text":
            continue
        if block.kind == "console":
            for command, expected in commands(block):
                check(block, command, expected, run(command, tmp_path, environment))
                ran += 1
        elif block.kind == "diff":
            (tmp_path / "moved.py").write_text(moved(block.text))
            run("python -W ignore moved.py && echo moved > done", tmp_path, environment)
            assert (tmp_path / "done").exists(), f"README.md, line {block.line}: it fails"
            (tmp_path / "done").unlink()
            ran += 1
        else:
            name = re.fullmatch(r"file: (\S+)", block.note)
            assert name, f"README.md, line {block.line}: a {block.kind} block without a file name"
            (tmp_path / name[1]).write_text(block.text)
    assert ran >= 25
    check_container(Path(environment["HOME"], "images", "orders"))


def moved(diff: str) -> str:
    """What a diff leads to; a block that it opens at its end gets a body."""
    lines = [line[1:] for line in diff.splitlines() if not line.startswith("-")]
    if lines[-1].endswith(":"):
        lines.append("    pipes.log.info('moved')")
    return "\n".join([*lines, ""])


def test_three_commands_lead_from_an_empty_directory_to_the_result(tmp_path: Path) -> None:
    repository, home, empty = tmp_path / "repository", tmp_path / "home", tmp_path / "empty"
    copy_sources(repository, "asyncpipes", "examples/orders")
    commit = "-c user.name=a -c user.email=a@b.example commit -q -m all"
    # Not as the user has it, who may sign all commits, or have hooks of theirs.
    plain = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for arguments in ("init -q", "add -A", commit):
        subprocess.run(["git", *arguments.split()], cwd=repository, env=plain, check=True)
    home.mkdir()
    empty.mkdir()
    variables = fresh_environment(home)
    [block] = [block for block in blocks() if block.note == QUICK_START]
    assert len(commands(block)) == 3
    for command, expected in commands(block):
        actual = run(command.replace("REPOSITORY", str(repository)), empty, variables)
        check(block, command, expected, actual)


def run(command: str, cwd: Path, environment: dict[str, str]) -> str:
    """Run a shell command as a user would; its stdout."""
    done = subprocess.run(
        command, shell=True, cwd=cwd, env=environment, capture_output=True, text=True,
        timeout=PATIENCE, executable="/bin/bash",
    )  # fmt: skip
    shown = f"$ {command}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr, shown
    assert "Error: " not in done.stderr, shown
    return done.stdout


def check_container(image: Path) -> None:
    """What the README's lines have put into the image."""
    listed = subprocess.run(
        [image / "bin" / "python", "-m", "pip", "list", "--format=freeze"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    names = {line.partition("==")[0] for line in listed.splitlines()}
    assert names - {"pip", "setuptools"} == {"asyncpipes", "orjson"}


def test_each_symptom_is_a_text_of_the_library() -> None:
    section = readme().partition("## Troubleshooting")[2].partition("\n## ")[0]
    symptoms = [
        text
        for row in re.findall(r"^\| (.+?) \| .* \|$", section, re.M)
        for text in re.findall("`([^`]+)`", row)
    ]
    assert len(symptoms) >= 15
    known = "\n".join(texts_of_the_library())
    missing = [text for text in symptoms if text not in known and not is_a_name(text)]
    assert not missing


def texts_of_the_library() -> Iterator[str]:
    """Its string constants, as they are put together in the source."""
    for path in (ROOT / "asyncpipes").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(getattr(part, "value", "…")) for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def is_a_name(text: str) -> bool:
    """What a symptom may name besides: a part of the API, or a command."""
    import asyncpipes

    head = text.split(".")[0].split(" ")[0]
    return hasattr(asyncpipes, head) or head in ("session", "asyncpipes")


def test_links_lead_somewhere() -> None:
    text = FENCE.sub("", readme())
    heads = {
        re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-")
        for head in re.findall(r"^#+ (.*)$", text, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in heads, target
        else:
            assert (ROOT / target).exists(), target


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
