"""The process that a session launches: its start and its end.

It leads a process session and group of its own, so that a signal reaches whatever
it has started, and a Ctrl-C at the host's terminal reaches the host alone.

Its stdout and stderr are pipes of ours, see ``output``. They are not asyncio's
subprocess pipes: with those, on several Python versions, waiting for the process also
waits for every grandchild that holds them.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL

import anyio
import anyio.abc
from anyio import CancelScope, move_on_after, to_thread

from ..errors import InvalidParameterError, LaunchError, PipesError
from .output import OutputPipe

Command = str | Sequence[str | os.PathLike[str]]

#: How often to look whether the rest of a process group has gone, in seconds; the
#: kernel tells a parent about its children only.
_GROUP_POLL = 0.01
#: The longest pause before all processes are looked through again, in seconds: that takes
#: milliseconds where there are a hundred of them.
_SCAN_POLL = 0.16
#: How long to wait for a group after SIGKILL, in seconds: its members die at once, save
#: for those that are stuck in the kernel.
_KILL_TIMEOUT = 1.0
#: How often to look whether a process that was left has ended, or its loop, in seconds.
_REAP_POLL = 0.5

_POSIX = os.name == "posix"
#: macOS says "not permitted" of a group of zombies, and Windows of a process that has
#: ended. Elsewhere it means that members are left, and none of them may be signalled:
#: they run as another user.
_DENIED_IS_GONE = sys.platform in ("darwin", "win32")


class PipesProcess:
    """A running script. Returned by ``PipesSession.launch``.

    On POSIX it leads a process group of its own, and signals go to all of that: what the
    script has started too, save for what has left the group. The session ends and reaps it,
    whether or not anything here is called. It belongs to the session's event loop.
    """

    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process
        self._exited = asyncio.Event()
        self._group_gone = False
        self._is_interrupted = False
        self._is_left = False

    @property
    def pid(self) -> int:
        """The process id; on POSIX also that of its group."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the signal's number if one ended it, or None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the process to end and return its :attr:`returncode`.

        Safe to cancel, which leaves the process as it is. Any number of tasks may wait.
        Its messages may not all be read by then: leave the session's block, or
        iterate over ``events()`` to the end, for that.
        """
        await self._exited.wait()
        assert self.returncode is not None, "set before the event"
        return self.returncode

    def terminate(self) -> None:
        """Send SIGTERM to the process and all of its group; a no-op once it has ended.

        Returns at once, and SIGKILL does not follow: for that, leave the session's block by
        an exception, or call ``PipesSession.stop``.

        Raises:
            PipesError: as :meth:`send_signal`.
        """
        if self.returncode is None:
            self.send_signal(signal.SIGTERM)

    def send_signal(self, number: int) -> None:
        """Send a signal to the process group; nothing happens if that is gone.

        Args:
            number: as ``signal.SIGUSR1``.

        Raises:
            PipesError: the system lets this user signal no process of the group. macOS
                does not tell that from a group that is gone.
        """
        if not self.group_is_alive():
            return
        try:
            if _POSIX:
                os.killpg(self.pid, number)
            else:
                self._process.send_signal(signal.Signals(number))
        except ProcessLookupError:
            pass
        except PermissionError as error:
            if _DENIED_IS_GONE:
                return
            raise PipesError(
                f"cannot send signal {int(number)} to process group {self.pid}: its processes run"
                " as another user. End them as that user, or launch them as this one"
            ) from error

    def group_is_alive(self) -> bool:
        """Whether any process of the group is left, be it a zombie, or another user's.

        Where there are no groups (Windows), whether the process itself runs.
        """
        if self.returncode is None:
            return True
        if not _POSIX or self._group_gone:
            return False
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            # Remembered: nobody can join an empty group, but its number may go to another.
            self._group_gone = True
        except PermissionError:
            self._group_gone = _DENIED_IS_GONE
        return not self._group_gone

    async def survivors(self) -> list[int]:
        """The ids of the processes of the group that are alive.

        Zombies are none: in a container whose first process reaps nobody they stay for
        ever. Where there is no /proc to tell, a group that is left counts as alive, and
        is named by its leader's id. A worker thread looks through /proc, for milliseconds
        where there are a hundred processes. Safe to cancel.
        """
        if not self.group_is_alive():
            return []
        return await to_thread.run_sync(_living_members, self.pid)

    async def follow(self) -> None:
        """Wait for the end and tell those in :meth:`wait`; the supervisor's part."""
        await self._process.wait()
        self._exited.set()

    async def gone(self) -> None:
        """Wait until the process has ended and nothing of its group is left alive."""
        await self._exited.wait()
        pause = _GROUP_POLL
        while members := await self.survivors():
            # While one of them lives there is no need to look for others.
            for member in members:
                # The kernel has no event for it.
                while await to_thread.run_sync(_is_member, member, self.pid):  # noqa: ASYNC110
                    await asyncio.sleep(_GROUP_POLL)
            # They have others in their place, which may not live long either.
            await asyncio.sleep(pause)
            pause = min(2 * pause, _SCAN_POLL)

    def interrupt(self) -> None:
        """Send SIGINT to the group: how :meth:`end` begins, at once and whatever comes after.

        Where this process ignores SIGINT, as in the background of a shell script, the script has
        inherited that, and SIGTERM is sent in its place.

        Idempotent, since many scripts take a second SIGINT for haste. May be called from a
        signal's handler.
        """
        if not self._is_interrupted:
            self._is_interrupted = True
            with suppress(PipesError):
                is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
                self.send_signal(signal.SIGTERM if is_ignored else signal.SIGINT)

    async def end(self, grace: float) -> None:
        """End the group: after :meth:`interrupt`, ``grace`` seconds, SIGTERM, as many, SIGKILL.

        Returns when the process has ended and nothing of its group is left alive, and
        1 s after SIGKILL at the latest: some cannot be ended. :meth:`survivors` names them,
        and of these the process itself is to be left to :meth:`leave`.
        """
        with move_on_after(grace):
            await self.gone()
            return
        with suppress(PipesError):
            self.send_signal(signal.SIGTERM)
        with move_on_after(grace):
            await self.gone()
            return
        with suppress(PipesError):
            self.kill()
        with move_on_after(_KILL_TIMEOUT):
            await self.gone()

    def leave(self) -> None:
        """Wait no more for a process that cannot be ended. Idempotent.

        Whenever it ends, :meth:`wait` returns, and no zombie stays: the loop reaps it or,
        if that is closed by then, a thread does.
        """
        if self._is_left or self.returncode is not None:
            return
        self._is_left = True
        loop = asyncio.get_running_loop()
        name = f"asyncpipes left {self.pid}"
        threading.Thread(target=self._outlast, args=(loop,), name=name, daemon=True).start()

    def _outlast(self, loop: asyncio.AbstractEventLoop) -> None:
        while self.returncode is None and not loop.is_closed():
            time.sleep(_REAP_POLL)
        if self.returncode is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(self._exited.set)
        elif _POSIX:
            with suppress(ChildProcessError):  # a child watcher of asyncio has a thread too
                os.waitpid(self.pid, 0)
            # The loop would have closed asyncio's transport, to which nothing public leads.
            transport = getattr(getattr(self._process, "_process", None), "_transport", None)
            if isinstance(transport, asyncio.SubprocessTransport):
                transport.close()

    def kill(self) -> None:
        """Send SIGKILL to the group. Returns at once; :meth:`wait` tells when it has ended.

        Raises:
            PipesError: as :meth:`send_signal`.
        """
        if _POSIX:
            self.send_signal(signal.SIGKILL)
        elif self.returncode is None:
            self._process.kill()

    async def kill_and_reap(self) -> None:
        """The loop is shutting down: no time for anything else. Bounded."""
        with suppress(PipesError):
            self.kill()
        try:
            with move_on_after(_KILL_TIMEOUT, shield=True) as scope:
                while not self._exited.is_set():
                    try:
                        await self.follow()
                    except asyncio.CancelledError:  # maybe another than the one that led here
                        if scope.cancel_called:
                            raise
        finally:
            self.leave()


