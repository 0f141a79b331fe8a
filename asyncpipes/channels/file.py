"""The file channel: a script appends lines to a file, the host follows it.

The default of Dagster's subprocess client and of ours. An append is in the
kernel when the write returns, so what was reported survives whatever happens to
the script. The host's reads run in worker threads (aiofiles); between them it
waits for inotify where that works and polls where it cannot (see ``watching``).

Only the writer is imported by scripts: the reader's libraries are loaded when a
host opens it.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ChannelError
from .base import Channel, ChannelReader, ChannelWriter, Guarantees
from .finishing import outlast, to_its_end

if TYPE_CHECKING:
    from aiofiles.threadpool.binary import AsyncFileIO

    from .watching import FileWatcher

PATH_KEY = "path"
INCLUDE_STDIO_KEY = "include_stdio_in_messages"

_GUARANTEES = Guarantees(ordered=True, immediate=True, acknowledged=False, durable=False)

#: One hop to a worker thread costs about 0.1 ms; a MiB of messages costs far more to
#: decode, and bounds what a session holds in hand.
READ_BYTES = 1024 * 1024

#: Faults that go away by themselves, or when somebody makes room.
_TRANSIENT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.EINTR})

Watch = Literal["auto", "inotify", "poll"]


class FileWriter(ChannelWriter):
    """Appends to the messages file (Dagster Pipes 0.1, ``{"path": ...}``)."""

    guarantees = _GUARANTEES

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        # How much of a batch whose write failed is in the file already.
        self._written = 0

    def open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        try:
            self._fd = os.open(self._path, flags | getattr(os, "O_CLOEXEC", 0), 0o600)
        except OSError as error:
            raise ChannelError(
                f"cannot open the messages file {self._path}: {error.strerror}. The host creates"
                " it and must be able to reach it under the same path as this process"
            ) from error

    def write(self, lines: bytes) -> None:
        try:
            if not self._written:
                self._written = os.write(self._fd, lines)
            while self._written < len(lines):
                self._written += os.write(self._fd, memoryview(lines)[self._written :])
        except OSError as error:
            raise ChannelError(
                f"cannot write to the messages file {self._path}: {error.strerror}",
                transient=error.errno in _TRANSIENT,
            ) from error
        self._written = 0

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class FileChannel(Channel):
    """Messages through a file that the host follows.

    Args:
        path: the file. By default one in a fresh temporary directory of mode 0700.
            A file that is there already is emptied, as the stock reader does.
        include_stdio_in_messages: ask the script to copy its stdout and stderr
            into the channel.
        cleanup_file: remove the file when the session ends, and the temporary directory
            with it. False keeps them, for a look at the wire.
        watch: ``"auto"`` wakes by inotify on local file systems and polls on
            others; ``"inotify"`` and ``"poll"`` insist on one of them.
        poll_interval: seconds between looks at the file when polling: at once
            after data came, growing up to this while nothing does.
    """

    guarantees = _GUARANTEES

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        include_stdio_in_messages: bool = False,
        cleanup_file: bool = True,
        watch: Watch = "auto",
        poll_interval: float = 0.01,
    ) -> None:
        self.path = None if path is None else os.fspath(path)
        self.include_stdio_in_messages = include_stdio_in_messages
        self.cleanup_file = cleanup_file
        self.watch = watch
        self.poll_interval = poll_interval

    async def open_reader(self) -> ChannelReader:
        reader = _FileReader(self)
        try:
            await reader.open()
        except BaseException:
            await reader.aclose()
            raise
        return reader


class _FileReader(ChannelReader):
    def __init__(self, channel: FileChannel) -> None:
        self._channel = channel
        self._path = channel.path or ""
        self._directory: str | None = None
        self._created = False
        self._file: AsyncFileIO | None = None
        self._position = 0  # how much of the file has been returned
        # A read in a thread cannot be taken back: its bytes are returned by whoever
        # asks next, if the one who began it was cancelled.
        self._reading: asyncio.Future[bytes] | None = None
        self._watcher: FileWatcher | None = None

    @property
    def params(self) -> Mapping[str, Any]:
        return {
            PATH_KEY: self._path,
            INCLUDE_STDIO_KEY: self._channel.include_stdio_in_messages,
        }

    async def open(self) -> None:
        from .watching import open_watcher

        # What a thread has created must be known here, so that aclose() can remove it.
        await to_its_end(self._create)
        await to_its_end(self._open_file)
        self._watcher = await open_watcher(
            self._path, self._channel.watch, self._channel.poll_interval
        )

    def _open_file(self) -> None:
        from aiofiles.threadpool import wrap

        try:
            self._file = wrap(open(self._path, "rb", buffering=0))  # noqa: SIM115  # closed by aclose()
        except OSError as error:
            raise ChannelError(
                f"cannot read the messages file {self._path}: {error.strerror}"
            ) from error

    def _create(self) -> None:
        try:
            if self._channel.path is None:
                import tempfile

                self._directory = tempfile.mkdtemp(prefix="asyncpipes-")  # mode 0700
                self._path = os.path.join(self._directory, "messages")
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
            os.close(os.open(self._path, flags, 0o600))
            self._created = True
        except OSError as error:
            where = self._path or "a temporary directory"
            raise ChannelError(
                f"cannot create the messages file {where}: {error.strerror}. Choose another path"
                " with FileChannel(path), or another temporary directory with TMPDIR"
            ) from error

    async def read(self) -> bytes:
        assert self._watcher is not None, "read() before open()"
        misses = 0
        while True:
            self._watcher.arm()
            data = await self.read_available()
            if data:
                return data
            await self._watcher.wait(misses)
            misses += 1

    async def read_available(self) -> bytes:
        assert self._file is not None, "read_available() before open()"
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._file.read(READ_BYTES))
        reading = self._reading
        await asyncio.wait([reading])  # which leaves it running when cancelled
        self._reading = None
        try:
            data = reading.result()
        except OSError as error:
            raise ChannelError(
                f"cannot read the messages file {self._path}: {error.strerror}"
            ) from error

        self._position += len(data)
        return data

    async def backlog(self) -> int:
        assert self._file is not None, "backlog() before open()"
        status = await asyncio.to_thread(os.fstat, self._file.fileno())
        return max(status.st_size - self._position, 0)

    async def aclose(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            await watcher.aclose()
        reading, self._reading = self._reading, None
        cancelled = None
        if reading is not None:
            cancelled = await outlast(reading)
            if not reading.cancelled():
                reading.exception()  # nobody asks for it any more
        await to_its_end(self._release)
        if cancelled is not None:
            raise cancelled

    def _release(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file._file.close()  # type: ignore[attr-defined]  # the file itself: this is a thread
        directory, self._directory = self._directory, None
        created, self._created = self._created, False
        if not self._channel.cleanup_file:
            return
        if directory is not None:
            import shutil

            shutil.rmtree(directory, ignore_errors=True)
        elif created:
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass  # somebody else removed it already
