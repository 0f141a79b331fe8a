"""Waiting for a file to grow: inotify where it works, polling where it cannot.

inotify tells of writes by processes of this machine; on network file systems the
other machine's writes pass it by, so there the file is looked at instead. Wake-up
takes 0.1 to 0.2 ms by inotify and about half the interval by polling.

One inotify instance serves an event loop, however many files it follows: the
kernel allows 128 instances a user by default, and a host may run 1,000 sessions.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import struct
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from anyio import to_thread

from ..errors import ChannelError

if TYPE_CHECKING:
    from .file import Watch

# <linux/inotify.h>
_IN_MODIFY = 0x002
_IN_Q_OVERFLOW = 0x4000
_IN_NONBLOCK = 0o4000
_IN_CLOEXEC = 0o2000000
_EVENT = struct.Struct("iIII")

# How the kernel writes a blank or a backslash in a mount point.
_OCTAL = re.compile(rb"\\([0-7]{3})")

#: The first look after data came, in seconds; it doubles up to the poll interval.
_FIRST_POLL = 0.001

#: File systems whose files other machines may write to, as /proc/self/mountinfo names
#: them; fuse.* is treated as one of them, since nobody can tell.
_REMOTE = frozenset(
    "9p afs beegfs ceph cifs coda drvfs fuse glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs"
    " prl_fs smb3 smbfs vboxsf virtiofs vmhgfs".split()
)


class FileWatcher(ABC):
    """Tells that a file may have grown. It may tell so in vain, never too seldom."""

    def arm(self) -> None:
        """From here on growth counts: call it before the read that finds nothing."""

    @abstractmethod
    async def wait(self, misses: int) -> None:
        """Return when the file may have grown since :meth:`arm`. Safe to cancel.

        ``misses`` counts the looks before this one that found nothing, from 0.
        """

    async def aclose(self) -> None:
        """Stop watching. Idempotent."""


async def open_watcher(path: str, watch: Watch, poll_interval: float) -> FileWatcher:
    """Watch ``path`` in the way that ``watch`` asks for.

    Raises:
        ChannelError: ``watch="inotify"``, and this machine has no inotify for it.
    """
    if watch == "poll":
        return PollingWatcher(poll_interval)
    if watch == "auto" and not await to_thread.run_sync(inotify_can_see, path):
        return PollingWatcher(poll_interval)
    try:
        return InotifyWatcher.open(path)
    except OSError as error:
        if watch == "auto":  # the user's instances or watches are used up: look instead
            return PollingWatcher(poll_interval)
        raise ChannelError(
            f"inotify cannot watch {path}: {error.strerror}; use watch='poll'"
        ) from error


class PollingWatcher(FileWatcher):
    """Looks again after a while, which doubles as long as nothing comes."""

    def __init__(self, interval: float) -> None:
        self._interval = interval

    async def wait(self, misses: int) -> None:
        # 2**20 ms is past any interval, and the power must not grow without end.
        await asyncio.sleep(min(_FIRST_POLL * 2 ** min(misses, 20), self._interval))


class InotifyWatcher(FileWatcher):
    """A flag that the loop's inotify instance sets."""

    def __init__(self, hub: _Inotify, path: str) -> None:
        self._hub = hub
        self._path = path
        self.grown = asyncio.Event()
        self._descriptor: int | None = None

    @classmethod
    def open(cls, path: str) -> InotifyWatcher:
        """Start watching ``path``, for use on the running loop.

        Raises:
            OSError: no inotify here, or the user's instances or watches are used up.
        """
        hub = _Inotify.of_running_loop()
        watcher = cls(hub, path)
        watcher._descriptor = hub.add(path, watcher.grown)
        return watcher

    def arm(self) -> None:
        self.grown.clear()

    async def wait(self, misses: int) -> None:
        await self.grown.wait()

    async def aclose(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._hub.remove(descriptor, self.grown)


class _Inotify:
    """One inotify instance of one event loop, shared by all its watchers.

    It is opened with the first watch and closed with the last.
    """

    # An instance holds its loop, so it is in here only while somebody uses it.
    _instances: ClassVar[dict[asyncio.AbstractEventLoop, _Inotify]] = {}

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._fd = -1
        self._users = 0
        self._flags: dict[int, set[asyncio.Event]] = {}

    @classmethod
    def of_running_loop(cls) -> _Inotify:
        loop = asyncio.get_running_loop()
        found = cls._instances.get(loop)
        if found is None:
            found = cls._instances[loop] = cls(loop)
        return found

    def add(self, path: str, flag: asyncio.Event) -> int:
        self._users += 1
        try:
            if self._fd < 0:
                self._fd = _call("inotify_init1", _IN_NONBLOCK | _IN_CLOEXEC)
                self._loop.add_reader(self._fd, self._readable)
            # Not in a thread: the file is open already, so that its path is in the kernel's
            # cache; and no other watch can come or go in the middle of this.
            descriptor = _call("inotify_add_watch", self._fd, os.fsencode(path), _IN_MODIFY)
        except BaseException:
            self._release()
            raise
        # The kernel gives one descriptor for one file, so several may share it.
        self._flags.setdefault(descriptor, set()).add(flag)
        return descriptor

    def remove(self, descriptor: int, flag: asyncio.Event) -> None:
        flags = self._flags[descriptor]
        flags.discard(flag)
        if not flags:
            del self._flags[descriptor]
            try:
                _call("inotify_rm_watch", self._fd, descriptor)
            except OSError:
                pass  # the file is gone, and the kernel removed its watch with it
        self._release()

    def _release(self) -> None:
        self._users -= 1
        if self._users:
            return
        self._instances.pop(self._loop, None)
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if not self._loop.is_closed():
                self._loop.remove_reader(fd)
            os.close(fd)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            descriptor, mask, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size + length
            if mask & _IN_Q_OVERFLOW:  # events were lost: any file may have grown
                for flags in self._flags.values():
                    _set_all(flags)
            else:
                _set_all(self._flags.get(descriptor, set()))


def _set_all(flags: set[asyncio.Event]) -> None:
    for flag in flags:
        flag.set()


def _call(function: str, *arguments: int | bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = getattr(libc, function)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)


def inotify_can_see(path: str, mounts: str = "/proc/self/mountinfo") -> bool:
    """Whether all writes to ``path`` happen in this machine's kernel, and it is Linux.

    Decided by the type of the file system that holds it, as ``mounts`` tells;
    where that cannot be read, the answer is no.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        lines = Path(mounts).read_bytes().splitlines()
        real = os.fsencode(os.path.realpath(path))
    except OSError:
        return False
    best, kind = b"", ""
    for line in lines:
        # See proc(5): field 5 is the mount point, the type follows a lone hyphen.
        fields = line.split(b" ")
        if len(fields) < 5 or b"-" not in fields[6:-1]:
            continue
        point = _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), fields[4])
        inside = real == point or real.startswith(point.rstrip(b"/") + b"/")
        if inside and len(point) >= len(best):  # of two on one point the later covers the other
            best, kind = point, fields[fields.index(b"-", 6) + 1].decode("ascii", "replace")
    return bool(kind) and kind.split(".")[0] not in _REMOTE
