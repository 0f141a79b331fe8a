"""A terminal with live lines below what scrolls by.

::

    12:00:01 INFO     loading        printed once, and the terminal's own from then on
    12:00:02 ◆ orders materialized
    ▏days ━━━━━━━━━━━━━━╸━━━━━━━ 7/12   the live lines: erased, and drawn anew,
    ⠹ open 2.3 s   41 log lines        ten times a second

All that a frame writes goes out in one write. The cursor (▏) waits where the live lines
begin, so that erasing needs to know nothing of how the terminal shows them by then: made
narrower, some wrap what is there, and others cut it off. What the terminal echoes of a Ctrl-C
lands on them too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.console import Console, RenderableType
from rich.segment import Segment, SegmentLines
from rich.text import Text

from .text import safe

#: Erases the live lines, from where they begin. From the second column on, and the first by a
#: space: tmux takes a screen that is erased from its very corner for one to be kept.
ERASE = "\r \x1b[J\r"
#: Where a terminal does not say how large it is.
_COLUMNS, _ROWS = 80, 24


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
        self._is_live = False

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows, as of now."""
        # Asked here, since rich believes $COLUMNS, which says what was, and asks stdin first.
        try:
            columns, rows = os.get_terminal_size(self._file.fileno())
        except (OSError, ValueError):
            columns, rows = 0, 0
        return columns or _COLUMNS, rows or _ROWS

    def text_of(self, what: RenderableType) -> str:
        """What writing that on the terminal takes, in whole lines.

        Nothing that a terminal would obey is in it but colours: whatever a text has become
        on its way through markdown and tables, it is made harmless here.
        """
        columns, rows = self.size
        console = self._console
        console.size = (columns, rows)
        lines = console.render_lines(what, pad=False)
        with console.capture() as captured:
            console.print(SegmentLines(map(_harmless, lines), new_lines=True), end="")
        return captured.get()

    def draw(self, above: Iterable[str], live: Sequence[Text] = ()) -> None:
        """Let ``above``, of :meth:`text_of`, scroll by, and have ``live`` as the live lines.

        Raises:
            OSError, ValueError: the terminal takes nothing.
        """
        columns, rows = self.size
        parts = [ERASE] if self._is_live else []
        parts += above
        # The last ones are the most telling, if there is no room for all.
        lines = [line.copy() for line in live[-max(rows - 1, 1) :]]
        for line in lines:
            line.truncate(max(columns - 1, 1), overflow="ellipsis")  # none may wrap
        parts.append("\n".join(self.text_of(line).rstrip("\n") for line in lines))
        if lines:
            parts.append(f"\r\x1b[{len(lines) - 1}A" if len(lines) > 1 else "\r")
        self._is_live = bool(lines)
        text = "".join(parts)
        if text:
            self._file.write(text)
            self._file.flush()


def _harmless(line: list[Segment]) -> list[Segment]:
    return [
        Segment(safe(text).replace("\n", " "), style)
        for text, style, control in line
        if not control
    ]
