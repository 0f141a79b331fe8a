"""The heartbeat: a sign of life that tells a blocked event loop from a dead process.

The outbox thread sends it, so it goes out while the script's loop is blocked, and
says for how long the loop has been so. A host of ours asks for it, and says how often.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from ..protocol.messages import encode_heartbeat

#: How long the loop has to answer before a beat goes out, in seconds. A host calls a loop
#: blocked that takes 1 s, and the first beat of one that is blocked should say so.
_PATIENCE = 1.25


class Heartbeat:
    """When to send a beat, and what it says. Used by the outbox thread alone.

    Args:
        writer: the id of the writer whose life it shows.
        interval: seconds from one beat to the next.
        loop: the event loop that it watches; None for a plain ``with``.
    """

    def __init__(
        self, writer: str, interval: float, loop: asyncio.AbstractEventLoop | None
    ) -> None:
        self._writer = writer
        self._interval = interval
        self._loop = loop
        self._patience = min(_PATIENCE, interval / 2)
        self._beat_at = time.monotonic() + interval
        # The loop is asked some time before each beat, and not again before it answers.
        self._asked_at: float | None = None
        self._answered_at: float | None = None
        self._is_late = False  # a beat has said that there is no answer yet
        #: Called, on the loop's thread, when an answer has come that was late.
        self.wake: Callable[[], None] = _nothing

    @property
    def timeout(self) -> float:
        """Seconds until :meth:`due` has something to do."""
        if self._runs_again:
            return 0.0
        next_step = self._beat_at
        if self._is_to_ask:
            next_step -= self._patience
        return max(0.0, next_step - time.monotonic())

    def due(self) -> bytes:
        """The line to send now, or ``b""``; asks the loop in between."""
        now = time.monotonic()
        if self._runs_again or (self._is_to_ask and now >= self._beat_at - self._patience):
            self._ask(now)
        elif now >= self._beat_at:
            self._beat_at = now + self._interval
            lag = self._lag(now)
            return encode_heartbeat(self._writer, self._interval, lag, os.getpid(), time.time())
        return b""

    @property
    def _runs_again(self) -> bool:
        """Whether the loop has answered after all: the next beat says so, before its time."""
        return self._is_late and self._answered_at is not None

    @property
    def _is_to_ask(self) -> bool:
        return self._loop is not None and self._asked_at is None

    def _lag(self, now: float) -> float | None:
        asked, answered = self._asked_at, self._answered_at
        if asked is None:
            return None
        if answered is None:
            self._is_late = True
            return now - asked
        self._asked_at = None
        return answered - asked

    def _ask(self, now: float) -> None:
        assert self._loop is not None, "only a loop is asked"
        self._asked_at, self._answered_at, self._is_late = now, None, False
        # The beat waits for the answer even where it is due: a write may have taken so long
        # that nobody was asked in time, and a beat that knows nothing hides a blocked loop.
        # That is half an interval at most, and a host calls nobody silent before 2.5.
        self._beat_at = now + self._patience
        try:
            self._loop.call_soon_threadsafe(self._answer)
        except RuntimeError:  # the loop is closed, and the context goes on without it
            self._loop = self._asked_at = None

    def _answer(self) -> None:
        self._answered_at = time.monotonic()
        if self._is_late:
            self.wake()


def _nothing() -> None:
    pass
