"""Wrong versions of ours: of how a script ends, and of what the host makes of it."""

from __future__ import annotations

from typing import Any

from tests.faults.mutants import Patch, module, mutant
from tests.faults.mutants_reading import on_reading

# Of the host: what it makes of the end.


@mutant("host")
def throws_away_results_of_failures(patch: Patch) -> None:
    """Of a run that failed, the results are thrown away."""
    from dataclasses import replace

    from asyncpipes.host.runner import SessionRunner

    conclude = SessionRunner._conclude

    def emptied(self: SessionRunner, *args: Any, **options: Any) -> None:
        conclude(self, *args, **options)
        if self.result is not None and not self.result.outcome.ok:
            self.result = replace(self.result, materializations=(), checks=(), events=())

    patch(SessionRunner, "_conclude", emptied)


@mutant("host")
def believes_the_exit_code(patch: Patch) -> None:
    """A run is good if its exit code is 0."""
    from dataclasses import replace

    runner = module("host.runner")
    judge = runner.judge

    def lenient(*args: Any, **options: Any) -> Any:
        outcome = judge(*args, **options)
        return replace(outcome, reasons=()) if outcome.exit_code == 0 else outcome

    patch(runner, "judge", lenient)


@mutant("host")
def hears_nobody_after_closed(patch: Patch) -> None:
    """The first `closed` is taken for the end of all messages."""
    from asyncpipes import ClosedEvent

    over: list[Any] = []

    def cut(reader: Any, events: list[Any], sizes: list[int]) -> tuple[list[Any], list[int]]:
        for number, event in enumerate(events):
            if over:
                return events[:number], sizes[:number]
            if isinstance(event, ClosedEvent):
                over.append(event)
        return events, sizes

    on_reading(patch, cut)


# Of the script: how it ends.


@mutant("script")
def leaves_results_to_the_thread(patch: Patch) -> None:
    """A result is written by the thread, a moment after the call."""
    import math

    from asyncpipes.external.outbox import Outbox

    slow_writes(patch)
    patch(Outbox, "_put_written", lambda self, head, *args, **options: self._append(head, math.inf))


@mutant("script")
def flushes_without_waiting(patch: Patch) -> None:
    """flush() returns at once, while the thread is still writing."""
    import asyncio

    from asyncpipes import PipesContext

    slow_writes(patch)
    patch(PipesContext, "flush", lambda *args, **options: asyncio.sleep(0))


def slow_writes(patch: Patch) -> None:
    """A write takes as long as a busy thread of the script may keep the interpreter."""
    import time

    from asyncpipes.channels.file import FileWriter

    write = FileWriter.write

    def later(*args: Any, **options: Any) -> Any:
        time.sleep(0.05)
        return write(*args, **options)

    patch(FileWriter, "write", later)


@mutant("script")
def leaves_sigterm_alone(patch: Patch) -> None:
    """SIGTERM ends the script as it ends any other."""
    from asyncpipes.external.lifecycle import TerminationGuard

    patch(TerminationGuard, "join", lambda *args, **options: None)


@mutant("script")
def takes_any_exit_for_a_failure(patch: Patch) -> None:
    """sys.exit(0) is sent as an exception, like any other."""
    from asyncpipes.external.connection import PipesContext

    closing_message = PipesContext._closing_message

    def strict(self: Any, error: Any, *args: Any, **options: Any) -> Any:
        other = RuntimeError(f"SystemExit: {error}") if isinstance(error, SystemExit) else error
        return closing_message(self, other, *args, **options)

    patch(PipesContext, "_closing_message", strict)


@mutant("script")
def takes_any_exit_for_success(patch: Patch) -> None:
    """Whatever sys.exit() is given, the context counts as left well."""
    from asyncpipes.external.connection import PipesContext

    closing_message = PipesContext._closing_message

    def lenient(self: Any, error: Any, *args: Any, **options: Any) -> Any:
        other = None if isinstance(error, SystemExit) else error
        return closing_message(self, other, *args, **options)

    patch(PipesContext, "_closing_message", lenient)


@mutant("script")
def sends_the_outermost_exception_alone(patch: Patch) -> None:
    """Of an exception only its own message and traceback are sent."""
    closing = module("external.closing")
    encode = closing.encode_exception

    def alone(error: BaseException, *args: Any, **options: Any) -> Any:
        outermost = RuntimeError(str(error)).with_traceback(error.__traceback__)
        return encode(outermost, *args, **options)

    patch(closing, "encode_exception", alone)


@mutant("script")
def remembers_its_first_bootstrap(patch: Patch) -> None:
    """A process has one bootstrap, which is read when it is first needed."""
    import os
    from functools import cache

    from asyncpipes.external.loaders import MappingParamsLoader

    first = cache(lambda: MappingParamsLoader(dict(os.environ)))
    patch(module("external.connection"), "default_params_loader", first)


@mutant("script")
def has_one_context_for_all_tasks(patch: Patch) -> None:
    """PipesContext.get() finds the context that was opened last, whoever asks."""
    from asyncpipes.external import lifecycle

    opened: list[Any] = []
    register = lifecycle.register

    def remember(context: Any, *args: Any, **options: Any) -> Any:
        opened.append(context)
        return register(context, *args, **options)

    patch(lifecycle, "register", remember)
    patch(lifecycle, "find", lambda *args, **options: opened[-1])


@mutant("script")
def logs_after_closing(patch: Patch) -> None:
    """A record goes to the host even after `closed`."""
    import os

    from asyncpipes.channels.file import FileWriter
    from asyncpipes.external.logging import PipesHandler
    from asyncpipes.protocol.messages import encode_head

    emit, init = PipesHandler.emit, FileWriter.__init__
    paths: list[Any] = []

    def remember(self: FileWriter, path: str, *args: Any, **options: Any) -> None:
        paths.append(path)
        init(self, path, *args, **options)

    def behind(self: PipesHandler, record: Any) -> None:
        if self._target is None or not self._target.is_closed:
            emit(self, record)
            return
        head = encode_head("log", {"message": record.getMessage(), "level": "INFO"})
        fd = os.open(paths[-1], os.O_WRONLY | os.O_APPEND)
        os.write(fd, head + b"}\n")
        os.close(fd)

    patch(FileWriter, "__init__", remember)
    patch(PipesHandler, "emit", behind)


@mutant("script")
def crashes_when_logging_after_closing(patch: Patch) -> None:
    """A logger that was kept raises once its context is closed."""
    from asyncpipes.errors import ClosedError
    from asyncpipes.external.logging import PipesHandler

    emit = PipesHandler.emit

    def refuse(self: PipesHandler, record: Any) -> None:
        if self._target is not None and self._target.is_closed:
            raise ClosedError("the context is closed")
        emit(self, record)

    patch(PipesHandler, "emit", refuse)
