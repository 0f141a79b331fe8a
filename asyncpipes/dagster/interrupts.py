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
import gc
import inspect
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from types import AsyncGeneratorType, FrameType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from anyio import move_on_after
from dagster import DagsterExecutionInterruptedError, DagsterRunStatus

from ..channels.finishing import outlast, to_its_end
from ..errors import PipesError
from ..host.pipes_session import PipesSession
from ..host.process import PipesProcess
from .failures import Result
from .internals import ExecutionContext, check_captured_interrupt, is_signal_handler_of_dagster

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Seconds between looks at the handlers, or, in a thread, at what stands in for signals.
_LOOK = 0.05
#: Seconds between questions to Dagster's storage.
_ASK = 1.0
#: Seconds after which a further signal means haste. Ctrl-C alone sends two: one from the
#: terminal, one from Dagster's multiprocess executor, a moment later.
_HASTE = 2.0
#: Seconds in which a loop that has been told of a signal should have had a turn. One that has
#: not is blocked by the asset's own code, and Dagster's handler is to raise there.
_BLOCKED = 3.0
#: Seconds that scripts' results and logs may take, once all have ended, when Dagster closes
#: the loop.
_CLOSING = 10.0


async def _generator() -> AsyncGenerator[None, None]:
    yield


def _types() -> tuple[type[Any], type[Any]]:
    generator = _generator()
    step, closing = generator.__anext__(), generator.aclose()
    step.close()
    closing.close()
    return type(step), type(closing)


#: Dagster runs an async asset as ``run_until_complete(generator.__anext__())``: the task
#: that it waits for is the one whose coroutine is of this type. The garbage collector has the
#: loop make a task of ``generator.aclose()``.
_STEP, _CLOSING_BY_COLLECTOR = _types()


def _driven_task(loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any] | None:
    """The task that Dagster waits for. To be asked while the loop runs.

    Not just any task of such a kind: who merges streams makes tasks of their ``__anext__()``
    too. So it is the one for which ``run_until_complete()`` runs the loop, which that keeps in
    a variable; uvloop has no frame to look at, and there it must be the only one.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_name != "run_until_complete":
        frame = frame.f_back
    waited_for = None if frame is None else frame.f_locals.get("future")
    steps = [t for t in asyncio.all_tasks(loop) if isinstance(t.get_coro(), _STEP)]
    if frame is None and len(steps) == 1:
        return steps[0]
    return next((task for task in steps if task is waited_for), None)


def _generator_of(task: asyncio.Task[Any]) -> AsyncGeneratorType[Any, Any] | None:
    """The asset itself. Dagster never closes it.

    It calls ``__anext__()`` while the loop does not run, so that the loop knows nothing of
    the generator (PEP 525: the hooks are looked up at that call).
    """
    return next(filter(inspect.isasyncgen, gc.get_referents(task.get_coro())), None)


def by_collector() -> bool:
    """Whether the garbage collector closes a stream here, so that nobody awaits its end."""
    task = asyncio.current_task()
    return task is not None and isinstance(task.get_coro(), _CLOSING_BY_COLLECTOR)


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


class Watched:
    """A script that is to end when the step is interrupted.

    Attributes:
        interrupted: the step has been.
        forward: whether the script is to end then.
        session: the script's session, once it is open.
        process: its process, once it runs.
        has_task: a task awaits its end, which goes on whenever the loop does; a stream may be
            held by somebody who asks for no more of it.
        in_hand: the result that the asset got last, as long as it has yielded nothing since.
        left_behind: its step has ended without it.
        step_failed: by an error.
    """

    def __init__(self, context: ExecutionContext, *, forward: bool, has_task: bool = False) -> None:
        self.has_task = has_task
        self.context = context
        self.interrupted = False
        self.forward = forward
        self.session: PipesSession | None = None
        self.process: PipesProcess | None = None
        self.in_hand: Result | None = None
        self.left_behind = False
        self.step_failed = False
        self._left = asyncio.Event()

    def signal(self) -> None:
        """Send it SIGINT, once. May be called from a signal's handler."""
        if self.forward and self.process is not None:
            self.process.interrupt()

    def interrupt(self) -> None:
        """End it in an orderly way; or, without ``forward``, let it end by itself."""
        self.interrupted = True
        if self.forward:
            self.end("Dagster interrupted the step")

    def end(self, reason: str) -> None:
        """End it in an orderly way."""
        if self.session is not None:
            self.session.stop(reason)

    def kill(self) -> None:
        """End it now."""
        self.end("Dagster interrupted the step")
        if self.process is not None:
            with suppress(PipesError):
                self.process.kill()

    async def wait_over(self) -> None:
        """Wait until it has ended, whoever awaits its results."""
        if self.session is not None:
            await self.session.wait_over()

    async def wait_left(self) -> None:
        """Wait until nobody watches it any more: all of it is told and put away."""
        await self._left.wait()

    def leave(self) -> None:
        """Nobody watches it any more."""
        self._left.set()


