"""Record the README's pictures from real runs: ``python docs/record.py [DIRECTORY] [NAME ...]``.

Each command runs in a pseudo-terminal, in an empty directory with the files of the README.
What its screen shows, at the end or at one moment, becomes an SVG whose letters are those
of the reader's own fonts: nothing in it comes from another address.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pexpect
import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "docs" / "images"

COLUMNS, ROWS = 92, 40
#: Longest run of a command, in seconds.
_PATIENCE = 60.0

_FILE = re.compile(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", re.M | re.S)
#: What an SVG of rich would fetch, or says of addresses: fonts, and who made it.
_ELSEWHERE = re.compile(r"@font-face \{.*?\}\s*|<!--.*?-->\s*", re.S)


@dataclass(frozen=True)
class Picture:
    """A command, and when to look at its screen.

    Attributes:
        name: of the SVG.
        arguments: those of ``asyncpipes``.
        at: tells by the screen's lines that this is the moment; None: the end.
    """

    name: str
    arguments: Sequence[str]
    at: Callable[[Sequence[str]], bool] | None = None


def _some_are_done(lines: Sequence[str]) -> bool:
    """Two jobs have ended, three are on their way, and the last live line is there, to its end."""
    is_whole = any(re.search(r"3 running, 2 ok .* custom messages", line) for line in lines)
    return is_whole and [sum(mark in line for line in lines) for mark in "✓━"] == [2, 3]


PICTURES = (
    Picture("tutorial", ["run", "--asset", "orders", "--", "python", "external_code.py"]),
    Picture(
        "jobs",
        ["run", "--asset", "sales", "--file", "jobs.toml", "--jobs", "3"],
        _some_are_done,
    ),
    Picture("failing", ["run", "--asset", "orders", "--", "python", "failing.py"]),
)


def files_of_readme() -> dict[str, str]:
    """What the README has files contain, the last where it has several by a name."""
    return dict(_FILE.findall((ROOT / "README.md").read_text()))


def screen_of(picture: Picture, files: Mapping[str, str], scratch: Path) -> pyte.Screen:
    """Run its command, and return the screen at its moment.

    Raises:
        RuntimeError: the moment never came, or the command took too long.
    """
    for name, text in files.items():
        (scratch / name).write_text(text)
    unwanted = ("NO_COLOR", "COLORTERM", "COLUMNS", "LINES", "DAGSTER_PIPES_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    python = Path(sys.executable).parent
    env |= {
        "TERM": "xterm-256color",
        "PATH": f"{python}{os.pathsep}{env['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.Stream(screen)
    stream.feed(f"$ {shlex.join(['asyncpipes', *picture.arguments])}\r\n")
    child = pexpect.spawn(
        sys.executable,
        ["-m", "asyncpipes", *picture.arguments],
        cwd=str(scratch),
        env=env,
        dimensions=(ROWS, COLUMNS),
        encoding="utf-8",
    )
    ends_at = time.monotonic() + _PATIENCE
    try:
        while time.monotonic() < ends_at:
            try:
                stream.feed(child.read_nonblocking(1 << 16, timeout=1))
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                if picture.at is None:
                    return screen
                break
            if picture.at is not None and picture.at(screen.display):
                return screen
    finally:
        # Told to end, the command ends its scripts; killed, it would leave them.
        child.kill(signal.SIGINT)
        with suppress(pexpect.ExceptionPexpect):  # of which the end is one
            while True:
                child.read_nonblocking(1 << 16, timeout=_PATIENCE)
        with suppress(pexpect.ExceptionPexpect):  # it may take longer than it is given
            child.close()
    raise RuntimeError(f"{picture.name}: the moment did not come:\n" + "\n".join(screen.display))


def svg_of(screen: pyte.Screen, name: str) -> str:
    """The screen as an SVG, without the lines below the last one that shows something."""
    rows = max((y for y, line in enumerate(screen.display) if line.strip()), default=0) + 1
    console = Console(
        record=True, width=screen.columns, height=rows, file=io.StringIO(), force_terminal=True,
        color_system="truecolor", legacy_windows=False,
    )  # fmt: skip
    for y in range(rows):
        line = Text(no_wrap=True, end="")
        cells = [screen.buffer[y][x] for x in range(screen.columns)]
        for style, run in groupby(cells, _style):
            line.append("".join(cell.data for cell in run), style)
        line.rstrip()
        console.print(line, soft_wrap=True, highlight=False)
    svg = console.export_svg(title="asyncpipes", unique_id=f"asyncpipes-{name}")
    return _ELSEWHERE.sub("", svg).replace("Fira Code, monospace", "monospace")


#: As pyte names the sixteen colours; it gives all others as six hexadecimal digits.
_COLOURS = {"default": None, "brown": "yellow", "brightbrown": "bright_yellow"}


def _style(cell: pyte.screens.Char) -> Style:
    return Style(
        color=_colour(cell.fg), bgcolor=_colour(cell.bg), bold=cell.bold,
        italic=cell.italics, underline=cell.underscore, reverse=cell.reverse,
    )  # fmt: skip


def _colour(name: str) -> str | None:
    if name in _COLOURS:
        return _COLOURS[name]
    if re.fullmatch("[0-9a-f]{6}", name):
        return f"#{name}"
    return name.replace("bright", "bright_")


def record(picture: Picture, output: Path) -> Path:
    """Run the command, and write the picture; where it is."""
    with tempfile.TemporaryDirectory(prefix="orders-") as scratch:
        screen = screen_of(picture, files_of_readme(), Path(scratch))
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{picture.name}.svg"
    path.write_text(svg_of(screen, picture.name))
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Record the pictures that are named, or all of them."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", nargs="?", type=Path, default=OUTPUT)
    parser.add_argument("names", nargs="*", help="all by default")
    options = parser.parse_args(arguments)
    for picture in PICTURES:
        if not options.names or picture.name in options.names:
            print(record(picture, options.output))


if __name__ == "__main__":
    main()
