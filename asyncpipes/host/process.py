"""The process that a session launches: its start, its output, its end.

It leads a process session and group of its own, so that a signal reaches whatever
it has started, and a Ctrl-C at the host's terminal reaches the host alone.

Its stdout and stderr are pipes of ours, always drained, since a full pipe would
stop it. They are not asyncio's subprocess pipes: with those, on several Python
versions, waiting for the process also waits for every grandchild that holds them.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from subprocess import DEVNULL

import anyio
import anyio.abc
from anyio import CancelScope, CapacityLimiter, move_on_after, to_thread

from ..errors import LaunchError

Command = str | Sequence[str | os.PathLike[str]]

#: What is read at once from a pipe: as much as a Linux pipe holds by default.
_READ_BYTES = 65536
#: How much of stderr is kept for error messages, in bytes.
TAIL_BYTES = 4096
#: The longest line that is held back to be forwarded whole, in bytes.
_LINE_BYTES = 65536
#: Reads of what is left in a pipe that others still hold: 1 MiB, the most that a
#: Linux pipe can be made to hold.
_LAST_READS = 16
#: How often to look whether the rest of a process group has gone, in seconds; the
#: kernel tells a parent about its children only.
_GROUP_POLL = 0.01
#: How long to wait for the rest of a group after SIGKILL, in seconds: its members die
#: at once, but stay as zombies until whoever adopted them reaps them.
_REAP_TIMEOUT = 1.0

_POSIX = os.name == "posix"


class PipesProcess:
    """A running script. Returned by ``PipesSession.launch``."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process
        self._exited = asyncio.Event()

    @property
    def pid(self) -> int:
        """The process id; on POSIX also that of its group."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the signal's number if one ended it, or None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the process to end and return its :attr:`returncode`. Safe to cancel.

        Its messages may not all be read by then: leave the session's block, or
        iterate over ``events()`` to the end, for that.
        """
        await self._exited.wait()
        assert self.returncode is not None, "set before the event"
        return self.returncode

    def terminate(self) -> None:
        """Send SIGTERM to the process and all of its group; a no-op once it has ended."""
        if self.returncode is None:
            self.send_signal(signal.SIGTERM)

    def send_signal(self, number: int) -> None:
        """Send a signal to the process group; nothing happens if that is gone."""
        try:
            if _POSIX:
                os.killpg(self.pid, number)
            elif self.returncode is None:
                self._process.send_signal(signal.Signals(number))
        except (ProcessLookupError, PermissionError):
            pass  # gone; macOS says "not permitted" for a group of zombies

    def group_is_alive(self) -> bool:
        """Whether any process of the group is left, the script itself or another."""
        if self.returncode is None:
            return True
        if not _POSIX:
            return False
        try:
            os.killpg(self.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    async def follow(self) -> None:
        """Wait for the end and tell those in :meth:`wait`; the supervisor's part."""
        await self._process.wait()
        self._exited.set()

    async def end(self, grace: float) -> None:
        """End the group: SIGINT, ``grace`` seconds, SIGTERM, as many again, SIGKILL.

        Returns when the process has ended and nothing of its group is left alive.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            self.send_signal(number)
            with move_on_after(grace):
                await self._gone()
                return
        self.kill()
        with move_on_after(_REAP_TIMEOUT):
            await self._gone()
        await self._exited.wait()

    def kill(self) -> None:
        """Send SIGKILL to the group."""
        if _POSIX:
            self.send_signal(signal.SIGKILL)
        elif self.returncode is None:
            self._process.kill()

    async def _gone(self) -> None:
        await self._exited.wait()
        while self.group_is_alive():
            await asyncio.sleep(_GROUP_POLL)


async def launch(
    command: Command,
    *,
    env: Mapping[str, str],
    cwd: str | os.PathLike[str] | None,
) -> tuple[PipesProcess, OutputPipe, OutputPipe]:
    """Start ``command``; return it with the pipes of its stdout and stderr.

    Shielded from cancellation: a process that was started is always returned.

    Raises:
        LaunchError: it cannot be started; names the command and says why.
    """
    pipes = [OutputPipe(), OutputPipe()]
    try:
        with CancelScope(shield=True):
            process = await anyio.open_process(
                command,
                stdin=DEVNULL,
                stdout=pipes[0].write_end,
                stderr=pipes[1].write_end,
                cwd=cwd,
                env=env,
                start_new_session=_POSIX,
            )
    except (OSError, ValueError) as error:
        for pipe in pipes:
            pipe.close()
        raise _launch_error(command, cwd, error) from error
    for pipe in pipes:
        pipe.close_write_end()
    return PipesProcess(process), pipes[0], pipes[1]


def _launch_error(
    command: Command, cwd: str | os.PathLike[str] | None, error: OSError | ValueError
) -> LaunchError:
    name = command if isinstance(command, str) else os.fspath(command[0]) if command else ""
    if not isinstance(error, OSError):
        return LaunchError(f"cannot start {name!r}: {error}")
    if cwd is not None and not os.path.isdir(cwd):
        return LaunchError(f"cannot start {name!r}: the working directory {cwd} does not exist")
    hints = {
        errno.ENOENT: "no such program; give its path, or one on PATH",
        errno.EACCES: "it is not executable; make it so, or run it with its interpreter",
        errno.ENOEXEC: "it is no program; run a script with its interpreter, as `python FILE`",
        errno.E2BIG: "its arguments and environment are too large; pass large values as extras",
    }
    hint = hints.get(error.errno or 0, error.strerror or str(error))
    return LaunchError(f"cannot start {name!r}: {hint}")


class OutputPipe:
    """One of the process's output streams: a pipe, read on the loop without blocking it."""

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe()
        if _POSIX:
            os.set_blocking(self._read_end, False)

    def close_write_end(self) -> None:
        """The process has its copy: ours would keep the pipe open for ever."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def close(self) -> None:
        """Close both ends. Idempotent."""
        self.close_write_end()
        if self._read_end >= 0:
            os.close(self._read_end)
            self._read_end = -1

    async def read(self) -> bytes:
        """Wait for output; ``b""`` once all who could write have closed it."""
        if not _POSIX:  # no readiness for pipes there: a thread waits in the read
            return await to_thread.run_sync(
                os.read, self._read_end, _READ_BYTES, abandon_on_cancel=True
            )
        while (data := self.read_available()) is None:
            await anyio.wait_readable(self._read_end)
        return data

    def read_available(self) -> bytes | None:
        """Output that is there now; None if there is none yet."""
        try:
            return os.read(self._read_end, _READ_BYTES)
        except BlockingIOError:
            return None


Sink = Callable[[bytes], Awaitable[None]]


async def drain(pipe: OutputPipe, sinks: Sequence[Sink], exited: PipesProcess, linger: float) -> None:
    """Hand all output to ``sinks`` until the pipe ends; close it then.

    Once the process has ended, other processes that still hold the pipe have
    ``linger`` seconds; after that only what is there already is taken.
    """
    try:
        with CancelScope() as scope:

            async def give_up() -> None:
                await exited.wait()
                await asyncio.sleep(linger)
                scope.cancel()

            async with anyio.create_task_group() as group:
                group.start_soon(give_up)
                while data := await pipe.read():
                    with CancelScope(shield=True):  # what was read must not be lost
                        for sink in sinks:
                            await sink(data)
                group.cancel_scope.cancel()
        if scope.cancelled_caught and _POSIX:
            with CancelScope(shield=True):
                # Whoever goes on writing may never stop, so there is a bound.
                for _ in range(_LAST_READS):
                    if not (rest := pipe.read_available()):
                        break
                    for sink in sinks:
                        await sink(rest)
    finally:
        pipe.close()


class Forward:
    """Copies output to the host's own stdout or stderr, whole lines at a time."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._held = b""
        self._limiter = CapacityLimiter(1)

    async def __call__(self, data: bytes) -> None:
        data = self._held + data
        end = data.rfind(b"\n") + 1
        if not end and len(data) > _LINE_BYTES:
            end = len(data)
        self._held = data[end:]
        if end:
            await self._write(data[:end])

    async def finish(self) -> None:
        """Write what came after the last newline."""
        held, self._held = self._held, b""
        if held:
            await self._write(held)

    async def _write(self, data: bytes) -> None:
        # In a thread: the terminal or pipe behind our stdout may be slow.
        await to_thread.run_sync(self._write_blocking, data, limiter=self._limiter)

    def _write_blocking(self, data: bytes) -> None:
        target = getattr(sys, self._stream)
        if target is None:
            return  # a host without standard streams
        try:
            target.write(data.decode("utf-8", "backslashreplace"))
            target.flush()
        except (OSError, ValueError):
            pass  # our own output is closed: the script must not suffer for it


class Tail:
    """Keeps the last of what went by."""

    def __init__(self) -> None:
        self._data = b""

    async def __call__(self, data: bytes) -> None:
        self._data = (self._data + data)[-TAIL_BYTES:]

    @property
    def text(self) -> str:
        """What is kept, as text."""
        return self._data.decode("utf-8", "replace")