class Interrupts:
    """The signals of one event loop, for as long as scripts are awaited on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, context: ExecutionContext) -> None:
        self._loop = loop
        self._context = context  # of the run that it is asked about
        self._watched: list[Watched] = []
        self._interrupted_at: float | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._driven: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ask_at = 0.0
        self._is_closing = False
        # Held here, so that closing the loop's generators ends what is still running.
        self._closing: AsyncGenerator[None, None] = self._end_with_the_loop()
        self._asset: AsyncGeneratorType[Any, Any] | None = None
        self._pending: int | None = None  # a signal that the loop has not been told of
        self._pending_since = 0.0
        self._reminder: threading.Timer | None = None
        self._is_over = False
        self._has_raised = False
        self._is_asking = False
        self._all_have_left = asyncio.Event()
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
        if self._reminder is not None:
            self._reminder.cancel()
        self._disarm()
        pending, self._pending = self._pending, None
        if pending is not None:
            signal.raise_signal(pending)  # it came too late for us: to Dagster, then

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
            if watched.left_behind:
                await watched.wait_over()
                if watched.has_task:
                    with move_on_after(_CLOSING):
                        await watched.wait_left()
        await self._keep_orphans()

    async def see_step_end(self) -> tuple[bool, asyncio.CancelledError | None]:
        """Wait until the asset yields, or ends: whether it ends badly.

        For one that closes a stream :func:`by_collector`: an asset that raises has let go of
        it before it ends. A cancellation is returned, not raised.
        """
        driven = self._driven
        if driven is None:
            return False, None
        cancelled = await outlast(driven)
        if driven.cancelled():
            return True, cancelled
        error = driven.exception()
        return not (error is None or isinstance(error, StopAsyncIteration)), cancelled

    def resume(self) -> None:
        """The step goes on, perhaps after a ``yield``: in a new task, with Dagster's handlers."""
        self._arm()
        if self._driven is None or self._driven.done():
            self._driven = _driven_task(self._loop)
            if self._driven is not None:
                self._asset = _generator_of(self._driven)
                self._driven.add_done_callback(self._step_has_ended)
                if self._interrupted_at is not None:
                    self._driven.cancel()

    def _arm(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            # Others' stay theirs: a program that handles signals itself ends its work itself.
            if is_signal_handler_of_dagster(signal.getsignal(number)):
                self._previous[number] = signal.signal(number, self._handle)

    def interrupt(self) -> None:
        """The step is to end; asked for again after a while, in haste."""
        number, self._pending = self._pending, None
        if self._is_over:
            return
        if self._interrupted_at is not None:
            if time.monotonic() - self._interrupted_at <= _HASTE:
                return
            for watched in self._watched:
                watched.kill()
            if not self._watched and number is not None:
                # It is the asset's own code that takes its time: Dagster's handler raises there.
                self._disarm()
                signal.raise_signal(number)
            return
        self._interrupted_at = time.monotonic()
        for watched in self._watched:
            watched.interrupt()
        if self._has_raised:
            return  # the asset is on its way out, and its ``finally`` blocks may await
        if self._driven is not None and not self._driven.done():
            self._driven.cancel()
        else:
            self.resume()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_over:  # it ended in a thread, where no handler can be set
            self._disarm()
            signal.raise_signal(number)
            return
        if self._is_blocked():
            handler = self._previous.get(signal.Signals(number))
            self._pending = None
            self._has_raised = True
            self._disarm()
            if callable(handler):
                handler(number, frame)  # Dagster's: it raises in what blocks the loop
            return
        if self._pending is None:
            self._pending, self._pending_since = number, time.monotonic()
            self._reminder = threading.Timer(_BLOCKED, self._remind, [number])
            self._reminder.name = "asyncpipes dagster signal"
            self._reminder.daemon = True
            self._reminder.start()
        # Not even a loop that is busy keeps the scripts from being told.
        for watched in list(self._watched):
            watched.signal()
        try:
            self._loop.call_soon_threadsafe(self.interrupt)
        except RuntimeError:  # the loop is closed: nobody is left who would end anything
            self._pending = None
            self._disarm()
            signal.raise_signal(number)

    def _is_blocked(self) -> bool:
        """Whether a signal came a while ago and the loop has not had a turn since."""
        return self._pending is not None and time.monotonic() - self._pending_since >= _BLOCKED

    def _remind(self, number: int) -> None:
        main = threading.main_thread().ident
        if self._is_blocked() and main is not None:
            signal.pthread_kill(main, number)

    def _disarm(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # a garbage collector's: the next signal disarms
        previous, self._previous = self._previous, {}
        for number, handler in previous.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler)

    def _look(self) -> None:
        self._timer = self._loop.call_later(_LOOK, self._look)
        self.resume()
        if threading.current_thread() is threading.main_thread():
            return
        if self._interrupted_at is None:
            if check_captured_interrupt() or not threading.main_thread().is_alive():
                self.interrupt()
            elif time.monotonic() >= self._ask_at and not self._is_asking:
                self._ask_at = time.monotonic() + _ASK
                self._is_asking = True
                asking = self._loop.run_in_executor(None, _is_being_cancelled, self._context)
                asking.add_done_callback(self._take_answer)

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
        elif error is not None:
            # Scripts whose stream was left open, or whose siblings failed: the loop does not
            # go on before the next step, or the next try of this one, and there ends them.
            for watched in self._watched:
                watched.left_behind = True
                watched.step_failed = not isinstance(error, StopAsyncIteration)
                watched.signal()
                watched.end("the step ended before its script")

    def _note_yield(self, value: object) -> None:
        """What the asset yields is a result that it has in hand, or made of those it has."""
        same = [watched for watched in self._watched if watched.in_hand is value]
        for watched in same or self._watched:
            watched.in_hand = None

    def _take_answer(self, asking: asyncio.Future[bool]) -> None:
        self._is_asking = False
        if not asking.cancelled() and asking.exception() is None and asking.result():
            self.interrupt()

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
            if watched.left_behind or is_over:
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


def _is_being_cancelled(context: ExecutionContext) -> bool:
    run = context.instance.get_run_by_id(context.run_id)
    return run is not None and run.status in (DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED)
