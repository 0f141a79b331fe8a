"""What goes on inside a session: one task that owns all the others.

The life of a session::

    enter ─▶ open the reader, inject the context ─▶ ready
    body  ─▶ launch ─▶ process task, output tasks
             read ─▶ events ─▶ hub ─▶ subscriber tasks
    end of the process ─▶ read to the end ─▶ wait for writers that have not closed,
             and for the rest of its group, drain_timeout at most ─▶ subscribers finish
             ─▶ outcome
    exit  ─▶ waits for that; cancelled or failed, it ends the process first, and
             subscribers have drain_timeout from then on

No cancel scope and no task group spans the body: this task's group has them all, and
the session's enter and exit only signal it. So the body's exceptions stay what they
are, and what fails in here reaches the outcome instead of cancelling the body.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from enum import Enum
from typing import Any

import anyio
from anyio import create_task_group, move_on_after

from ..errors import PipesError
from ..protocol.bootstrap import Bootstrap
from ..protocol.context import ContextData
from ..protocol.events import AssetCheckEvent, CustomMessageEvent, MaterializationEvent
from ..protocol.messages import EXTENSION_KEY, EXTENSION_VERSION
from ..protocol.outcome import Outcome, judge
from .hub import Hub
from .intake import Intake
from .process import Command, PipesProcess
from .result import RunResult, SessionHealth, SessionStats
from .settings import Settings
from .strict import described, unwrapped
from .supervisor import Supervisor
from .tasks import Tasks

#: What is read of others at most once their time is over, in bytes: some tenths of a second.
_LAST_BYTES = 32 * 1024 * 1024


class Phase(Enum):
    """Where the runner is."""

    OPENING = "opening"
    READING = "reading"
    DELIVERING = "delivering"
    OVER = "over"


class SessionRunner:
    """Runs a session from :meth:`run`'s start to its end; all else only signals it."""

    def __init__(self, context: ContextData, settings: Settings) -> None:
        self._context = context
        self._settings = settings
        self.hub = Hub()
        self._intake = Intake(settings, self.hub, self._launched)
        self._started_at = time.monotonic()
        self._ended_at: float | None = None

        self.phase = Phase.OPENING
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.drained = asyncio.Event()
        self.tasks: Tasks | None = None
        self.bootstrap: Bootstrap | None = None
        self.result: RunResult | None = None
        #: What failed in here, or the first exception of a subscriber.
        self.fault: BaseException | None = None

        self.handed_out = False
        self.reading_over = False
        self._group_has_gone = False
        self._supervisor: Supervisor | None = None
        self._exit_code: int | None = None
        self._finished = False
        self._stopping = False
        self._cutter: asyncio.TimerHandle | None = None
        self._limiter: asyncio.TimerHandle | None = None
        self._timed_out: str | None = None
        self._cancelled: str | None = None
        self._failures: list[str] = []

    # Signals from the session.

    def leave(self) -> None:
        """The body has ended well: finish as soon as nobody can write any more."""
        if not self.launching and (not self.handed_out or self._all_others_have_closed):
            self._end_reading()

    def finish(self, exit_code: int | None) -> None:
        """The script, launched by somebody else, has ended."""
        self._finished = True
        if exit_code is not None:
            self._exit_code = exit_code
        if self.phase is not Phase.OVER:
            self._end_reading()
        elif self.result is not None:
            self._conclude()  # all had closed before it ended: its exit code comes last

    def stop(self, *, cancelled: str | None = None, timed_out: str | None = None) -> None:
        """End the run: the process group first, then the reading. The first reason counts."""
        if self._stopping or self.phase is Phase.OVER:
            return
        self._stopping = True
        self._cancelled, self._timed_out = cancelled, timed_out
        if self.phase is Phase.OPENING:
            if self.tasks is not None:
                self.tasks.cancel()
            return
        if self._supervisor is not None:
            self._supervisor.end()
        else:
            self._end_reading()
        if self.reading_over:
            self.limit_delivery()

    def abandon(self) -> None:
        """The garbage collector closes the body: whoever waited there was let go of.

        In any thread, between any two steps of any task, and with nothing to be awaited.
        """
        try:
            self._loop.call_soon_threadsafe(self._stop_abandoned)
        except RuntimeError:
            pass  # the loop is closed
        process = self._launched()
        if process is not None and not self._loop.is_running():
            with suppress(PipesError):
                process.kill()  # or nobody ends it

    def _stop_abandoned(self) -> None:
        self.hub.detach_iterators()
        self.stop(cancelled="the host let go of the session without leaving its block")

    @property
    def launching(self) -> bool:
        """Whether the session launches the script itself, or has done so."""
        return self._supervisor is not None

    def launch(
        self, command: Command, env: Mapping[str, str], cwd: str | os.PathLike[str] | None
    ) -> asyncio.Future[PipesProcess]:
        """Start a process; the future tells when it runs, or why it does not."""
        assert self.tasks is not None, "checked by the session"
        self._supervisor = Supervisor(
            self._settings,
            self.tasks,
            self._end_reading,
            self._look_again,
            self._intake.take_output,
        )
        return self._supervisor.launch(command, env, cwd)

    @property
    def stats(self) -> SessionStats:
        """Counts so far."""
        return self._intake.stats

    @property
    def health(self) -> SessionHealth:
        """Who is open and how it is doing, and which subscribers hold up the reading."""
        state, monitor = self._intake.state, self._intake.monitor
        name = "closed" if state.closed else monitor.state if state.opened else "waiting"
        if self.drained.is_set():
            name = "drained"
        holding = tuple(subscription.name for subscription in self.hub.holding)
        return SessionHealth(name, holding, monitor.writers)

    # The runner's own task.

    async def run(self) -> None:
        """The whole session. Raises nothing: what fails is in the result."""
        try:
            async with AsyncExitStack() as stack:
                try:
                    async with create_task_group() as group:
                        if self._stopping:
                            return
                        self.tasks = Tasks(group)
                        try:
                            await self._open(stack)
                            await self._run(self.tasks)
                        except BaseException:
                            # A group that ends does not wait for what is started from now on.
                            self.phase = Phase.OVER
                            raise
                finally:
                    # For the body, which may still be running, nothing can be started now.
                    self.phase = Phase.OVER
        except BaseException as error:
            self._record(error)
        finally:
            if self.tasks is not None:
                self.tasks.close()
            self._intake.monitor.close()
            for timer in (self._limiter, self._cutter):
                if timer is not None:
                    timer.cancel()
            self._ended_at = time.monotonic()
            self.hub.close()
            try:
                self._conclude()
            finally:
                self._release_waiting()

    async def _run(self, tasks: Tasks) -> None:
        self.phase = Phase.READING
        if not self.ready.done():
            self.ready.set_result(None)
        timeout = self._settings.open_timeout
        if timeout is not None:
            tasks.start(self._watch_opening, timeout, name="asyncpipes open_timeout")
        await self._read()
        if self._supervisor is not None:
            await self._supervisor.over.wait()
        self.phase = Phase.DELIVERING
        self.drained.set()
        self.hub.end()

    async def _open(self, stack: AsyncExitStack) -> None:
        reader = await self._settings.channel.open_reader()
        stack.push_async_callback(reader.aclose)
        injected = await self._settings.context_injector.inject(self._context)
        stack.push_async_callback(injected.aclose)
        messages = dict(reader.params)
        if reader.extensible:
            offer: dict[str, Any] = {"v": EXTENSION_VERSION}
            if self._settings.heartbeat is not None:
                offer["heartbeat"] = self._settings.heartbeat
            messages[EXTENSION_KEY] = offer
        self.bootstrap = Bootstrap(dict(injected.params), messages)
        self._intake.attach(reader)

    async def _watch_opening(self, timeout: float) -> None:
        with move_on_after(timeout):
            await self._intake.opened.wait()
            return
        self.stop(timed_out=f"no script opened pipes within open_timeout={timeout:g} seconds")

    async def _read(self) -> None:
        try:
            await self._follow()
            await self._drain()
        except PipesError as error:
            # What the script reports from here on would go unseen, so it is ended; what
            # was read before is delivered.
            self._failures.append(str(error))
            self.fault = error
            self.reading_over = True
            self.stop()

    async def _follow(self) -> None:
        """Read until nobody can write any more."""
        while not self.reading_over:
            await self._intake.wait()
            if self._intake.monitor.is_due:
                await self._check_liveness()
            if self._all_others_have_closed:
                await self._intake.take_backlog()
                # Asked anew, since a script may have come meanwhile. From here on none
                # can: who asks for a launch or the bootstrap is refused.
                if self._all_others_have_closed:
                    self.reading_over = True

    async def _drain(self) -> None:
        """Read what is there, and wait a while for writers that have not closed.

        What was written before the script ended is read however long that takes. Those who
        write on have ``drain_timeout``, from the script's end and not from when all that is
        read, and :data:`_LAST_BYTES` for what nobody has got round to reading by then: or who
        writes faster than this reads would decide how long it goes on.
        """
        intake = self._intake
        await intake.settle()
        deadline = anyio.current_time() + self._settings.drain_timeout
        await self._check_liveness(ended=True)
        while not self._is_ended_by_us() and anyio.current_time() < deadline:
            if intake.monitor.is_due or self._group_has_gone:
                self._group_has_gone = False
                await self._check_liveness(ended=True, deadline=deadline)
            elif self._others_may_write:
                await intake.wait(deadline)
            elif not await intake.take_available():
                break
        if intake.state.open_writers or self._is_ended_by_us():
            await self._check_liveness(ended=True, most=_LAST_BYTES)
        others_go_on = await intake.take_available()
        await intake.seal()
        await intake.take_available()  # what came in between
        if others_go_on or await intake.has_more():
            self._failures.append("others were still writing to the channel when reading ended")
        await intake.finish()

    async def _check_liveness(self, **options: Any) -> None:
        reason = await self._intake.check_liveness(**options)
        if reason is not None:
            self.stop(timed_out=reason)

    def _launched(self) -> PipesProcess | None:
        return self._supervisor.process if self._supervisor is not None else None

    @property
    def _all_others_have_closed(self) -> bool:
        """Whether scripts that somebody else launched have come, and have all closed."""
        if self.launching or self._settings.until_finish:
            return False
        return self._intake.state.closed

    @property
    def _others_may_write(self) -> bool:
        """Whether a drain waits: for writers that are open, and for those that may yet open."""
        return (
            not self._intake.monitor.all_have_ended or self._may_get_output or self._others_may_open
        )

    @property
    def _may_get_output(self) -> bool:
        """Whether a stock script may still copy its output, as it does after its ``closed``."""
        if self.launching or self._finished or self._stopping:
            return False
        return self._intake.brings_output and self._intake.state.has_closed(None)

    @property
    def _others_may_open(self) -> bool:
        """Whether workers that the script has left running may yet begin to report."""
        supervisor = self._supervisor
        return supervisor is not None and not (supervisor.is_gone or supervisor.over.is_set())

    def _is_ended_by_us(self) -> bool:
        """Whether we ended the process group: then nobody is left to wait for."""
        process = self._launched()
        return self._stopping and process is not None and not process.group_is_alive()

    def _end_reading(self) -> None:
        self.reading_over = True
        self._intake.opened.set()  # or it never will be
        self._intake.interrupt()
        if self._stopping:
            self.limit_delivery()

    def _look_again(self) -> None:
        """The process and the rest of its group are gone: nobody there will close any more."""
        self._group_has_gone = True
        self._intake.interrupt()

    # The end.

    def limit_delivery_after(self, seconds: float) -> None:
        """:meth:`limit_delivery`, unless the session is over by then."""
        if self._limiter is None and self.phase is not Phase.OVER:
            self._limiter = self._loop.call_later(seconds, self.limit_delivery)

    def limit_delivery(self) -> None:
        """Time is up: subscribers and our own output have only so long to take what is read."""
        if self._supervisor is not None:
            self._supervisor.limit_forwarding()
        if self._cutter is None:
            self._cutter = asyncio.get_running_loop().call_later(
                self._settings.drain_timeout, self.hub.cut_off
            )

    def _release_waiting(self) -> None:
        """Nobody must wait in the body for what will not come any more."""
        self.drained.set()
        self.hub.end()
        self.ready.cancel()
        if self._supervisor is not None:
            self._supervisor.release()

    def _record(self, error: BaseException) -> None:
        """Something failed in here: it goes into the result, or to who waits for the opening."""
        error = unwrapped(error)
        if not self.ready.done():
            self.ready.set_exception(error)
            return
        self.fault = error
        if isinstance(error, asyncio.CancelledError):
            self._cancelled = self._cancelled or "the event loop was shut down"
        elif isinstance(error, PipesError):
            self._failures.append(str(error))
        else:
            self._failures.append(f"the session failed: {described(error)}")

    def _conclude(self) -> None:
        """Make the result. There is one, with an outcome, whatever fails at that."""
        try:
            outcome = self._judge()
        except Exception as error:
            self.fault = self.fault or error
            failed = f"the session failed when it was to say how it ended: {described(error)}"
            outcome = Outcome(
                timed_out=self._timed_out is not None,
                cancelled=self._cancelled is not None,
                reasons=(failed, *self._failures),
            )
        collected = self._intake.collected
        self.result = RunResult(
            outcome=outcome,
            materializations=tuple(e for e in collected if isinstance(e, MaterializationEvent)),
            checks=tuple(e for e in collected if isinstance(e, AssetCheckEvent)),
            custom_messages=tuple(e for e in collected if isinstance(e, CustomMessageEvent)),
            events=tuple(collected) if self._settings.collect == "all" else (),
            stats=self.stats,
            stderr="" if self._supervisor is None else self._supervisor.stderr,
            subscriber_failed=bool(self.hub.failed),
        )

    def _judge(self) -> Outcome:
        failures = list(self._failures)
        for subscription in self.hub.failed:
            assert subscription.error is not None, "it failed"
            failures.append(
                f"subscriber {subscription.name} raised {described(subscription.error)}"
            )
            self.fault = self.fault or subscription.error
        for subscription in self.hub.subscriptions:
            if subscription.undelivered and subscription.error is None:
                failures.append(f"subscriber {subscription.name} had not taken all in time")
        code = self._exit_code
        if self._supervisor is not None:
            process = self._supervisor.process
            code = process.returncode if process is not None else None
            failures += self._supervisor.reasons(stopped=self._stopping)
        return judge(
            self._intake.state,
            exit_code=None if code is None or code < 0 else code,
            signal=-code if code is not None and code < 0 else None,
            undelivered=self.hub.undelivered,
            timed_out=self._timed_out,
            cancelled=self._cancelled,
            failures=tuple(failures),
            duration=(self._ended_at or time.monotonic()) - self._started_at,
        )
