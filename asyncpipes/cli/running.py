"""One script from its launch to its outcome, as the command runs it: signals, time, output."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..errors import ClosedError, PipesError
from ..host.pipes_session import PipesSession
from ..host.process import Command, PipesProcess
from ..host.result import RunResult
from ..host.session import open_pipes_session
from ..host.subscription import Callback

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Script:
    """What is to be run, and how.

    Attributes:
        command: program and arguments; a single text is run by the shell.
        context: the fields of the context.
        env: variables on top of this process's environment.
        cwd: its working directory.
        timeout: seconds after which it is ended.
        grace: seconds between SIGINT, SIGTERM and SIGKILL.
    """

    command: Command
    context: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    timeout: float | None = None
    grace: float = 10.0


class Interrupts:
    """SIGINT and SIGTERM: once, all scripts end in an orderly way; twice, at once.

    Attributes:
        number: the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._running: dict[PipesSession, PipesProcess | None] = {}

    def install(self) -> None:
        """Handle the signals, as long as the running loop does."""
        if sys.platform == "win32":
            return  # Ctrl-C is asyncio.run()'s there
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._take, number)

    def watch(self, session: PipesSession, process: PipesProcess | None = None) -> None:
        """End this one too."""
        self._running[session] = process
        if self.number is not None:
            session.stop(self._reason)

    def leave(self, session: PipesSession) -> None:
        """It has ended."""
        self._running.pop(session, None)

    @property
    def _reason(self) -> str:
        assert self.number is not None, "asked when one has come"
        return f"interrupted by {signal.Signals(self.number).name}"

    def _take(self, number: int) -> None:
        is_first = self.number is None
        self.number = self.number or number
        for session, process in self._running.items():
            if is_first:
                session.stop(self._reason)
            elif process is not None:
                with suppress(PipesError):
                    process.kill()


@dataclass
class Subscribing:
    """Who gets the events of a script.

    Attributes:
        on_loop: does not block.
        in_threads: may block, each in a thread.
        opened: is told of the session before there are events.
    """

    on_loop: Sequence[Callback] = ()
    in_threads: Sequence[Callback] = ()
    opened: Callable[[PipesSession], None] = lambda session: None


async def run_script(
    script: Script, subscribing: Subscribing, interrupts: Interrupts, **options: Any
) -> RunResult:
    """Run it to its end.

    Args:
        script: what to run.
        subscribing: who gets the events.
        interrupts: who ends it early.
        options: those of ``open_pipes_session``.

    Raises:
        PipesError: as ``open_pipes_session`` and ``launch``.
        TimeoutError: it ended in time, and a subscriber has not taken all by ``timeout``.
    """
    task = asyncio.current_task()
    assert task is not None, "run by asyncio.run()"
    loop, late = asyncio.get_running_loop(), False
    watchdog: asyncio.TimerHandle | None = None
    timeout = script.timeout
    ends_at = math.inf if timeout is None else loop.time() + timeout

    def too_late() -> None:
        nonlocal late
        late = True
        task.cancel()

    session = open_pipes_session(
        strict=False, collect="none", grace=script.grace, **options, **script.context
    )
    try:
        async with session:
            for callback in subscribing.on_loop:
                session.subscribe(callback)
            for callback in subscribing.in_threads:
                session.subscribe(callback, in_thread=True)
            subscribing.opened(session)
            interrupts.watch(session)
            try:
                process = await session.launch(script.command, env=script.env, cwd=script.cwd)
            except ClosedError:
                if interrupts.number is None:
                    raise
            else:
                interrupts.watch(session, process)
            if await session.wait_drained(timeout) and timeout is not None:
                # The script has ended in time; to print what it said must not take longer.
                watchdog = loop.call_at(ends_at, too_late)
    except asyncio.CancelledError:
        if late:
            raise TimeoutError from None
        raise
    finally:
        interrupts.leave(session)
        if watchdog is not None:
            watchdog.cancel()
    return session.result
