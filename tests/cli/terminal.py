"""A real pseudo-terminal with the command in it, and a screen that obeys what comes out."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import pexpect
import pyte

import asyncpipes
from asyncpipes.cli.screen import ERASE
from tests.support import PATIENCE

SPINNER = re.compile("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]")
#: The cursor is back where the live lines begin.
FRAME_END = re.compile(r"\r(\x1b\[\d+A)?\Z")
#: What the view itself may send: colours, links, erasing what is below, cursor up.
OWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\]8;[^\x1b\x07]*\x1b\\|\x1b\[J|\x1b\[\d+A|\r")

#: For scripts that wait for the test: it makes a file of that name.
WAITING = """
import os, sys, time
def wait(name):
    while not os.path.exists(name):
        time.sleep(0.01)
"""

#: Variables that would change what the command says.
UNWANTED = {
    "NO_COLOR", "FORCE_COLOR", "TERM", "COLORTERM", "COLUMNS", "LINES", "PYTHONWARNINGS",
}  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    """Of a usual terminal, whatever the tests run in: `python` is this one, with this package."""
    env = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    paths = [str(Path(asyncpipes.__file__).parents[1]), env.get("PYTHONPATH", "")]
    env["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # Not this one's whole path: a title that holds it is cut off, the earlier the longer it is.
    programs = [str(Path(sys.executable).parent), env.get("PATH", os.defpath)]
    env["PATH"] = os.pathsep.join(programs)
    return {**env, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **more}


def asyncpipes_command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "asyncpipes", *map(str, arguments)]


class Terminal:
    """The command in a terminal, by way of a shell, as a person has it.

    Attributes:
        raw: all that has come out of it.
        screen: what a person sees.
    """

    def __init__(
        self,
        *arguments: str | Path,
        cwd: Path,
        rows: int = 24,
        columns: int = 100,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.raw = ""
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.5)
        self._stream = pyte.Stream(self.screen)
        command = shlex.join(asyncpipes_command(*arguments))
        # The shell outlives a Ctrl-C, and tells what it finds afterwards. Without noflsh, Ctrl-C
        # has the kernel throw away what is on its way to the terminal, half a frame for one.
        setting_up = "trap : INT; stty noflsh; stty -g >before"
        line = f"{setting_up}; {command}; echo code=$?; stty -g >after"
        self.cwd = cwd
        self.child = pexpect.spawn(
            "sh",
            ["-c", line],
            cwd=str(cwd),
            dimensions=(rows, columns),
            env=environment(**(env or {})),
            encoding="utf-8",
            codec_errors="backslashreplace",
            timeout=None,
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.hang_up()

    @property
    def lines(self) -> list[str]:
        """What a person sees, and what has scrolled out of sight."""
        columns = self.screen.columns
        above = ["".join(row[x].data for x in range(columns)) for row in self.screen.history.top]
        lines = [line.rstrip() for line in [*above, *self.screen.display]]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def frames(self) -> int:
        """How often the live lines were erased to be drawn anew."""
        return self.raw.count(ERASE)

    def until(self, is_there: str | Callable[[], bool]) -> None:
        """Look until a text is on the screen, or a condition holds."""
        ends_at = time.monotonic() + PATIENCE
        while not (is_there in self.text if isinstance(is_there, str) else is_there()):
            assert time.monotonic() < ends_at, f"it never came:\n{self.text}"
            assert self._read(), f"the command ended before it came:\n{self.text}"

    def until_drawn(self) -> None:
        """Look until all that is there was drawn anew, and no half of a frame is there."""
        while self._read(0):  # frames of before, of which there may be many
            pass
        # The first may have been on its way, and the second have asked before for the size.
        before = self.frames
        self.until(
            lambda: self.frames >= before + 3 and FRAME_END.search(self.raw[-20:]) is not None
        )

    def resize(self, rows: int, columns: int) -> None:
        """Make it so large. The view has seen it by then, where it has become narrower.

        A frame that was drawn for more columns than there are would wrap, and the cursor not get
        back to where it begins.
        """
        if columns < self.screen.columns:
            self.child.setwinsize(rows, columns)
            self.until_drawn()
        self.screen.resize(rows, columns)
        self.child.setwinsize(rows, columns)

    def go(self, name: str) -> None:
        (self.cwd / name).touch()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.child.sendintr()

    def hang_up(self) -> None:
        """Close it, as its window is closed: all in it get SIGHUP. The shell ends."""
        with suppress(pexpect.ExceptionPexpect):  # it may take longer than it is given
            self.child.close(force=True)

    def end(self) -> int:
        """Look to the end; the exit code."""
        while self._read():
            pass
        self.hang_up()
        found = re.search(r"code=(\d+)", self.raw)
        assert found, self.text
        return int(found[1])

    def check_clean(self) -> None:
        """It is as it was: cursor, echo and line mode, and nothing is left of what was live."""
        assert not self.screen.cursor.hidden
        assert (self.cwd / "before").read_text() == (self.cwd / "after").read_text()
        assert not SPINNER.search(self.text), self.text
        assert re.search(r"^code=\d+$", self.text, re.MULTILINE), self.text

    def _read(self, seconds: float = 0.05) -> bool:
        """Take what comes in that time; False at the end, and where nothing is there for 0."""
        try:
            data = self.child.read_nonblocking(65536, seconds)
        except pexpect.TIMEOUT:
            return seconds > 0
        except pexpect.EOF:
            return False
        self.raw += data
        self._stream.feed(data)
        return True
