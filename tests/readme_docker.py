"""A stand-in for docker, for the README's lines about containers.

An image is a virtual environment with a directory of files: ``COPY`` and ``RUN`` fill
them. A container is its ``CMD`` in there, with the variables that are named and no others.
It has no namespaces, nor a file system of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

IMAGES = Path(os.environ["HOME"]) / "images"


def main(arguments: list[str]) -> int:
    match arguments:
        case ["build", "--quiet", "--tag", tag, context]:
            build(Path(context), IMAGES / tag)
            return 0
        case ["run", "--rm", *options, tag]:
            return run(IMAGES / tag, list(names(options)))
    raise SystemExit(f"the stand-in for docker does not know {arguments}")


def build(context: Path, image: Path) -> None:
    shutil.rmtree(image, ignore_errors=True)
    venv.create(image, with_pip=True)
    files = image / "app"
    files.mkdir()
    for line in (context / "Dockerfile").read_text().splitlines():
        word, rest = line.split(maxsplit=1)
        if word == "COPY":
            *patterns, _ = rest.split()
            for pattern in patterns:
                [source] = context.glob(pattern)
                shutil.copy(source, files)
        elif word == "RUN":
            subprocess.run(
                rest, shell=True, cwd=files, env=environment(image), check=True,
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
        elif word == "CMD":
            (image / "command.json").write_text(rest)
        else:
            assert word in ("FROM", "WORKDIR"), line


def run(image: Path, passed: list[str]) -> int:
    command = json.loads((image / "command.json").read_text())
    env = environment(image) | {name: os.environ[name] for name in passed}
    program = shutil.which(command[0], path=env["PATH"])
    assert program is not None, command
    os.chdir(image / "app")
    os.execve(program, command, env)


def names(options: list[str]) -> Iterator[str]:
    """The variables that are passed on by name."""
    for option, value in zip(options[::2], options[1::2], strict=True):
        assert option in ("--env", "--volume"), option
        if option == "--env":
            yield value


def environment(image: Path) -> dict[str, str]:
    kept = ("HOME", "LANG", "PIP_DISABLE_PIP_VERSION_CHECK")
    from_index = {k: v for k, v in os.environ.items() if k in kept or k.startswith("PIP_")}
    return {**from_index, "PATH": f"{image / 'bin'}{os.pathsep}{os.environ['PATH']}"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
