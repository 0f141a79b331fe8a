"""One script from its launch to its outcome, as the command runs it: signals, time, output."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

from anyio import CancelScope, CapacityLimiter, current_time, to_thread

from ..errors import ClosedError, InvalidParameterError, LaunchError, NotOpenError, PipesError
from ..host.pipes_session import PipesSession
from ..host.process import Command, PipesProcess
from ..host.session import open_pipes_session
from ..host.subscription import Callback, Subscription
from ..protocol.codec import dumps
from ..protocol.context import build_context
from ..protocol.outcome import Outcome
from . import exit_codes
from .leaving import ENDING_SIGNALS, PATIENCE

#: Seconds in which two signals are one.
_TOGETHER = 0.5
#: Seconds that the ending of a script may take to be printed, once it is to be at once.
_IN_HASTE = 1.0
#: What events are written to, by the names of :attr:`Subscribing.in_threads`.
STDOUT = "stdout"
RECORDING = "the recording"


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


@dataclass(frozen=True)
class Request:
    """What the options say of the script, or of all scripts."""

    context: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    timeout: float | None = None
    grace: float = 10.0
    strict: bool = True
    record: str | None = None

    def script(self, command: Command) -> Script:
        """The script with these options."""
        return Script(command, self.context, self.env, self.cwd, self.timeout, self.grace)


def check_context(context: Mapping[str, Any]) -> None:
    """Check the fields of a context as its session will, which may open much later.

    Raises:
        InvalidParameterError: one is wrong; names it.
    """
    dumps(build_context(**context).to_wire(), where="context")


class Interrupts:
    """Signals that end us: once, all scripts end in an orderly way; twice, at once.

    Whoever signals a process and its group as well, as timeout(1) does, sends two within
    milliseconds, and means one.

    Attributes:
        number: the first signal that came, or None.
        at_last: called where that at once takes longer than :data:`PATIENCE`; it is to end
            this process.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.at_last: Callable[[], object] = lambda: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_final = False
        self._is_over = False
        self._taken_at = 0.0
        self._late_at: float | None = None
        self._running: dict[PipesSession, _Running] = {}
        self._turn = asyncio.Lock()
        self._printing: CancelScope | None = None
        self._has_stalled = False

    def install(self) -> None:
        """Handle the signals from here on, on the running loop and when that is closed.

        Those that are ignored stay so: ``nohup`` and a shell's ``&`` ask for that.
        """
        if sys.platform == "win32":
            return  # Ctrl-C is asyncio.run()'s there
        self._loop = asyncio.get_running_loop()
        for number in ENDING_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                # Not the loop's own handlers, which go with it: the last words come after.
                signal.signal(number, self._signalled)

    def over(self) -> None:
        """All have ended: a signal ends nothing from here on.

        What is left is short, bounded, and puts the terminal in order. Whoever sends yet another
        signal is in a hurry.
        """
        self._is_over = True

    def watch(self, session: PipesSession, slow: Sequence[Subscription]) -> None:
        """End this one too; ``slow`` are its subscribers that may stall."""
        self._running[session] = _Running(slow)
        if self.number is not None:
            session.stop(self._reason)

    def launched(self, session: PipesSession, process: PipesProcess) -> None:
        """It has a process now."""
        self._running[session].process = process
        if self._is_final:
            self._running[session].kill()

    def leave(self, session: PipesSession) -> None:
        """It has ended."""
        self._running.pop(session, None)

    async def printing(self, call: Callable[[], object]) -> bool:
        """Call what prints in a thread, one after the other; whether it has come to its end.

        Once interrupted, each has no more than its patience, from its turn on; and none is
        called after one that had to be left.
        """
        async with self._turn:
            if self._has_stalled:
                return False
            with CancelScope() as self._printing:
                if self.number is not None:
                    self._printing.deadline = self._printed_by()
                await to_thread.run_sync(call, abandon_on_cancel=True, limiter=CapacityLimiter(1))
            self._has_stalled = self._printing.cancelled_caught
            return not self._has_stalled

    @property
    def _reason(self) -> str:
        assert self.number is not None, "asked when one has come"
        return f"interrupted by {signal.Signals(self.number).name}"

    def _printed_by(self) -> float:
        # The loop's own clock, which anyio goes by: in a signal's callback there is no task,
        # and older versions of anyio do not know where they are.
        return asyncio.get_running_loop().time() + (_IN_HASTE if self._is_final else PATIENCE)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        assert self._loop is not None, "installed"
        if self._is_over:
            self._take_late(number)
        else:
            self._loop.call_soon_threadsafe(self._take, number)

    def _take(self, number: int) -> None:
        now = asyncio.get_running_loop().time()
        if self._is_over:
            return
        if self.number is None:
            self.number, self._taken_at = number, now
            for session in list(self._running):
                session.stop(self._reason)
        elif now - self._taken_at < _TOGETHER:
            return
        elif not self._is_final:
            self._is_final = True
            for running in self._running.values():
                running.kill()
            # What was written is read to its end, and there may be gigabytes of it.
            asyncio.get_running_loop().call_later(PATIENCE, self.at_last)
        if self._printing is not None:
            self._printing.deadline = self._printed_by()

    def _take_late(self, number: int) -> None:
        now = time.monotonic()
        if self._late_at is None:
            self._late_at = now
        elif now - self._late_at >= _TOGETHER:
            os._exit(exit_codes.of_signal(self.number or number))