def _living_members(group: int) -> list[int]:
    members = []
    try:
        entries = [entry for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    except OSError:
        return [group]
    if not entries:
        return [group]
    for entry in entries:
        if _is_member(int(entry.name), group):
            members.append(int(entry.name))
    return members


def _is_member(pid: int, group: int) -> bool:
    identity = process_identity(pid)
    return identity is not None and identity[0] == group


def process_identity(pid: int) -> tuple[int, str] | None:
    """The group of a living process, and when it was started; None if it has ended.

    The two tell it from a later one with the same number. Zombies have ended. Where there
    is no /proc, nobody is found. Blocks, for as long as the kernel takes.
    """
    try:
        # See proc(5): "pid (name) state ppid pgrp ..."; the name may hold anything.
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        fields = stat.rpartition(")")[2].split()
        state, group, started = fields[0], int(fields[2]), fields[19]
    except (OSError, ValueError, IndexError):
        return None
    return None if state in "ZX" else (group, started)


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
    except BaseException as error:
        for pipe in pipes:
            pipe.close()
        if not isinstance(error, (OSError, ValueError, TypeError)):
            raise
        raise await to_thread.run_sync(_launch_error, command, cwd, error) from error
    for pipe in pipes:
        pipe.close_write_end()
    return PipesProcess(process), pipes[0], pipes[1]


def _launch_error(
    command: Command, cwd: str | os.PathLike[str] | None, error: Exception
) -> LaunchError:
    """What kept the command from being started. Blocks: it looks at the file system."""
    name = command if isinstance(command, str) else os.fspath(command[0])
    if cwd is not None and not os.path.isdir(cwd):
        return LaunchError(
            f"cannot start {name!r}: its working directory {os.fspath(cwd)} does not"
            " exist, or is none"
        )
    if not isinstance(error, OSError):
        return LaunchError(f"cannot start {name!r}: {error}")
    hints = {
        errno.ENOENT: "no such program; give its path, or one on PATH",
        errno.EACCES: "it is not executable; make it so, or run it with its interpreter",
        errno.ENOEXEC: "it is no program; run a script with its interpreter, as `python FILE`",
        errno.E2BIG: "its arguments and environment are too large; pass large values as extras",
    }
    hint = hints.get(error.errno or 0, error.strerror or str(error))
    if error.errno == errno.EACCES and os.path.isdir(name):
        hint = "it is a directory; name a program in it"
    return LaunchError(f"cannot start {name!r}: {hint}")


def check_command(command: object, env: object) -> None:
    """Refuse what no system takes as a command.

    Raises:
        InvalidParameterError: it names ``command`` or ``env``.
    """
    parts = [command] if isinstance(command, str) else command
    if not isinstance(parts, Sequence) or not all(
        isinstance(part, (str, os.PathLike)) for part in parts
    ):
        raise InvalidParameterError(
            f"launch: `command` must be a str or a sequence of str and paths, got {_brief(command)}"
        )
    if not command:
        raise InvalidParameterError("launch: `command` is empty; give a program to run")
    for part in parts:
        if "\0" in str(part):  # uvloop would cut it off there, and start what is left
            raise InvalidParameterError(f"launch: `command` has a null byte in {_brief(part)}")
    if env is None:
        return
    if not isinstance(env, Mapping):
        raise InvalidParameterError(f"launch: `env` must be a mapping, got {_brief(env)}")
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidParameterError(
                f"launch: `env` must map str to str; {name!r} is mapped to {_brief(value)}"
            )
        if "\0" in name + value:
            raise InvalidParameterError(f"launch: `env` has a null byte in {_brief(name)}")


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
