"""The file channel: a script appends lines to a file, the host follows it.

The default of Dagster's subprocess client and of ours. An append is in the
kernel when the write returns, so what was reported survives whatever happens to
the script; ``file_writer`` has that end. The host's reads run in worker threads
(aiofiles); between them it waits for inotify where that works and polls where it
cannot (see ``watching``). It reads the file that it has created: when somebody removes
that, those who have opened it go on, and a script that opens it later is told.

Scripts import this module too: the reader's libraries are loaded when a host opens it.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ChannelError
from .base import Channel, ChannelReader
from .file_writer import GUARANTEES, FileWriter, open_unfollowed, seal
from .finishing import outlast, to_its_end, without_thread

if TYPE_CHECKING:
    from aiofiles.threadpool.binary import AsyncFileIO

    from .watching import FileWatcher

__all__ = ["INCLUDE_STDIO_KEY", "PATH_KEY", "FileChannel", "FileWriter", "Watch"]

PATH_KEY = "path"
INCLUDE_STDIO_KEY = "include_stdio_in_messages"

#: One hop to a worker thread costs about 0.1 ms; a MiB of messages costs far more to
#: decode, and bounds what a session holds in hand.
READ_BYTES = 1024 * 1024

Watch = Literal["auto", "inotify", "poll"]

#: A FIFO must not block, nor a terminal become this process's own, before either is refused.
_CREATE = os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


class FileChannel(Channel):
    """Messages through a file that the host follows.

    Args:
        path: the file. By default one in a fresh temporary directory of mode 0700.
            A file that is there already is emptied, as the stock reader does; what is no
            regular file is refused. A symbolic link is followed only if root or this user
            has made it. A new file has mode 0600.
        include_stdio_in_messages: ask the script to copy its stdout and stderr
            into the channel.
        cleanup_file: remove the file when the session ends, unless another one stands in
            its place by then, and the temporary directory with it. False keeps them, for a
            look at the wire.
        watch: ``"auto"`` wakes by inotify on local file systems and polls on
            others; ``"inotify"`` and ``"poll"`` insist on one of them.
        poll_interval: seconds between looks at the file when polling: at once
            after data came, growing up to this while nothing does.
    """

    guarantees = GUARANTEES

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
        self._created: os.stat_result | None = None
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
            fd = open_unfollowed(self._path, os.O_RDONLY)
            self._file = wrap(open(fd, "rb", buffering=0))  # noqa: SIM115  # closed by aclose()
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
            self._create_or_empty()
        except OSError as error:
            where = self._path or "a temporary directory"
            raise ChannelError(
                f"cannot create the messages file {where}: {error.strerror}. Choose another path"
                " with FileChannel(path), or another temporary directory with TMPDIR"
            ) from error

    def _create_or_empty(self) -> None:
        fd = open_unfollowed(self._path, _CREATE)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ChannelError(
                    f"cannot use {self._path} as the messages file: it is no regular file."
                    " Choose another path with FileChannel(path)"
                )
            os.ftruncate(fd, 0)
            self._created = status
        finally:
            os.close(fd)

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
        was_begun_before = self._reading is not None
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._file.read(READ_BYTES))
        reading = self._reading
        await asyncio.wait([reading])  # which leaves it running when cancelled
        self._reading = None
        try:
            data = reading.result()
        except RuntimeError:
            file = self._file._file  # type: ignore[attr-defined]  # the file itself
            data = without_thread(file.read, READ_BYTES)
        except OSError as error:
            raise ChannelError(
                f"cannot read the messages file {self._path}: {error.strerror}"
            ) from error
        if was_begun_before and not data:
            # That was the end when it was begun; what matters is whether it is now.
            return await self.read_available()
        self._position += len(data)
        return data

    async def backlog(self) -> int:
        assert self._file is not None, "backlog() before open()"
        status = await to_its_end(os.fstat, self._file.fileno())
        return max(status.st_size - self._position, 0)

    async def seal(self) -> None:
        assert self._file is not None, "seal() before open()"
        await to_its_end(seal, self._file.fileno())

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
        created, self._created = self._created, None
        if not self._channel.cleanup_file:
            if created is not None:
                with suppress(OSError):
                    os.chmod(self._path, stat.S_IMODE(created.st_mode))
            return
        if directory is not None:
            import shutil

            shutil.rmtree(directory, ignore_errors=True)
        elif created is not None:
            try:
                if os.path.samestat(created, os.stat(self._path)):
                    os.unlink(self._path)
            except FileNotFoundError:
                pass  # somebody else removed it already