@dataclass
class _Running:
    slow: Sequence[Subscription]
    process: PipesProcess | None = None

    def kill(self) -> None:
        """At once: nobody is waited for."""
        for subscription in self.slow:
            subscription.cut_off()
        if self.process is not None:
            with suppress(PipesError):
                self.process.kill()


@dataclass
class Subscribing:
    """Who gets the events of a script.

    Attributes:
        on_loop: does not block.
        in_threads: may block, each in a thread, by what it writes to.
        opened: is told of the session before there are events.
    """

    on_loop: Sequence[Callback] = ()
    in_threads: Mapping[str, Callback] = field(default_factory=dict)
    opened: Callable[[PipesSession], None] = lambda session: None
    _on_loop: list[Subscription] = field(default_factory=list, init=False)
    _in_threads: list[Subscription] = field(default_factory=list, init=False)

    def subscribe(self, session: PipesSession) -> None:
        """Have them get what comes in ``session``."""
        self._on_loop = [session.subscribe(callback) for callback in self.on_loop]
        for name, callback in self.in_threads.items():
            subscription = session.subscribe(callback, in_thread=True)
            subscription.name = name
            self._in_threads.append(subscription)
        self.opened(session)

    @property
    def slow(self) -> Sequence[Subscription]:
        """Those that may stall."""
        return self._in_threads

    @property
    def uncounted(self) -> int:
        """Pieces of the script's output that came too fast for those on the loop."""
        return max((each.dropped for each in self._on_loop), default=0)

    @property
    def left_out(self) -> Mapping[str, int]:
        """Pieces that came too fast for one in a thread, by what that writes to."""
        return {each.name: each.dropped for each in self._in_threads if each.dropped}


@dataclass(frozen=True)
class Ending:
    """How a script has ended.

    Attributes:
        outcome: of its session.
        code: the exit code that says so.
        fault: what kept its session from coming to its own end, or to a beginning.
        stderr: the last of what it wrote there.
    """

    outcome: Outcome
    code: int
    fault: str | None = None
    stderr: str = ""

    @classmethod
    def of_fault(cls, code: int, fault: str, outcome: Outcome = Outcome()) -> Ending:  # noqa: B008  # frozen
        """The end by a fault, which is the last of the outcome's reasons."""
        return cls(replace(outcome, reasons=(*outcome.reasons, fault)), code, fault)


async def run_script(
    script: Script,
    subscribing: Subscribing,
    interrupts: Interrupts,
    *,
    strict: bool = True,
    **options: Any,
) -> Ending:
    """Run it to its end.

    Args:
        script: what to run.
        subscribing: who gets the events.
        interrupts: who ends it early.
        strict: whether what was lost counts against the exit code.
        options: those of ``open_pipes_session``.
    """
    try:
        session = open_pipes_session(
            strict=False, collect="none", grace=script.grace, **options, **script.context
        )
    except InvalidParameterError as error:
        return Ending.of_fault(exit_codes.USAGE, str(error))
    try:
        in_time = await _run_to_its_end(session, script, subscribing, interrupts)
    except (LaunchError, InvalidParameterError) as error:  # nothing has run
        return Ending.of_fault(_code_of(error), str(error))
    except PipesError as error:
        return Ending.of_fault(exit_codes.PROTOCOL, str(error), _outcome_of(session))
    finally:
        interrupts.leave(session)
    outcome = session.outcome
    if not in_time:
        fault = "--timeout passed, and not all events have been taken"
        return Ending.of_fault(exit_codes.TIMEOUT, fault, replace(outcome, timed_out=True))
    code = exit_codes.of_outcome(outcome, strict=strict)
    return Ending(outcome, code, stderr=session.result.stderr)


async def _run_to_its_end(
    session: PipesSession, script: Script, subscribing: Subscribing, interrupts: Interrupts
) -> bool:
    """Return whether all has been taken in the time that the script has."""
    timeout = script.timeout
    ends_at = math.inf if timeout is None else current_time() + timeout
    with CancelScope() as scope:
        async with session:
            subscribing.subscribe(session)
            interrupts.watch(session, subscribing.slow)
            try:
                process = await session.launch(script.command, env=script.env, cwd=script.cwd)
            except ClosedError:
                if interrupts.number is None:
                    raise
            else:
                interrupts.launched(session, process)
            if await session.wait_drained(timeout):
                # The script has ended in time; to print what it said must not take longer.
                scope.deadline = ends_at
    return not scope.cancelled_caught


def _outcome_of(session: PipesSession) -> Outcome:
    try:
        return session.outcome
    except NotOpenError:
        return Outcome()


def _code_of(error: LaunchError | InvalidParameterError) -> int:
    """The exit code of what cannot be started, as shells have it."""
    if isinstance(error, InvalidParameterError):
        return exit_codes.USAGE
    is_missing = isinstance(error.__cause__, FileNotFoundError)
    return exit_codes.NOT_FOUND if is_missing else exit_codes.NOT_EXECUTABLE
