"""How a step is told to end: by signals, or, in a thread, by what stands in for them."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from dagster import DagsterRunStatus

from .internals import ExecutionContext, check_captured_interrupt, is_signal_handler_of_dagster

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Seconds in which a loop that has been told of a signal should have had a turn. One that has
#: not is blocked by the asset's own code, and Dagster's handler is to raise there.
_BLOCKED = 3.0
#: Seconds between questions to Dagster's storage.
_ASK = 1.0


def in_main_thread() -> bool:
    """Whether this thread is the one that signals come to."""
    return threading.current_thread() is threading.main_thread()


class Signals:
    """SIGINT and SIGTERM, taken over from Dagster, whose handlers raise wherever they are.

    Without effect outside the main thread.

    Args:
        loop: the step's.
        at_once: called in the handler.
        in_turn: called by the loop, with the signal's number; None for one that came before the
            loop had a turn for another.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        at_once: Callable[[], None],
        in_turn: Callable[[int | None], None],
    ) -> None:
        self._loop = loop
        self._at_once = at_once
        self._in_turn = in_turn
        self._previous: dict[signal.Signals, Any] = {}
        self._pending: int | None = None  # one that the loop has had no turn for
        self._pending_since = 0.0
        self._reminder: threading.Timer | None = None
        self._is_over = False
        self._has_raised = False

    @property
    def has_raised(self) -> bool:
        """Whether Dagster's handler has raised in what blocked the loop."""
        return self._has_raised

    def take_over(self) -> None:
        """Put our handlers in the place of Dagster's. Idempotent."""
        if not in_main_thread():
            return
        for number in _SIGNALS:
            # Others' stay theirs: a program that handles signals itself ends its work itself.
            if is_signal_handler_of_dagster(signal.getsignal(number)):
                self._previous[number] = signal.signal(number, self._handle)

    def give_back(self) -> None:
        """Put the handlers of before in again. Idempotent."""
        if not in_main_thread():
            return  # a garbage collector's: the next signal gives them back
        previous, self._previous = self._previous, {}
        for number, handler in previous.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler)

    def raise_anew(self, number: int) -> None:
        """Have the handler of before take a signal."""
        self.give_back()
        signal.raise_signal(number)

    def end(self) -> None:
        """Give the handlers back for good, with a signal that the loop has had no turn for."""
        self._is_over = True
        if self._reminder is not None:
            self._reminder.cancel()
        pending, self._pending = self._pending, None
        if pending is None:
            self.give_back()
        else:
            self.raise_anew(pending)  # it came too late for us

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_over:  # it ended in a thread, where no handler can be set
            self.raise_anew(number)
            return
        if self._is_blocked():
            handler = self._previous.get(signal.Signals(number))
            self._pending = None
            self._has_raised = True
            self.give_back()
            if callable(handler):
                handler(number, frame)  # Dagster's: it raises in what blocks the loop
            return
        if self._pending is None:
            self._pending, self._pending_since = number, time.monotonic()
            self._reminder = threading.Timer(_BLOCKED, self._remind, [number])
            self._reminder.name = "asyncpipes dagster signal"
            self._reminder.daemon = True
            self._reminder.start()
        self._at_once()
        try:
            self._loop.call_soon_threadsafe(self._take_turn)
        except RuntimeError:  # the loop is closed: nobody is left who would end anything
            self._pending = None
            self.raise_anew(number)

    def _take_turn(self) -> None:
        number, self._pending = self._pending, None
        if not self._is_over:
            self._in_turn(number)

    def _is_blocked(self) -> bool:
        """Whether a signal came a while ago and the loop has not had a turn since."""
        return self._pending is not None and time.monotonic() - self._pending_since >= _BLOCKED

    def _remind(self, number: int) -> None:
        main = threading.main_thread().ident
        if self._is_blocked() and main is not None:
            signal.pthread_kill(main, number)


class Inquiry:
    """Asks whether a step is to end, in a thread, where Python lets nobody handle signals.

    Args:
        context: of the step's run.
        in_turn: called by the loop when it is.
    """

    def __init__(self, context: ExecutionContext, in_turn: Callable[[], None]) -> None:
        self._context = context
        self._in_turn = in_turn
        self._ask_at = 0.0
        self._is_asking = False

    def look(self) -> None:
        """Look whether Dagster has taken an interrupt; ask for the run's status at times."""
        if check_captured_interrupt() or not threading.main_thread().is_alive():
            self._in_turn()
        elif time.monotonic() >= self._ask_at and not self._is_asking:
            self._ask_at = time.monotonic() + _ASK
            self._is_asking = True
            loop = asyncio.get_running_loop()
            asking = loop.run_in_executor(None, self._is_being_cancelled)
            asking.add_done_callback(self._take_answer)

    def _is_being_cancelled(self) -> bool:
        run = self._context.instance.get_run_by_id(self._context.run_id)
        ending = (DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED)
        return run is not None and run.status in ending

    def _take_answer(self, asking: asyncio.Future[bool]) -> None:
        self._is_asking = False
        if not asking.cancelled() and asking.exception() is None and asking.result():
            self._in_turn()
