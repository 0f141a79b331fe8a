"""Draws ten times a second, in a thread of its own: a terminal may stall."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TextIO

from rich.text import Text

from .screen import Screen

#: Seconds between frames.
_FRAME = 0.1

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class Frames(ABC):
    """What is drawn on a terminal, from :meth:`start` to :meth:`end`.

    Args:
        file: the terminal.

    Attributes:
        error: why the terminal takes nothing more, if so.
    """

    def __init__(self, file: TextIO) -> None:
        self.error: str | None = None
        self.screen = Screen(file)
        self._over = threading.Event()
        self._drawn = 0  # frames that the terminal has taken
        self._thread = threading.Thread(target=self._draw, name="asyncpipes view", daemon=True)

    @abstractmethod
    def above(self) -> Sequence[str]:
        """What is to scroll by in the next frame, if anything: of ``Screen.text_of``."""

    @abstractmethod
    def live(self, frame: int) -> Sequence[Text]:
        """The live lines of the next frame."""

    @abstractmethod
    def last(self) -> Sequence[str]:
        """What stays in the place of the live lines."""

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()

    def end(self, seconds: float) -> None:
        """Draw what is left.

        Args:
            seconds: how long the terminal may take for each frame of it. It may stall for ever.
        """
        self._over.set()
        drawn = -1
        while self._thread.is_alive():
            if self._drawn == drawn:
                self.error = self.error or "it has stalled"
                return
            drawn = self._drawn
            self._thread.join(seconds)

    def _draw(self) -> None:
        try:
            frame = 0
            while not self._over.wait(_FRAME):
                frame += 1
                self._show(self.above(), self.live(frame))
            while rest := self.above():
                self._show(rest)
            self._show(self.last())
        except OSError as error:
            self.error = error.strerror or str(error)
        except Exception as error:  # nothing else would say that nothing is drawn any more
            self.error = f"{type(error).__name__}: {error}"

    def _show(self, above: Sequence[str], live: Sequence[Text] = ()) -> None:
        self.screen.draw(above, live)
        self._drawn += 1
