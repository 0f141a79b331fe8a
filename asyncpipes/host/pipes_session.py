"""``PipesSession``: an open session, as a host program sees it."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from anyio import current_time, move_on_after

from ..channels.finishing import outlast
from ..errors import ClosedError, InvalidParameterError, NotOpenError, UsageError
from ..protocol import bootstrap
from ..protocol.bootstrap import Bootstrap
from ..protocol.context import ContextData
from ..protocol.events import Event, Level
from ..protocol.outcome import Outcome
from .process import Command, PipesProcess, check_command
from .result import RunResult, SessionHealth, SessionStats
from .runner import Phase, SessionRunner
from .settings import Settings, check_seconds
from .strict import strict_error
from .subscription import (
    DEFAULT_MAX_EVENTS,
    Callback,
    CallbackSubscription,
    EventIterator,
    Overflow,
    Subscription,
)
from .tasks import Tasks

C = TypeVar("C", bound=Callable[..., Any])


class PipesSession:
    """One script and what it reports. Made by :func:`open_pipes_session`.

    All of it belongs to the event loop on which it was entered.
    """

    def __init__(self, context: ContextData, settings: Settings) -> None:
        self.context = context
        self._settings = settings
        self._runner: SessionRunner | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def bootstrap(self) -> Mapping[str, str]:
        """The two ``DAGSTER_PIPES_*`` values, for launchers that take any mapping.

        Asking for it, :attr:`env` or :attr:`cli_arguments` tells the session that
        somebody else launches the script. It then ends when all that opened have
        closed, when :meth:`finish` is called, or when ``open_timeout`` passes.

        Raises:
            NotOpenError, ClosedError: the session is not open yet, or has ended: what a
                script would report now, nobody would read.
        """
        return bootstrap.to_environment(self._hand_out("bootstrap"))

    @property
    def env(self) -> Mapping[str, str]:
        """This process's environment with the bootstrap in it, for ``Popen(env=...)``."""
        return {**os.environ, **self.bootstrap}

    @property
    def cli_arguments(self) -> Sequence[str]:
        """The bootstrap as command line arguments, to be appended to a command."""
        return bootstrap.to_arguments(self._hand_out("cli_arguments"))

    @property
    def result(self) -> RunResult:
        """What was received and how the run ended; there too after an exception.

        Raises:
            NotOpenError: the run has not ended yet.
        """
        if self._runner is None or self._runner.result is None:
            raise NotOpenError(
                "the session has not ended: its result is there once its block has been left"
            )
        return self._runner.result

    @property
    def outcome(self) -> Outcome:
        """How the run ended.

        Raises:
            NotOpenError: it has not ended yet.
        """
        return self.result.outcome

    @property
    def stats(self) -> SessionStats:
        """Counts so far."""
        return SessionStats() if self._runner is None else self._runner.stats

    @property
    def health(self) -> SessionHealth:
        """Who is open, and which subscribers hold up the reading."""
        return SessionHealth("waiting") if self._runner is None else self._runner.health

    def subscribe(
        self,
        callback: Callback,
        *types: type[Event],
        min_level: Level | None = None,
        overflow: Overflow = "wait",
        max_events: int = DEFAULT_MAX_EVENTS,
        in_thread: bool = False,
    ) -> Subscription:
        """Call ``callback(event)`` for every event from now on, in order.

        Args:
            callback: a function or coroutine function. If it raises, it gets no more
                events, the others go on, and the outcome is not ok.
            types: only events of these classes; none for all.
            min_level: of log events, only those of this level and above.
            overflow: what happens when ``max_events`` events, or 16 MiB of them, wait
                for it: ``"wait"`` stops the reading until half are done, ``"drop_oldest"``
                and ``"drop_newest"`` drop and count.
            max_events: the bound. With ``"wait"`` the queue may exceed it by what was
                decoded last: 64 KiB of messages, or a single longer one.
            in_thread: call it in a worker thread, one call at a time: for callbacks that
                block, such as a database's. Plain functions only.

        Captured output (``forward_stdio="events"``) never stops anything: the oldest of
        256 pieces that wait is dropped and counted.

        When the run is cancelled or times out, ``drain_timeout`` bounds what is left to
        deliver: an async callback is cancelled then, a call in a thread is abandoned, and
        the rest counts as ``undelivered``.

        Raises:
            InvalidParameterError: a wrong callback, type, level, policy or bound.
            NotOpenError, ClosedError: the session is not open yet, or over.
        """
        runner, tasks = self._open("subscribe")
        subscription = CallbackSubscription(
            callback,
            types,
            min_level=min_level,
            overflow=overflow,
            max_events=max_events,
            in_thread=in_thread,
        )
        runner.hub.add(subscription)
        tasks.start(subscription.run, name=f"asyncpipes subscriber {subscription.name}")
        return subscription

    def on(self, *types: type[Event], **options: Any) -> Callable[[C], C]:
        """:meth:`subscribe` as a decorator: ``@session.on(LogEvent, min_level="ERROR")``.

        Raises:
            InvalidParameterError: written without its parentheses.
        """
        if len(types) == 1 and not isinstance(types[0], type):
            raise InvalidParameterError(
                f"on: expected event types, got {types[0]!r}; write @session.on() with parentheses"
            )

        def decorate(callback: C) -> C:
            self.subscribe(callback, *types, **options)
            return callback

        return decorate

    def events(
        self,
        *types: type[Event],
        min_level: Level | None = None,
        overflow: Overflow = "wait",
        max_events: int = DEFAULT_MAX_EVENTS,
    ) -> EventIterator:
        """Iterate over events, from this call on, until the session is drained.

        It takes the options of :meth:`subscribe`. Leaving ``async for event in
        session.events():``, or the session's block, ends it, so it never holds up the
        exit; an iterator that was given a name and left early holds up the reading at
        its bound until ``await iterator.aclose()``.

        Raises:
            InvalidParameterError: a wrong type, level, policy or bound.
            NotOpenError, ClosedError: the session is not open yet, or over.
        """
        runner, _ = self._open("events")
        subscription = Subscription(
            "events()", types, min_level=min_level, overflow=overflow, max_events=max_events
        )
        runner.hub.add(subscription)
        return EventIterator(subscription, asyncio.get_running_loop())

    async def launch(
        self,
        command: Command,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> PipesProcess:
        """Start the script: once a session.

        It gets a process group of its own, no stdin, and its stdout and stderr are
        always drained. To end it is to signal that group: whatever it has started goes
        with it, shells and grandchildren too. A process that has left the group (a daemon,
        by ``setsid``) is out of reach: it is neither ended nor waited for, and named only
        if it opened a context and did not close it.

        Args:
            command: program and arguments; a single text is run by the shell.
            env: variables on top of this process's environment.
            cwd: its working directory.

        Raises:
            LaunchError: it cannot be started; names it and says why.
            InvalidParameterError: ``command`` or ``env`` has a wrong type.
            UsageError: the session has launched one already.
            NotOpenError, ClosedError: the session is not open yet, or has ended.

        Cancelling it leaves no process behind: the session's exit ends what was started.
        """
        runner, _ = self._open("launch")
        if runner.launching:
            raise UsageError("this session has launched a process: open a session for each")
        _check_reading("launch", runner)
        check_command(command, env)
        assert runner.bootstrap is not None, "made before the session counts as open"
        variables = {**os.environ, **(env or {}), **bootstrap.to_environment(runner.bootstrap)}
        return await runner.launch(command, variables, cwd)

    def finish(self, exit_code: int | None = None) -> None:
        """Say that a script that somebody else launched has ended.

        What it wrote is read to the end, and the session is over. Idempotent. Where it
        is over by then, since all that opened had closed, the exit code is added to the
        outcome.

        Args:
            exit_code: as ``Popen.returncode`` has it: minus a signal's number too.

        Raises:
            InvalidParameterError: ``exit_code`` is no int.
            UsageError: the session launched the script itself, and sees its end.
            NotOpenError: the session is not open yet.
        """
        if exit_code is not None and not isinstance(exit_code, int):
            raise InvalidParameterError(f"finish: `exit_code` must be an int, got {exit_code!r}")
        runner = self._runner
        if runner is None or runner.phase is not Phase.OVER:
            runner, _ = self._open("finish")
        if runner.launching:
            raise UsageError("finish() is for scripts that the session did not launch itself")
        runner.finish(exit_code)

    async def wait_drained(self, timeout: float | None = None) -> bool:
        """Wait until the script has ended and all of its messages are read.

        Args:
            timeout: seconds after which the process group is ended; the outcome then
                is ``timed_out``. If the process has ended by then, what is left to read
                and to deliver has ``drain_timeout``, and the run is not ``timed_out``.

        Returns:
            Whether it ended by itself. Cancelling it changes nothing.
        """
        check_seconds("wait_drained", "timeout", timeout, optional=True)
        runner = self._runner
        if runner is None:
            raise NotOpenError("wait_drained: open the session first, with `async with`")
        with move_on_after(timeout) as waiting:
            await runner.drained.wait()
            if timeout is not None:  # it is for what is left to deliver as well
                runner.limit_delivery_after(waiting.deadline - current_time())
            return True
        assert timeout is not None, "or there was nothing to move on after"
        if runner.reading_over:
            runner.limit_delivery()
            await runner.drained.wait()
            return True
        runner.stop(timed_out=f"the run took longer than its timeout of {timeout:g} seconds")
        await runner.drained.wait()
        return False

    def stop(self, reason: str) -> None:
        """End the run: SIGINT to the process group now, SIGTERM and SIGKILL later.

        What it had written is read and delivered, as when the block is left by an
        exception; ``drain_timeout`` bounds what subscribers take. Returns at once. A run
        that is over, or is being ended, is left alone.

        Args:
            reason: why, for the outcome's reasons; the outcome is ``cancelled``.

        Raises:
            NotOpenError: the session is not open yet.
        """
        if self._runner is None:
            raise NotOpenError("stop: open the session first, with `async with`")
        self._runner.stop(cancelled=reason)

    async def wait_over(self) -> None:
        """Wait until all is over: the process, the reading, the subscribers.

        The outcome is there then, whether or not the block has been left. Cancelling it
        changes nothing.

        Raises:
            NotOpenError: the session is not open yet.
        """
        if self._task is None:
            raise NotOpenError("wait_over: open the session first, with `async with`")
        await asyncio.wait([self._task])

    async def __aenter__(self) -> PipesSession:
        if self._runner is not None:
            raise UsageError("a session can be entered once: call open_pipes_session() again")
        runner = self._runner = SessionRunner(self.context, self._settings)
        # The one task outside of any group: it owns the group that has all the others.
        self._task = asyncio.create_task(runner.run(), name="asyncpipes session")
        try:
            await runner.ready
        except GeneratorExit:
            runner.abandon()
            raise
        except BaseException:
            runner.stop(cancelled="the session was cancelled while it opened")
            await self._join()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        runner, task = self._runner, self._task
        assert runner is not None, "entered"
        assert task is not None, "entered"
        if isinstance(error, GeneratorExit) and not may_await(error):
            runner.abandon()
            return
        runner.hub.detach_iterators()
        if error is None:
            runner.leave()
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                runner.stop(cancelled="the host cancelled the session")
                await self._join()
                raise
            if self._settings.strict and not self.outcome.ok:
                raise strict_error(self.result, runner.fault)
        else:
            is_cancelled = isinstance(error, asyncio.CancelledError)
            what = "was cancelled" if is_cancelled else f"raised {type(error).__name__}"
            runner.stop(cancelled=f"the host's block {what}")
            await self._join()

    async def _join(self) -> None:
        """Wait for the runner whatever cancellation comes: it is on its way to the end."""
        assert self._task is not None, "entered"
        await outlast(self._task)  # a cancellation goes by: the caller is raising already

    def _hand_out(self, what: str) -> Bootstrap:
        runner, _ = self._open(what)
        _check_reading(what, runner)
        runner.handed_out = True
        assert runner.bootstrap is not None, "made before the session counts as open"
        return runner.bootstrap

    def _open(self, what: str) -> tuple[SessionRunner, Tasks]:
        runner = self._runner
        if runner is None or runner.tasks is None or runner.phase is Phase.OPENING:
            raise NotOpenError(
                f"{what}: the session is not open yet; use it inside `async with"
                " open_pipes_session(...) as session:`"
            )
        if runner.phase is Phase.OVER:
            raise ClosedError(f"{what}: the session is over; open another one")
        return runner, runner.tasks


def _check_reading(what: str, runner: SessionRunner) -> None:
    if runner.reading_over:
        raise ClosedError(
            f"{what}: the session has ended already, and nobody would read what a script reports;"
            " open another one"
        )


def may_await(error: GeneratorExit) -> bool:
    """Whether what is being closed is an async generator, which may await; a coroutine may not.

    The one was closed at its ``yield``. The other was let go of, or closed by hand.
    """
    origin = error.__traceback__
    while origin is not None and origin.tb_next is not None:
        origin = origin.tb_next
    return origin is not None and bool(origin.tb_frame.f_code.co_flags & inspect.CO_ASYNC_GENERATOR)
