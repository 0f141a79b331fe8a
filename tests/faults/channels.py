"""Channels that are slow, that fail, and that are full, and a disk that is small.

Each takes the place of a channel by ``open_pipes(message_writer=...)``; what reaches it
is in ``messages``. The disk is a real one.
"""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asyncpipes.errors import ChannelError
from tests.support import RecordingWriter

#: Methods that the library sends by itself.
OWN = ("opened", "closed")


class FaultyWriter(RecordingWriter):
    """What the writers of this module share: they know which threads called them.

    Attributes:
        threads: the threads in which something that may block was called.
        entered: set when a write has begun.
    """

    def __init__(self, *, immediate: bool = False) -> None:
        super().__init__(immediate=immediate)
        self.threads: set[int] = set()
        self.entered = threading.Event()

    @property
    def delivered(self) -> list[dict[str, Any]]:
        """The messages of the user's that are with the channel."""
        return [message for message in self.messages if message["method"] not in OWN]

    def open(self) -> None:
        self.threads.add(threading.get_ident())
        super().open()

    def write(self, lines: bytes) -> None:
        self.threads.add(threading.get_ident())
        self.entered.set()
        self.transmit(lines)
        super().write(lines)

    def transmit(self, lines: bytes) -> None:
        """Take the time that a write takes, or raise what it raises."""

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        super().close()


class Slow(FaultyWriter):
    """A channel that takes ``seconds`` for each write, until the test is in a hurry."""

    def __init__(self, seconds: float = 1.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.hurry = threading.Event()

    def transmit(self, lines: bytes) -> None:
        self.hurry.wait(self.seconds)


class Stuck(Slow):
    """A channel whose writes do not return before the test lets them."""

    def __init__(self) -> None:
        super().__init__(threading.TIMEOUT_MAX)


class AlwaysFails(FaultyWriter):
    """A channel that fails with ``error`` for ever, from a write with ``since`` in it on."""

    def __init__(
        self, error: Exception | None = None, *, since: bytes = b"", immediate: bool = False
    ) -> None:
        super().__init__(immediate=immediate)
        self.error = ChannelError("the cable is cut") if error is None else error
        self.since = since

    def transmit(self, lines: bytes) -> None:
        if self.since in lines:
            self.since = b""
            raise self.error


class FailsOnce(FaultyWriter):
    """A channel of which one write fails, the first one, and no other."""

    def __init__(self, error: Exception | None = None, *, immediate: bool = False) -> None:
        super().__init__(immediate=immediate)
        self.error = ChannelError("the server is busy", transient=True) if error is None else error
        self.failed = False

    def transmit(self, lines: bytes) -> None:
        if not self.failed:
            self.failed = True
            raise self.error


class Full(FaultyWriter):
    """A channel without room, until the test makes some."""

    def __init__(self, *, immediate: bool = False) -> None:
        super().__init__(immediate=immediate)
        self.room = threading.Event()

    def transmit(self, lines: bytes) -> None:
        if not self.room.is_set():
            cause = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise ChannelError(f"the channel is full: {cause.strerror}", transient=True) from cause


@contextmanager
def small_disk(directory: Path, kilobytes: int = 64) -> Generator[Path, None, None]:
    """A file system of so many kilobytes, mounted in ``directory``, or else somewhere.

    Who may mount nothing does so in a user namespace, of which a process keeps hold.
    """
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=0700", "asyncpipes"]
    done = subprocess.run([*mount, str(directory)], capture_output=True, check=False)
    if done.returncode == 0:
        try:
            yield directory
        finally:
            subprocess.run(["umount", str(directory)], check=True)
        return
    directory.rmdir()
    with disk_in_namespace(directory, kilobytes) as path:
        yield path


@contextmanager
def disk_in_namespace(directory: Path, kilobytes: int = 64) -> Generator[Path, None, None]:
    """As :func:`small_disk`, for those who may not mount where they are."""
    directory.mkdir()
    script = 'mount -t tmpfs -o "size=$1k,mode=0700" asyncpipes "$2" && echo mounted && exec cat'
    holder = subprocess.Popen(
        ["unshare", "-rm", "sh", "-c", script, "sh", str(kilobytes), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:  # which ends with its stdin
        assert holder.stdout is not None, "a pipe"
        assert holder.stdout.readline() == "mounted\n", "neither mount nor unshare is allowed here"
        yield Path(f"/proc/{holder.pid}/root{directory.resolve()}")


def fill(disk: Path) -> Path:
    """Take all the room that is left on ``disk``; return the file that holds it."""
    ballast = disk / "ballast"
    with open(ballast, "ab", buffering=0) as file:
        for size in (4096, 64, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return ballast
