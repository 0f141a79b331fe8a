"""Termination: SIGINT and SIGTERM while a step awaits scripts.

Dagster answers both by raising ``DagsterExecutionInterruptedError`` from a signal handler,
wherever the main thread is. In the middle of an event loop that abandons the loop, with all
of its tasks, and the processes and threads they wait for, or is swallowed by a callback. So
from the first script on that a step awaits, the handlers are ours::

    a signal ─▶ SIGINT to the group of every script, in this moment
             ─▶ the task that Dagster drives is cancelled: ``finally`` blocks run, the
                scripts get SIGTERM and SIGKILL in their time
             ─▶ when that task ends, the step ends as interrupted
    another  ─▶ SIGKILL

A loop that is blocked by the asset's own code (``time.sleep``, a driver) can cancel nothing.
If it has had no turn after 3 s, Dagster's handler raises in that code, as it would without us.

They stay ours for as long as the loop runs, also when no script does any more. Dagster puts
its handlers back whenever an asset yields, so ours are put in again when the loop goes on.
Between yields no loop runs: Dagster raises at its next step, closes the loop's async
generators, and with them, last of all, what scripts there are.

Where a step runs in another thread than the main one, Python lets nobody handle signals. It
looks instead, several times a second, whether Dagster has taken an interrupt or the main
thread has ended, and each second whether the run is being cancelled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from types import AsyncGeneratorType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from anyio import move_on_after
from dagster import DagsterExecutionInterruptedError

from ..channels.finishing import outlast, to_its_end
from .asset_task import driven_task, generator_of
from .internals import ExecutionContext
from .signals import Inquiry, Signals, in_main_thread
from .watched import Watched

#: Seconds between looks at the handlers, or, in a thread, at what stands in for signals.
_LOOK = 0.05
#: Seconds after which a further signal means haste. Ctrl-C alone sends two: one from the
#: terminal, one from Dagster's multiprocess executor, a moment later.
_HASTE = 2.0
#: Seconds that scripts' results and logs may take, once all have ended, when Dagster closes
#: the loop.
_CLOSING = 10.0


class _Interrupted(DagsterExecutionInterruptedError, KeyboardInterrupt):
    """Dagster's error, of a kind that an event loop lets through."""


# Dagster's multiprocess executor tells an interrupted step by this name, and the run's page
# shows where it comes from.
_Interrupted.__name__ = _Interrupted.__qualname__ = DagsterExecutionInterruptedError.__name__
_Interrupted.__module__ = DagsterExecutionInterruptedError.__module__


class Returned(Protocol):
    """What :meth:`Interrupts.returned` takes."""

    @property
    def is_unseen(self) -> bool:
        """Whether nobody has asked it for its results."""

    def keep(self) -> None:
        """Put its results into the event log. Blocks, and does not raise."""


