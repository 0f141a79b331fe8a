"""One script of a step, from its start to the verdict: what both clients do.

::

    Dagster's session: context, injector, handler ─┐
    our session: launch, read, subscribers         ├─ Execution ─▶ results, one by one
    reporting, interrupts                          ─┘             ─▶ PipesFailure, or none

It is entered and left by the task that awaits it, or by several: Dagster resumes an asset in
a new task after each ``yield``. So nothing here holds a scope or a task of its own; what must
go on meanwhile is the session's.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from types import TracebackType
from typing import Any

from anyio import CancelScope
from dagster import (
    DagsterExecutionInterruptedError,
    MetadataValue,
    PipesContextInjector,
    PipesMessageReader,
    PipesSession,
)
from dagster import open_pipes_session as open_dagster_session

from ..channels.finishing import outlast, to_its_end
from ..host.pipes_session import may_await
from ..host.process import PipesProcess
from ..host.result import RunResult
from ..host.session import open_pipes_session
from ..protocol.context import ContextData
from .asset_task import by_collector
from .context_injectors import Injected, checked_extras, completing
from .failures import Result, failure, has_failed, keep, reasons_against
from .internals import ExecutionContext, engine_event, explain_missing_results
from .interrupts import Interrupts
from .invocation import PipesInvocation
from .message_readers import Bridge, named_after
from .reporting import RESULTS, Reporting
from .sharing import shared
from .watched import Watched

_NO_RESULTS = (
    "The script has to report each of them, by report_asset_materialization() or"
    " report_asset_check(), and the asset has to yield or return what the pipes client gives. To"
    " have assets count as materialized that a script does not report, ask for"
    " implicit_materializations=True."
)


@dataclass(frozen=True)
class Options:
    """The options of a client; see there."""

    env: Mapping[str, str]
    cwd: str | None
    context_injector: PipesContextInjector
    message_reader: PipesMessageReader
    forward_termination: bool
    forward_stdio: bool
    termination_timeout_seconds: float
    strict: bool


@dataclass(frozen=True)
class Call:
    """The arguments of one ``run()`` or ``stream()``; see there."""

    context: ExecutionContext
    command: str | Sequence[str | os.PathLike[str]]
    extras: Mapping[str, Any] | None
    env: Mapping[str, str] | None
    cwd: str | None


class _Departure(Enum):
    """How a stream is closed before its end, and so what becomes of results still to come."""

    #: The asset has left it: its script ends, and no more of its results are wanted.
    BY_ASSET = auto()
    #: Its step is at its end, and has left it open: likewise, but the last logs are.
    STEP_ENDED = auto()
    #: The step ends badly, so that the asset cannot take what it would have taken: all is.
    STEP_FAILED = auto()
    #: The garbage collector closes it: one of the latter two, as will be seen when the step
    #: ends. An asset that raises has let go of its stream before.
    LET_FALL = auto()


class Execution:
    """Runs a script while it is entered; :meth:`check` it once it is left.

    Args:
        options: the client's.
        call: what to run.
        yields: results are yielded to Dagster as they come. Otherwise, when the step fails,
            they are put into its event log, since it will yield nothing.
    """

    def __init__(self, options: Options, call: Call, *, yields: bool) -> None:
        self._options = options
        self._call = call
        self._yields = yields
        bridge = named_after(options.message_reader, Bridge)
        self._bridge = bridge(options.message_reader, call.context)
        self._watched = Watched(
            call.context, forward=options.forward_termination, has_task=not yields
        )
        self._stack = AsyncExitStack()
        self._interrupts: Interrupts | None = None
        self._scope: AbstractContextManager[PipesSession] | None = None  # while it is entered
        self._departure: _Departure | None = None
        self._results: deque[Result] = deque()
        self._reported = 0  # of all results, those that are or were in _results

    async def __aenter__(self) -> Execution:
        try:
            await self._open()
        except BaseException as error:
            if not await self._stack_exit(error):
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack_exit(error)

    async def next_result(self) -> Result | None:
        """Wait for the next result; None when there are no more. Cancelling it loses none."""
        self._watched.in_hand = None  # whoever asks for the next one is done with it
        self._resume()
        while not self._results:
            if not await self._receive():
                return None
        return self._results.popleft()

    async def _receive(self) -> bool:
        """Wait for an event, and take its results; False when there are no more events."""
        event = await anext(self._events, None)
        if event is None:
            return False
        self._reporting.take(event)
        self._results.extend(self._reported_results[self._reported :])
        self._reported = len(self._reported_results)
        return True

    def _resume(self) -> None:
        if self._interrupts is not None:
            self._interrupts.resume()

    def hand_out(self, result: Result) -> Result:
        """The result is about to be the asset's, which may or may not yield it to Dagster."""
        self._watched.in_hand = result
        return result

    def check(self) -> None:
        """The verdict, once it is over.

        Raises:
            DagsterExecutionInterruptedError: the step was interrupted, and this task was not
                cancelled for it.
            PipesFailure: the script failed, or something was lost and ``strict`` is set.
        """
        self._stop_if_interrupted()
        reasons = self._reasons_to_fail
        if reasons:
            raise failure(self._result, reasons, self._reported_results)

    def _stop_if_interrupted(self) -> None:
        if self._watched.interrupted:
            raise DagsterExecutionInterruptedError

    def invocation(self) -> PipesInvocation:
        """What was reported, as Dagster has it."""
        invocation = PipesInvocation(self._dagster, self._result)
        if self._interrupts is not None and not self._yields:
            keep_results = partial(self._keep, self._reported_results)
            self._interrupts.returned(_Returned(invocation, keep_results))
        return invocation

    def _keep(self, results: Sequence[Result]) -> None:
        codes = ContextData.from_wire(self._dagster.context_data).code_version_by_asset_key
        keep(self._call.context, results, codes or {})

    @property
    def _reported_results(self) -> Sequence[Any]:
        return self._dagster.get_reported_results()

    @property
    def _result(self) -> RunResult:
        return self._session.result

    # Opening, and in the reverse order closing.

    async def _open(self) -> None:
        options, call, stack = self._options, self._call, self._stack
        self._interrupts = await Interrupts.watch(self._watched)
        stack.push_async_callback(self._leave, self._interrupts)
        await self._interrupts.others_over()
        context = stack.enter_context(shared(call.context))
        # It asks Dagster's storage, writes the context, and warns at its end.
        await to_its_end(self._enter_dagster, context)
        self._reporting = Reporting(self._bridge.handler)
        session = self._session = open_pipes_session(
            ContextData.from_wire(self._dagster.context_data),
            channel=self._bridge.channel,
            context_injector=Injected(self._dagster.context_injector_params),
            strict=False,
            collect="none",
            forward_stdio=options.forward_stdio,
            # Two steps lie between SIGINT and SIGKILL.
            grace=options.termination_timeout_seconds / 2,
        )
        await session.__aenter__()
        stack.push_async_exit(self._report_end)
        stack.push_async_exit(session.__aexit__)
        self._reporting.subscribe(session)
        self._events = session.events(*RESULTS)
        self._watched.session = session
        self._stop_if_interrupted()
        process = await self._launch()
        if self._watched.interrupted:
            self._watched.interrupt()  # it came while there was nothing to end yet
        self._note(
            f"[pipes] started process {process.pid}",
            pid=MetadataValue.int(process.pid),
            command=MetadataValue.text(_shown(call.command)),
        )

    async def _launch(self) -> PipesProcess:
        options, call = self._options, self._call
        launching = self._session.launch(
            call.command, env={**options.env, **(call.env or {})}, cwd=call.cwd or options.cwd
        )
        if options.forward_termination:
            self._watched.process = process = await launching
            return process
        # A launch that is cancelled ends what it has started, and an interrupt is not to.
        launched = asyncio.ensure_future(launching)
        cancelled = await outlast(launched)
        self._watched.process = process = launched.result()
        if cancelled is not None:
            raise cancelled
        return process

    def _enter_dagster(self, context: ExecutionContext) -> None:
        call = self._call
        scope = open_dagster_session(
            context=context,
            context_injector=completing(self._options.context_injector, call.context),
            message_reader=self._bridge,
            extras=None if call.extras is None else checked_extras(call.extras),
        )
        self._dagster = scope.__enter__()
        self._scope = scope
        self._stack.push_async_callback(to_its_end, self._exit_dagster)
        explain_missing_results(self._call.context, _NO_RESULTS)

    def _exit_dagster(self) -> None:
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.__exit__(None, None, None)

    async def _report_end(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        result, process = self._result, self._watched.process
        outcome = result.outcome
        if process is not None and process.returncode is not None:
            how = f"signal {outcome.signal}" if outcome.signal else f"exit code {outcome.exit_code}"
            self._note(
                f"[pipes] process {process.pid} ended with {how}",
                pid=MetadataValue.int(process.pid),
                exit_code=MetadataValue.int(process.returncode),
                seconds=MetadataValue.float(round(outcome.duration, 3)),
            )
        cancelled = await self._reporting.settle(hurried=outcome.cancelled)
        try:
            await self._reporting.drain(outcome)
        except asyncio.CancelledError as caught:
            cancelled = caught
        if self._departure is _Departure.LET_FALL and self._interrupts is not None:
            is_bad, caught_here = await self._interrupts.see_step_end(self._watched)
            self._departure = _Departure.STEP_FAILED if is_bad else _Departure.STEP_ENDED
            cancelled = caught_here or cancelled
        # All that may be held against the run is known now, what Dagster did not take included.
        lost = None if error is None and cancelled is None else self._unseen(error)
        if (self._reasons_to_fail or self._watched.interrupted) and not self._yields:
            lost = self._reported_results
        if lost:
            self._reporting.note(partial(self._keep, lost))
        reasons = reasons_against(result, self._reporting.faults)
        if reasons and error is None and not self._reasons_to_fail:
            text = f"[pipes] let pass, by strict=False: {'; '.join(reasons)}"
            # Not by way of Dagster's handler, which has had `closed`.
            self._reporting.note(partial(self._call.context.log.warning, text))
        await self._reporting.close()
        if cancelled is not None:
            raise cancelled

    def _unseen(self, error: BaseException | None) -> Sequence[Result]:
        """Results that Dagster has not got, and will not get from whoever awaits them here."""
        if not self._yields:
            return self._reported_results
        if self._departure in (_Departure.BY_ASSET, _Departure.STEP_ENDED):
            return ()
        held = self._watched.in_hand
        # What an asset has in hand when it raises may be what it raises for.
        was_its_own = not self._watched.interrupted
        in_hand: list[Result] = [] if held is None or was_its_own else [held]
        return [*in_hand, *self._results]

    def _how_it_is_closed(self) -> _Departure:
        """For who closes the stream: the asset, the collector, or the step's end."""
        watched, interrupts = self._watched, self._interrupts
        if watched.interrupted or watched.step_failed:
            return _Departure.STEP_FAILED
        if by_collector():
            return _Departure.LET_FALL
        if watched.is_left_behind or (interrupts is not None and interrupts.is_closing):
            return _Departure.STEP_ENDED
        return _Departure.BY_ASSET

    async def _leave(self, interrupts: Interrupts) -> None:
        try:
            if self._watched.interrupted:
                await interrupts.all_over()
        finally:
            await interrupts.leave(self._watched)

    async def _stack_exit(self, error: BaseException | None) -> bool:
        cancelled: asyncio.CancelledError | None = None
        if isinstance(error, GeneratorExit):
            if not may_await(error):
                await self._abandon(error)
                return False
            # Who closes a loop closes all its generators at once, in any order: the one that
            # tells us of it has had its turn after this.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError as caught:
                cancelled = caught
            self._departure = self._how_it_is_closed()
        was_cancelled = cancelled is not None or isinstance(error, asyncio.CancelledError)
        if was_cancelled or self._departure not in (None, _Departure.BY_ASSET):
            await self._see_through()
        trace = None if error is None else error.__traceback__
        is_handled = await self._stack.__aexit__(
            None if error is None else type(error), error, trace
        )
        if cancelled is not None:
            raise cancelled
        return bool(is_handled)

    async def _see_through(self) -> None:
        """Take what the script reports until its end, which is now to come.

        Without ``forward_termination`` an interrupt does not bring it about: it goes on then,
        whoever is cancelled.
        """
        if self._watched.process is None:
            return
        if self._watched.forward or not self._watched.interrupted:
            self._watched.end("the step was cancelled")
        while True:
            with CancelScope(shield=True), suppress(asyncio.CancelledError):
                self._resume()
                while await self._receive():
                    pass
                return

    async def _abandon(self, error: GeneratorExit) -> None:
        """The garbage collector closes whoever was in here: nothing may be waited for."""
        if self._watched.session is not None:
            await self._watched.session.__aexit__(type(error), error, error.__traceback__)
            self._reporting.let_go()
        threading.Thread(target=self._exit_dagster, daemon=True).start()
        if self._interrupts is not None:
            self._interrupts.let_go(self._watched)

    @property
    def _reasons_to_fail(self) -> list[str]:
        if not self._options.strict and not has_failed(self._result):
            return []
        return reasons_against(self._result, self._reporting.faults)

    def _note(self, message: str, **metadata: MetadataValue[Any]) -> None:
        self._reporting.note(partial(engine_event, self._call.context, message, metadata))


class _Returned:
    """An invocation that the asset may never look at."""

    def __init__(self, invocation: PipesInvocation, keep_results: Callable[[], None]) -> None:
        self._invocation = invocation
        self._keep_results = keep_results

    @property
    def is_unseen(self) -> bool:
        return self._invocation.is_unseen

    def keep(self) -> None:
        with suppress(Exception):  # Dagster's, of many kinds: the step has failed anyway
            self._keep_results()


def _shown(command: str | Sequence[str | os.PathLike[str]]) -> str:
    return command if isinstance(command, str) else shlex.join(os.fspath(part) for part in command)
