"""The script's end of the file channel: appending, beside other writers.

Several may write to one file: forked and spawned workers, and contexts side by side. Each
has opened it for itself, and takes ``flock`` for every write, since a lock on a descriptor
that was inherited keeps nobody out. Under the lock it finds out where the file ends, lays
the lines out for there (see ``protocol.layout``) and appends them in one write.

What holds:

- a line is in the kernel when the write returns, whatever happens to the script after that;
- a line that was left half written, by a process that was killed or on a full disk, spoils
  no other's: the next writer begins on a fresh line;
- a writer that a full disk stops goes on inside its line if that still ends the file.
  Otherwise it writes the line again: its first half stays in the file, a line that is none;
- towards a stock host, no line is read half, on the file systems that the layout names and
  while the disk has room.

The lock is for the second and the last of these. It is held for as long as a write takes,
and no write fails because of it: where ``flock`` does not work (some network file systems),
or while whoever has it is stopped, writes go on without. An append is in one piece all the
same on a local file system, but its layout may be of an older size. Nor does a stock writer
take the lock.

Whoever waits for the lock cannot see who has it, but sees the file: while that grows, others
are at work, and the wait goes on. It ends after :data:`STALLED_SECONDS` without growth, or
after :data:`LOCK_SECONDS` in all, since beside one that is stopped others may write on
without the lock. Either costs the writer its patience: from there on each write looks at the
lock once, until it is to be had again.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from ..errors import ChannelError
from ..protocol.layout import lay_out
from .base import ChannelWriter, Guarantees

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

GUARANTEES = Guarantees(ordered=True, immediate=True, acknowledged=False, durable=False)

#: Faults that go away by themselves, or when somebody makes room.
_TRANSIENT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.EINTR})

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096

#: Seconds without growth of the file after which whoever has the lock is taken for stopped.
#: A write takes less than a millisecond; with eight busy processes beside 24 writers on two
#: processors, one that was not given a processor kept the others waiting for 0.2 s.
STALLED_SECONDS = 1.0
#: Seconds that one write waits at most. The longest wait that was seen while the file grew,
#: with 28 processes ready to run on those two processors, took 1.5 s.
LOCK_SECONDS = 5.0
#: Seconds between looks at the lock, doubled from look to look, so that many who wait leave
#: the processors to who has it; and, where others write too, between two writes of one
#: writer, who would otherwise have the lock again before anybody has looked.
_PAUSE, _LONGEST_PAUSE = 0.0001, 0.001
#: What counts of a pause: one that took longer was this process's own, who was stopped itself,
#: and whoever has the lock perhaps with it.
_LONGEST_LOOK = 0.1

#: Seconds in which a host tries to seal the file in its turn, among those who still write.
SEAL_SECONDS = 0.5
_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
#: How many links in a row Linux follows.
_MOST_LINKS = 40


def is_sealed(status: os.stat_result) -> bool:
    """Whether a host has said that it reads no more: nobody may write to the file."""
    return not status.st_mode & _WRITABLE


def seal(fd: int) -> None:
    """Say so, in no writer's middle. Blocks for :data:`SEAL_SECONDS` at most."""
    if os.name != "posix":
        return
    deadline = time.monotonic() + SEAL_SECONDS
    locked = False
    try:
        while not locked and time.monotonic() < deadline:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked = True
            except BlockingIOError:
                time.sleep(_PAUSE)
        os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) & ~_WRITABLE)
    except OSError:
        pass  # a file system without either, or somebody else's file
    finally:
        if locked:
            fcntl.flock(fd, fcntl.LOCK_UN)


