"""The supervisor: launches the process of a session and stays with it to its end."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping

from anyio import CancelScope, create_task_group, current_time, move_on_after

from ..errors import ClosedError, LaunchError
from ..protocol.events import ExternalStreamEvent, Stream
from .output import Capture, Forward, OutputPipe, Sink, Tail, WholeLines, drain
from .process import Command, PipesProcess, launch
from .settings import Settings
from .tasks import Tasks


class Supervisor:
    """One process, its output, and the rest of its group.

    Args:
        tasks: where its tasks run.
        on_exit: called once when the process has ended, or could not be ended or started.
        on_gone: called when the rest of its group is gone too, if that is in time.
        on_output: called with captured output, if the settings ask for that.

    Attributes:
        process: it, once it runs.
        failure: why it could not be started.
        survivors: members of its group that went on for ``drain_timeout`` after it ended.
        unended: members of its group, be it the process itself, that lived on when we had
            ended it, SIGKILL included.
        unforwarded: which of our own streams did not take all of its output.
        over: it has ended, its output is read, and its group is gone; or they are given up.
    """

    def __init__(
        self,
        settings: Settings,
        tasks: Tasks,
        on_exit: Callable[[], None],
        on_gone: Callable[[], None],
        on_output: Callable[[ExternalStreamEvent], None],
    ) -> None:
        self._settings = settings
        self._tasks = tasks
        self._on_exit = on_exit
        self._on_gone = on_gone
        self._on_output = on_output
        self._tail = Tail()
        self._started: asyncio.Future[PipesProcess] = asyncio.get_running_loop().create_future()
        self._is_ending = False
        self._following = CancelScope()
        self._forwards: list[Forward] = []
        self.process: PipesProcess | None = None
        self.failure: LaunchError | None = None
        self.survivors: list[int] = []
        self.unended: list[int] = []
        #: Whether nothing of the process group is left.
        self.is_gone = False
        self.over = asyncio.Event()

    @property
    def unforwarded(self) -> list[Stream]:
        return [forward.stream for forward in self._forwards if forward.gave_up]

    @property
    def stderr(self) -> str:
        """The last of what the process wrote to stderr."""
        return self._tail.text

    def reasons(self, *, stopped: bool) -> list[str]:
        """What went wrong with it, in words; survivors count unless the run was ``stopped``."""
        reasons = [] if self.failure is None else [str(self.failure)]
        reasons += [f"not all of {stream} was forwarded" for stream in self.unforwarded]
        if self.unended:
            pids = ", ".join(map(str, self.unended))
            reasons.append(
                f"processes of its group could not be ended: {pids}; they run as another user, or"
                " hang in the kernel"
            )
        elif self.survivors and not stopped:
            pids = ", ".join(map(str, self.survivors))
            reasons.append(f"the process ended and left others of its group running: {pids}")
        return reasons

    def launch(
        self, command: Command, env: Mapping[str, str], cwd: str | os.PathLike[str] | None
    ) -> asyncio.Future[PipesProcess]:
        """Start the process; the future tells when it runs, or why it does not."""
        self._tasks.start(self._run, command, env, cwd, name="asyncpipes process")
        return self._started

    def end(self) -> None:
        """End the process group, now or as soon as it is there."""
        self._is_ending = True
        self.limit_forwarding()
        if self.process is not None:
            self.process.interrupt()
            self._tasks.start(self._end, self.process, name="asyncpipes end")

    async def _end(self, process: PipesProcess) -> None:
        await process.end(self._settings.grace)
        self.unended = await process.survivors()
        if process.returncode is None:
            process.leave()
            self._following.cancel()

    def release(self) -> None:
        """The session is over: who still waits for the start must not wait for ever."""
        if not self._started.done():
            self._started.set_exception(ClosedError("launch: the session ended meanwhile"))

    async def _run(
        self, command: Command, env: Mapping[str, str], cwd: str | os.PathLike[str] | None
    ) -> None:
        try:
            self.process, stdout, stderr = await launch(command, env=env, cwd=cwd)
        except LaunchError as error:
            self.failure = error
            self.over.set()
            self._on_exit()
            if not self._started.done():  # done: the launch was cancelled, nobody asks
                self._started.set_exception(error)
            return
        if not self._started.done():
            self._started.set_result(self.process)
        if self._is_ending:
            self.end()
        await self._follow(self.process, stdout, stderr)

    async def _follow(self, process: PipesProcess, stdout: OutputPipe, stderr: OutputPipe) -> None:
        tasks: Tasks | None = None
        try:
            async with create_task_group() as outputs:
                tasks = Tasks(outputs)
                scopes = [CancelScope(), CancelScope()]
                name = "asyncpipes output"
                tasks.start(self._pass_output, "stdout", stdout, scopes[0], name=name)
                tasks.start(self._pass_output, "stderr", stderr, scopes[1], name=name)
                with self._following:
                    await process.follow()
                for scope in scopes:  # for others that hold the streams
                    scope.deadline = current_time() + self._settings.drain_timeout
                # Reading the channel to its end need not wait for somebody who holds
                # the standard streams.
                self._on_exit()
                with move_on_after(self._settings.drain_timeout):
                    await process.gone()
                    self.is_gone = True
                    self._on_gone()
                self.survivors = await process.survivors()
        except BaseException:
            await process.kill_and_reap()  # being cancelled: the loop itself shuts down
            raise
        finally:
            if tasks is not None:
                tasks.close()
            stdout.close()  # a task that never began has not
            stderr.close()
            self.over.set()

    def limit_forwarding(self) -> None:
        """The run is to end: our own stdout and stderr have ``drain_timeout`` from here on."""
        for forward in self._forwards:
            forward.limit()

    async def _pass_output(self, stream: Stream, pipe: OutputPipe, reading: CancelScope) -> None:
        def take(text: str) -> None:
            self._on_output(
                ExternalStreamEvent(stream, text, {"source": "host"}, received_at=time.time())
            )

        forwarding = self._settings.forward_stdio
        forward = Forward(stream, self._settings.drain_timeout)
        self._forwards.append(forward)
        if self._is_ending:
            forward.limit()
        capture = Capture(take)
        sinks: list[Sink] = []
        if forwarding in ("events", "both"):
            sinks.append(capture)
        if stream == "stderr":
            sinks.append(self._tail)
        if forwarding in (True, "both"):
            sinks.append(forward)  # the last, since it may have to wait
        lines = WholeLines(sinks)
        try:
            await drain(pipe, lines, reading)
            await lines.finish()
        finally:
            forward.close()
        capture.finish()
