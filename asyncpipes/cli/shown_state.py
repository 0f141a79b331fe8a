"""What a session is doing, for a view that draws in another thread."""

from __future__ import annotations

import asyncio

from ..host.pipes_session import PipesSession
from .running import Interrupts

#: Seconds between looks at the state of the session.
_LOOK = 0.1


class ShownState:
    """Asks a session on its own loop how it is doing.

    Args:
        interrupts: what ends it early.

    Attributes:
        text: the state, as of the last look.
    """

    def __init__(self, interrupts: Interrupts) -> None:
        self.text = "starting"
        self._interrupts = interrupts
        self._session: PipesSession | None = None

    def open(self, session: PipesSession) -> None:
        """Ask this session, from now on until it is drained."""
        self._session = session
        self._look()

    def _look(self) -> None:
        assert self._session is not None, "open"
        state = self._session.health.state
        is_ending = self._interrupts.number is not None
        self.text = "ending" if is_ending else state
        if state != "drained":
            asyncio.get_running_loop().call_later(_LOOK, self._look)