def open_unfollowed(path: str, flags: int) -> int:
    """``os.open`` that follows a symbolic link only if root or this user has made it.

    A link that somebody else has placed, in a directory that others may write to, would
    lead to any file of this user's. Directories on the way are taken as they are.

    Raises:
        ChannelError: there is such a link.
        OSError: as ``os.open``.
    """
    try:
        return os.open(path, flags | _FLAGS | _NO_FOLLOW, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    _check_links(path)
    return os.open(path, flags | _FLAGS, 0o600)


def _check_links(path: str) -> None:
    link = path
    for _ in range(_MOST_LINKS):
        try:
            status = os.lstat(link)
        except FileNotFoundError:
            return  # opening it tells more
        if not stat.S_ISLNK(status.st_mode):
            return
        if status.st_uid not in (0, os.geteuid()):
            raise ChannelError(
                f"the messages file {path} is not opened: {link} is a symbolic link that belongs"
                f" to another user (uid {status.st_uid}). Remove it, or choose a path in a"
                " directory that only you may write to"
            )
        link = os.path.join(os.path.dirname(link), os.readlink(link))


class FileWriter(ChannelWriter):
    """Appends to the messages file (Dagster Pipes 0.1, ``{"path": ...}``).

    The file is the host's to create: one that is missing was removed, or is out of this
    process's reach, and nobody would read another.

    Args:
        path: the file.
        untearable: lay the lines out so that a stock host never reads half of one, and
            find out whether others have written before, who then sent ``opened``
            (:attr:`joined`): towards a stock host, which tells neither apart.
    """

    guarantees = GUARANTEES

    def __init__(self, path: str, *, untearable: bool = False) -> None:
        self._path = path
        self._untearable = untearable
        self._fd = -1
        self._opened: os.stat_result
        self._pid = 0
        self._readable = False
        self._lockable = fcntl is not None
        self._locked = False
        self._patient = True  # until whoever has the lock turns out to be stopped
        self._shared = False  # somebody else has written since the last time
        # Where the file ended after the last write: what is more now is another's.
        self._end = -1
        # What a write that stopped half way has left to do, from the start of a line on;
        # and how many bytes of that line are in the file.
        self._rest = b""
        self._begun = 0

    def open(self) -> None:
        """Open the file, and with ``untearable`` find out whether somebody was here before.

        If nobody was, the lock is kept until the first write or :meth:`close`: of several
        that open at once exactly one is not :attr:`joined`, and the others wait until it has
        written. They wait as :meth:`write` does, and then take the file as it is: none has joined
        a file that is empty.

        Raises:
            ChannelError: the file is missing or cannot be opened; names it.
        """
        try:
            if not os.path.isabs(self._path):
                self._path = os.path.join(os.getcwd(), self._path)  # in_fork() may be elsewhere
            if self._fd < 0:
                self._fd = self._open(self._path)
            self._opened = os.fstat(self._fd)
            self._pid = os.getpid()
            if self._untearable:
                self._lock()
                self.joined = os.fstat(self._fd).st_size > 0
                if self.joined:
                    self._unlock()
        except OSError as error:
            self.close()
            raise ChannelError(
                f"cannot open the messages file {self._path}: {error.strerror}. The host creates"
                " it before it starts a script: it must not be removed while the script runs, and"
                " this process must be able to reach it under the same path"
            ) from error

    def _open(self, path: str) -> int:
        follow = os.open if path != self._path else open_unfollowed
        try:
            fd = follow(path, os.O_RDWR | os.O_APPEND | _FLAGS)
        except PermissionError:
            return follow(path, os.O_WRONLY | os.O_APPEND | _FLAGS)
        self._readable = hasattr(os, "pread")
        return fd

    def write(self, lines: bytes) -> None:
        """Write complete lines in one piece, as :meth:`ChannelWriter.write` says.

        Beside other writers it waits for its turn: for :data:`LOCK_SECONDS` at most, or
        :data:`STALLED_SECONDS` where one was stopped in the middle of a write and nobody
        else writes. Then it goes on out of turn; nothing is lost, but a stock host may
        read half of a line.

        Raises:
            ChannelError: *transient* if the disk is full: nothing, or a part that a
                repeated call completes, is written. Otherwise the writer gives up what it
                had begun.
        """
        try:
            self._lock()
            try:
                self._append(self._rest or lines)
            finally:
                self._unlock()
        except OSError as error:
            transient = error.errno in _TRANSIENT
            if not transient:
                self._rest, self._begun = b"", 0
                self._end = -1  # a repeated call looks at what is there
            raise ChannelError(
                f"cannot write to the messages file {self._path}: {error.strerror}",
                transient=transient,
            ) from error

    def _append(self, lines: bytes) -> None:
        status = os.fstat(self._fd)
        size = status.st_size
        if is_sealed(status):
            raise ChannelError(
                f"nobody reads the messages file {self._path} any more: the host's session was over"
                " before this was reported. Such a session ends when all contexts that were opened"
                " have closed: open one for each script, or with until_finish=True"
            )
        self._shared = self._end not in (-1, size)
        start = self._begun
        if not start or self._shared:
            start = 0
            if size and size != self._end and not self._ends_a_line(size):
                lines = b"\n" + lines  # after half a line, whose writer did not come to its end
            if self._untearable:
                lines = lay_out(lines, size, _PAGE)
        at = start
        try:
            while at < len(lines):
                at += os.write(self._fd, memoryview(lines)[at:])
        finally:
            if at > start:
                whole = lines.rfind(b"\n", 0, at) + 1
                self._rest, self._begun = lines[whole:], at - whole
                self._end = size + at - start

    def _ends_a_line(self, size: int) -> bool:
        return not self._readable or os.pread(self._fd, 1, size - 1) == b"\n"

    def _lock(self) -> None:
        """Have the lock, or go on without it where there is none or another one keeps it."""
        if not self._lockable or self._locked:
            return
        if self._shared:
            time.sleep(_PAUSE)
        if self._is_taken() and self._patient:
            self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        size, pause = os.fstat(self._fd).st_size, _PAUSE
        waited = still = 0.0
        while self._patient:
            began = time.monotonic()
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            if not self._is_taken():
                break
            passed = min(time.monotonic() - began, _LONGEST_LOOK)
            waited, still = waited + passed, still + passed
            if (grown := os.fstat(self._fd).st_size) != size:
                size, still = grown, 0.0
            self._patient = still < STALLED_SECONDS and waited < LOCK_SECONDS

    def _is_taken(self) -> bool:
        """Try to have the lock; whether another one has it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._locked = self._patient = True
        except BlockingIOError:
            return True
        except OSError:
            self._lockable = False
        return False

    def _unlock(self) -> None:
        if self._locked:
            self._locked = False
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._fd < 0:
            return
        try:
            # A fork that has not closed its copy would keep the lock; and must not end it.
            if self._pid == os.getpid():
                self._unlock()
        finally:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def in_fork(self) -> FileWriter:
        """A writer of the fork's own; closing the inherited descriptor unlocks nothing.

        It has the file open already where the system can open it anew by its descriptor
        (Linux): the fork may be about to lose the right to do so, or the file its name.
        """
        fd, self._fd = self._fd, -1
        own = FileWriter(self._path, untearable=self._untearable)
        try:
            # A daemon has closed all it inherited, and has its own under those numbers.
            if fd >= 0 and os.path.samestat(os.fstat(fd), self._opened):
                try:
                    own._fd = own._open(f"/proc/self/fd/{fd}")
                    own._opened = self._opened  # for the forks of this one
                finally:
                    os.close(fd)
        except OSError:
            pass  # it is closed, or there is no /proc: opening it by its path tells more
        return own
