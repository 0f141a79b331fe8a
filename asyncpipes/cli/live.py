"""The live view as ``asyncpipes run`` has it."""

from __future__ import annotations

import sys

from ..protocol.events import Level
from .render import verdict
from .running import Ending, Interrupts, Subscribing
from .shown_state import ShownState
from .tally import Tally
from .view import View


class Live:
    """A view of one session, while it runs.

    Args:
        title: what runs.
        min_level: log lines below it are not shown.
        interrupts: what ends it early.
        patience: seconds that the terminal may take for each frame of the rest.
    """

    def __init__(
        self, title: str, min_level: Level, interrupts: Interrupts, patience: float
    ) -> None:
        self._patience = patience
        self._state = ShownState(interrupts)
        self._view = View(sys.stdout, title, self._state_text, min_level)
        self._view.start()

    @property
    def tally(self) -> Tally:
        """The counts."""
        return self._view.tally

    @property
    def error(self) -> str | None:
        """Why the terminal takes nothing more, if so."""
        return self._view.error

    def subscribing(self) -> Subscribing:
        """What the view wants of a session."""
        return Subscribing([self._view.take], opened=self._state.open)

    def close(self, ending: Ending | None, left_out: int = 0) -> tuple[str, str]:
        """End the view, with a summary if there was a run; what is left to say otherwise."""
        if ending is None or ending.fault is not None:
            self._view.close(None, self._patience)
            return "", "" if ending is None else verdict(ending, self.tally)
        self._view.close(ending.outcome, self._patience)
        return "", ""

    def _state_text(self) -> str:
        state = self._state.text
        return "ending (Ctrl-C again: at once)" if state == "ending" else state
