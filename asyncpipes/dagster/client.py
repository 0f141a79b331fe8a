"""The clients: resources that launch scripts from assets, async and sync."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import dagster as dg

from ..errors import InvalidParameterError
from ..host.settings import check_seconds
from .execution import Call, Execution, Options
from .failures import Result
from .internals import AnyContext, TreatAsResourceParam, execution_context
from .invocation import PipesInvocation
from .message_readers import PipesChannelMessageReader

Command = str | Sequence[str | os.PathLike[str]]
T = TypeVar("T")


class AsyncPipesSubprocessClient(TreatAsResourceParam):
    """Launches scripts from async assets and ops, and reports what they report.

    ::

        @dg.asset
        async def orders(context: dg.AssetExecutionContext, pipes: AsyncPipesSubprocessClient):
            async for result in pipes.stream(context=context, command=["python", "script.py"]):
                yield result

        defs = dg.Definitions(assets=[orders], resources={"pipes": AsyncPipesSubprocessClient()})

    Scripts use asyncpipes or ``dagster_pipes``. What they log is on the run's page, with its
    level; results are what Dagster makes of them; captured output is in the step's stdout and
    stderr. The start and the end of the process are engine events.

    **Termination**, from the UI, by SIGINT or by SIGTERM: every script's process group gets
    SIGINT at once, SIGTERM after half of ``termination_timeout_seconds``, and SIGKILL after
    all of it; a further signal, 2 s later or more, kills at once. ``finally`` blocks of the
    asset run, and the step ends as interrupted. Cancelling the awaiting task does the same to
    its own script.

    Args:
        env: variables on top of this process's environment, for every script.
        cwd: working directory, for every script.
        context_injector: how the context gets to the script; by default in a temporary file.
        message_reader: how messages come; by default ``PipesChannelMessageReader()``, a file.
            Of such a one the channel is used, and this client's ``strict`` in the place of
            its own. Dagster's own readers do as well, and subclasses of ours that read by
            themselves; they are then run as they are.
        forward_termination: False: a script is not ended when the step is interrupted. The
            step ends, as interrupted, when the script has ended by itself.
        forward_stdio: copy the script's stdout and stderr to the step's.
        termination_timeout_seconds: from SIGINT to SIGKILL.
        strict: fail a step whose script never opened its context or did not close it, or
            some of whose messages were lost or malformed, or that left processes running.
            With False these are log lines; only a process that fails fails the step.

    Raises:
        InvalidParameterError: an option has a wrong type or value.
    """

    def __init__(
        self,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        context_injector: dg.PipesContextInjector | None = None,
        message_reader: dg.PipesMessageReader | None = None,
        forward_termination: bool = True,
        forward_stdio: bool = True,
        termination_timeout_seconds: float = 20,
        *,
        strict: bool = True,
    ) -> None:
        self._options = _options(
            type(self).__name__,
            env,
            cwd,
            context_injector,
            message_reader,
            forward_termination,
            forward_stdio,
            termination_timeout_seconds,
            strict,
        )

    async def run(
        self,
        *,
        context: AnyContext,
        command: Command,
        extras: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> PipesInvocation:
        """Run a script to its end; several at once with ``asyncio.gather``.

        Args:
            context: the asset's, the op's or the asset check's.
            command: program and arguments; a single text is run by the shell.
            extras: what the script finds in ``pipes.extras``.
            env: variables on top of the client's.
            cwd: its working directory, in the place of the client's.

        Returns:
            What it reported; ``get_results()`` and the other methods as Dagster has them.

        Raises:
            PipesFailure: the script failed, or, under ``strict``, something was lost. What
                it had reported by then is in the step's event log already: an asset that
                goes on after that must not yield ``.results`` again.
            LaunchError: the command cannot be started.
            DagsterExecutionInterruptedError: the step was interrupted.

        Cancelling it ends the process group; see the class.
        """
        return await _run(
            self._options, Call(execution_context(context), command, extras, env, cwd)
        )

    async def stream(
        self,
        *,
        context: AnyContext,
        command: Command,
        extras: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        implicit_materializations: bool = False,
    ) -> AsyncGenerator[Result, None]:
        """Run a script, and yield each result when it is reported, once.

        The arguments are those of :meth:`run`, and:

        Args:
            implicit_materializations: at the end of a run that is ok, yield a
                ``MaterializeResult`` for each selected asset that the script reported none of.

        Raises:
            PipesFailure: at the end, after all results; otherwise as :meth:`run`.

        Leaving the loop early ends the process group, once the generator is closed: at the
        latest with the step's event loop, at once inside ``contextlib.aclosing``; what the
        script reported beyond that is dropped. But when the step is interrupted, or fails by
        an error of the asset itself, what the asset has not asked for yet is put into the
        event log; after an interrupt, the result that it holds and has not yielded too.
        """
        if not isinstance(implicit_materializations, bool):
            raise InvalidParameterError(
                "stream(): `implicit_materializations` must be True or False, got"
                f" {implicit_materializations!r}"
            )
        call = Call(execution_context(context), command, extras, env, cwd)
        execution = Execution(self._options, call, yields=True)
        reported = 0
        async with execution:
            while (result := await execution.next_result()) is not None:
                reported += 1
                yield execution.hand_out(result)
        execution.check()
        if implicit_materializations:
            results = execution.invocation().get_results(implicit_materializations=True)
            for implicit in results[reported:]:
                yield implicit


class PipesSubprocessClient(dg.PipesSubprocessClient):
    """Dagster's ``PipesSubprocessClient`` with our host inside; for sync assets and ops.

    An import is all that changes. What a job may notice is listed in the README, under "In
    Dagster"; options and errors are those of :class:`AsyncPipesSubprocessClient`, which it is,
    in an event loop of this call.
    """

    def __init__(
        self,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        context_injector: dg.PipesContextInjector | None = None,
        message_reader: dg.PipesMessageReader | None = None,
        forward_termination: bool = True,
        forward_stdio: bool = True,
        termination_timeout_seconds: float = 20,
        *,
        strict: bool = True,
    ) -> None:
        self._options = _options(
            type(self).__name__,
            env,
            cwd,
            context_injector,
            message_reader,
            forward_termination,
            forward_stdio,
            termination_timeout_seconds,
            strict,
        )
        super().__init__(
            env=env,
            cwd=cwd,
            context_injector=context_injector,
            message_reader=message_reader or PipesChannelMessageReader(),
            forward_termination=forward_termination,
        )
        # Not every version's own takes these.
        self.forward_stdio = forward_stdio
        self.termination_timeout_seconds = termination_timeout_seconds

    def run(  # type: ignore[override]  # as in Dagster's own class, the base has it open
        self,
        *,
        context: AnyContext,
        extras: Mapping[str, Any] | None = None,
        command: Command,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> PipesInvocation:
        """Run a script to its end, and block until then.

        As :meth:`AsyncPipesSubprocessClient.run`.
        """
        call = Call(execution_context(context), command, extras, env, cwd)
        return _run_blocking(lambda: _run(self._options, call))


async def _run(options: Options, call: Call) -> PipesInvocation:
    execution = Execution(options, call, yields=False)
    async with execution:
        while await execution.next_result() is not None:
            pass
    execution.check()
    return execution.invocation()


def _run_blocking(start: Callable[[], Coroutine[Any, Any, T]]) -> T:
    if _running_loop() is None:
        return _run_on_own_loop(start())
    # Somebody calls a sync asset from a coroutine, as tests do: one thread has one loop.
    cancelling = threading.Event()
    running: list[Callable[[], object]] = []

    async def run() -> T:
        task = asyncio.current_task()
        assert task is not None, "run by a loop"
        running.append(partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel))
        if cancelling.is_set():
            task.cancel()
        return await start()

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(contextvars.copy_context().run, lambda: _run_on_own_loop(run()))
        try:
            return done.result()
        except BaseException:
            # An interrupt of this thread: the other one has no signals.
            cancelling.set()
            for cancel in running:
                with suppress(RuntimeError):
                    cancel()
            raise


def _run_on_own_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """As ``asyncio.run()``, which leaves its thread without a current event loop.

    A sync asset may have one, and find it there afterwards, as with Dagster's own client.
    """
    loop = asyncio.new_event_loop()
    try:
        task = loop.create_task(coroutine)
        try:
            return loop.run_until_complete(task)
        except BaseException:
            if not task.done():  # a signal's handler has raised in the middle of the loop
                task.cancel()
                with suppress(asyncio.CancelledError):
                    loop.run_until_complete(task)
            raise
    finally:
        try:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()


def _options(
    client: str,
    env: Mapping[str, str] | None,
    cwd: str | None,
    context_injector: dg.PipesContextInjector | None,
    message_reader: dg.PipesMessageReader | None,
    forward_termination: bool,
    forward_stdio: bool,
    termination_timeout_seconds: float,
    strict: bool,
) -> Options:
    return _checked(
        client,
        Options(
            env=_checked_env(client, env),
            cwd=cwd,
            context_injector=context_injector or dg.PipesTempFileContextInjector(),
            message_reader=message_reader or PipesChannelMessageReader(),
            forward_termination=forward_termination,
            forward_stdio=forward_stdio,
            termination_timeout_seconds=termination_timeout_seconds,
            strict=strict,
        ),
    )


def _checked_env(client: str, env: object) -> Mapping[str, str]:
    if env is None:
        return {}
    if isinstance(env, Mapping) and all(isinstance(e, str) for pair in env.items() for e in pair):
        return dict(env)
    raise InvalidParameterError(f"{client}: `env` must map str to str, got {env!r}")


def _checked(client: str, options: Options) -> Options:
    expected: dict[str, tuple[type, str]] = {
        "context_injector": (dg.PipesContextInjector, "a PipesContextInjector"),
        "message_reader": (dg.PipesMessageReader, "a PipesMessageReader"),
        "forward_termination": (bool, "True or False"),
        "forward_stdio": (bool, "True or False"),
        "strict": (bool, "True or False"),
    }
    if options.cwd is not None and not isinstance(options.cwd, str):
        raise InvalidParameterError(f"{client}: `cwd` must be a str, got {options.cwd!r}")
    for name, (kind, words) in expected.items():
        value = getattr(options, name)
        if not isinstance(value, kind):
            raise InvalidParameterError(f"{client}: `{name}` must be {words}, got {value!r}")
    check_seconds(client, "termination_timeout_seconds", options.termination_timeout_seconds)
    return options


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
