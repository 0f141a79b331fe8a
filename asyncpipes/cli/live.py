"""The live view as ``asyncpipes run`` has it."""

from __future__ import annotations

import asyncio
import sys

from ..host.pipes_session import PipesSession
from ..protocol.events import Level
from ..protocol.outcome import Outcome
from .running import Interrupts, Subscribing
from .tally import Tally
from .view import View

#: Seconds between looks at the state of the session.
_LOOK = 0.1


class Live:
    """A view of one session, while it runs.

    Args:
        title: what runs.
        min_level: log lines below it are not shown.
        interrupts: what ends it early.
        patience: seconds that the terminal may take for the rest.
    """

    def __init__(
        self, title: str, min_level: Level, interrupts: Interrupts, patience: float
    ) -> None:
        self._interrupts = interrupts
        self._patience = patience
        self._session: PipesSession | None = None
        self._state = "starting"
        self._view = View(sys.stdout, title, lambda: self._state, min_level)
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
        return Subscribing([self._view.take], opened=self._open)

    def close(self, outcome: Outcome | None) -> tuple[str, str]:
        """End the view; nothing is left to say."""
        self._view.close(outcome, self._patience)
        return "", ""

    def _open(self, session: PipesSession) -> None:
        self._session = session
        self._look()

    def _look(self) -> None:
        """Ask the session on its own loop: the view draws in another thread."""
        assert self._session is not None, "open"
        state = self._session.health.state
        is_ending = self._interrupts.number is not None
        self._state = "ending (Ctrl-C again: at once)" if is_ending else state
        if state != "drained":
            asyncio.get_running_loop().call_later(_LOOK, self._look)
