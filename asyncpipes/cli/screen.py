"""A terminal with live lines below what scrolls by.

::

    12:00:01 INFO     loading        printed once, and the terminal's own from then on
    12:00:02 ◆ orders materialized
    days ━━━━━━━━━━━━━━╸━━━━━━━ 7/12   the live lines: erased, and drawn anew,
    ⠹ open 2.3 s   41 log lines        ten times a second

All that a frame writes goes out in one write. Live lines are shorter than the terminal is
wide, so that none wraps; where the terminal has become narrower since, it has wrapped them
itself, and they are erased with the rows that they take now.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text


class Screen:
    """Draws on a terminal. One thread at a time.

    Args:
        file: the terminal.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._console = Console(
            file=file, force_terminal=True, highlight=False, markup=False, emoji=False
        )
        self._widths: list[int] = []  # of the live lines, in cells

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows, as of now."""
        return self._console.size

    def draw(self, above: Iterable[RenderableType], live: Sequence[Text] = ()) -> None:
        """Let ``above`` scroll by, and have ``live`` as the live lines.

        Raises:
            OSError, ValueError: the terminal takes nothing.
        """
        columns, rows = self.size
        buffer = io.StringIO()
        buffer.write(self._erasing(columns))
        with self._console.capture() as captured:
            for each in above:
                self._console.print(each, width=columns, crop=True, soft_wrap=False)
        buffer.write(captured.get())
        lines = [line.copy() for line in live[: max(rows - 1, 1)]]
        for line in lines:
            line.truncate(max(columns - 1, 1), overflow="ellipsis")
        with self._console.capture() as captured:
            for index, line in enumerate(lines):
                self._console.print(line, end="\n" if index < len(lines) - 1 else "")
        buffer.write(captured.get())
        self._widths = [cell_len(line.plain) for line in lines]
        self._file.write(buffer.getvalue())
        self._file.flush()

    def _erasing(self, columns: int) -> str:
        if not self._widths:
            return ""
        rows = sum(max(-(-width // columns), 1) for width in self._widths)
        up = f"\x1b[{rows - 1}A" if rows > 1 else ""
        return f"\r{up}\x1b[J"