class Interrupts:
    """The signals of one event loop, for as long as scripts are awaited on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, context: ExecutionContext) -> None:
        self._loop = loop
        self._watched: list[Watched] = []
        self._all_have_left = asyncio.Event()
        # How it is told.
        self._signals = Signals(loop, at_once=self._signal_all, in_turn=self.interrupt)
        self._inquiry = Inquiry(context, self.interrupt)
        self._interrupted_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        # What Dagster runs: the task to cancel, and the asset in it.
        self._driven: asyncio.Task[Any] | None = None
        self._asset: AsyncGeneratorType[Any, Any] | None = None
        # Held here, so that closing the loop's generators ends what is still running.
        self._closing: AsyncGenerator[None, None] = self._end_with_the_loop()
        self._is_closing = False
        self._is_over = False
        # What has ended well, and may yet be forgotten; and what was.
        self._returned: list[Returned] = []
        self._orphans: list[Returned] = []

    @classmethod
    async def watch(cls, watched: Watched) -> Interrupts:
        """Begin to watch; to be ended by :meth:`leave`."""
        loop = asyncio.get_running_loop()
        interrupts = _of_loops.get(loop)
        if interrupts is None:
            interrupts = _of_loops[loop] = cls(loop, watched.context)
            await interrupts._closing.__anext__()
            interrupts._look()
        interrupts._watched.append(watched)
        interrupts._all_have_left.clear()
        interrupts.resume()
        return interrupts

    async def leave(self, watched: Watched) -> None:
        """Its end has come. Idempotent.

        In a step of Dagster's, its signals stay ours: the asset may await other things yet,
        and a loop that is abandoned leaves threads behind that keep the process. Elsewhere
        the handlers are those of before with the last one.
        """
        self.let_go(watched)
        if not self._watched and not self._is_closing and not self._is_in_step:
            await self._closing.aclose()  # at once: nothing is left to wait for

    def let_go(self, watched: Watched) -> None:
        """:meth:`leave`, where nothing may be awaited."""
        if watched not in self._watched:
            return
        self._watched.remove(watched)
        watched.leave()
        if self._watched:
            return
        self._all_have_left.set()
        if not self._is_in_step:
            self._release()

    @property
    def _is_in_step(self) -> bool:
        return self._driven is not None

    def _release(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if _of_loops.get(self._loop) is self:
            del _of_loops[self._loop]
        if self._timer is not None:
            self._timer.cancel()
        self._signals.end()

    @property
    def is_closing(self) -> bool:
        """Whether Dagster closes the loop, and with it what is still open there."""
        return self._is_closing

    async def all_over(self) -> None:
        """Wait until every script that is watched has ended.

        Of several that are awaited at once, the first to be interrupted would otherwise end
        the step, and with it the loop that is still ending the others.
        """
        for watched in list(self._watched):
            await watched.wait_over()

    def returned(self, invocation: Returned) -> None:
        """A script has ended well, and its results are on their way to the asset.

        They may never get there: ``gather`` forgets them when another script fails. What the
        asset has not looked at when its step ends badly is put into the event log.
        """
        self._returned = [*(each for each in self._returned if each.is_unseen), invocation]

    async def _keep_orphans(self) -> None:
        orphans, self._orphans = self._orphans, []
        for each in orphans:
            await to_its_end(each.keep)

    async def others_over(self) -> None:
        """Wait until what an earlier step, or try, of this loop has left behind has ended.

        Its last results are in the event log then, before those of a script that is
        launched now, and the two do not work on the same things at once.
        """
        for watched in list(self._watched):
            if watched.is_left_behind:
                await watched.wait_over()
                if watched.has_task:
                    with move_on_after(_CLOSING):
                        await watched.wait_left()
        await self._keep_orphans()

    async def see_step_end(self, watched: Watched) -> tuple[bool, asyncio.CancelledError | None]:
        """Wait until the asset yields, or ends: whether it ends badly.

        For one that closes a stream :func:`by_collector`: an asset that raises has let go of
        it before it ends. A cancellation is returned, not raised.
        """
        cancelled: asyncio.CancelledError | None = None
        # It may have ended long ago: a script takes its time to end, and the loop closes.
        if self._driven is not None and not watched.is_left_behind:
            cancelled = await outlast(self._driven)
        return watched.interrupted or watched.step_failed is True, cancelled

    def resume(self) -> None:
        """The step goes on, perhaps after a ``yield``: in a new task, with Dagster's handlers."""
        self._signals.take_over()
        if self._driven is None or self._driven.done():
            self._driven = driven_task(self._loop)
            if self._driven is not None:
                self._asset = generator_of(self._driven)
                self._driven.add_done_callback(self._step_has_ended)
                if self._interrupted_at is not None:
                    self._driven.cancel()

    def interrupt(self, number: int | None = None) -> None:
        """The step is to end; asked for again after a while, in haste.

        Args:
            number: of the signal that asks for it.
        """
        if self._is_over:
            return
        if self._interrupted_at is not None:
            if time.monotonic() - self._interrupted_at <= _HASTE:
                return
            for watched in self._watched:
                watched.kill()
            if not self._watched and number is not None:
                # It is the asset's own code that takes its time: Dagster's handler raises there.
                self._signals.raise_anew(number)
            return
        self._interrupted_at = time.monotonic()
        for watched in self._watched:
            watched.interrupt()
        if self._signals.has_raised:
            return  # the asset is on its way out, and its ``finally`` blocks may await
        if self._driven is not None and not self._driven.done():
            self._driven.cancel()
        else:
            self.resume()

    def _signal_all(self) -> None:
        # Not even a loop that is busy keeps the scripts from being told.
        for watched in list(self._watched):
            watched.signal()

    def _look(self) -> None:
        self._timer = self._loop.call_later(_LOOK, self._look)
        self.resume()
        if self._interrupted_at is None and not in_main_thread():
            self._inquiry.look()

    def _step_has_ended(self, task: asyncio.Task[Any]) -> None:
        """The task that Dagster drives: at a ``yield``, or for good. The loop stops here."""
        error = None if task.cancelled() else task.exception()
        has_yielded = error is None and not task.cancelled()
        if has_yielded:
            self._note_yield(task.result())
        else:
            is_good = isinstance(error, StopAsyncIteration) and self._interrupted_at is None
            returned, self._returned = self._returned, []
            self._orphans += [] if is_good else [each for each in returned if each.is_unseen]
        if self._interrupted_at is not None:
            if has_yielded and self._watched:
                return  # Dagster gets that result; the next step is cancelled
            if error is None or isinstance(error, StopAsyncIteration):
                raise _Interrupted
        elif not has_yielded:
            # Scripts whose stream was left open, or whose siblings failed: the loop does not
            # go on before the next step, or the next try of this one, and there ends them.
            for watched in self._watched:
                watched.step_failed = not isinstance(error, StopAsyncIteration)
                watched.signal()
                watched.end("the step ended before its script")

    def _note_yield(self, value: object) -> None:
        """What the asset yields is a result that it has in hand, or made of those it has."""
        same = [watched for watched in self._watched if watched.in_hand is value]
        for watched in same or self._watched:
            watched.in_hand = None

    async def _end_with_the_loop(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._is_closing = True
            try:
                if self._watched:
                    await self._end_all()
                await self._keep_orphans()
            finally:
                self._release()

    async def _end_all(self) -> None:
        is_over = self._asset is not None and self._asset.ag_frame is None
        for watched in self._watched:
            if watched.is_left_behind or is_over:
                watched.end("the step ended before its script")
            else:  # Dagster was interrupted between two yields
                watched.interrupt()
        try:
            if self._asset is not None and not self._asset.ag_running:
                # Its ``finally`` blocks may await: nobody else closes it in the loop.
                await self._asset.aclose()
        finally:
            await self.all_over()
            # Generators that were let go of are closed by tasks that nobody waits for.
            with move_on_after(_CLOSING):
                await self._all_have_left.wait()


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Interrupts] = WeakKeyDictionary()
