"""A channel inside one process: for tests, and for scripts run as functions.

It takes no params through the environment: hand ``channel.writer()`` to
``open_pipes(message_writer=...)`` in the same process.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from ..errors import ChannelError
from .base import Channel, ChannelReader, ChannelWriter, Guarantees

_GUARANTEES = Guarantees(ordered=True, immediate=True, acknowledged=False, durable=False)

#: Bytes that may wait for the reader: what the outbox itself holds by default.
DEFAULT_MAX_BYTES = 64 * 1024 * 1024


class MemoryChannel(Channel):
    """Bytes handed over inside one process. One object serves one session.

    Args:
        max_bytes: how much may wait for the reader. Above it a write fails as
            *transient*, so the outbox tries again: it cannot block, because
            reader and script may share a thread.
    """

    guarantees = _GUARANTEES

    def __init__(self, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._pipe = _Pipe(max_bytes)

    async def open_reader(self) -> ChannelReader:
        self._pipe.attach(asyncio.get_running_loop())
        return _MemoryReader(self._pipe)

    def writer(self) -> ChannelWriter:
        """The script's end; any number of them may write at once."""
        return _MemoryWriter(self._pipe)


class _Pipe:
    """The bytes under way, and the wake-up of the loop that reads them."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gone = False
        self.filled = asyncio.Event()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            if self._loop is not None or self._gone:
                raise ChannelError(
                    "this MemoryChannel has had a reader: make one channel for each session"
                )
            self._loop = loop

    def detach(self) -> None:
        """The reader goes, and what it has not taken goes with it."""
        with self._lock:
            self._gone = True
            self._loop = None
            self._chunks.clear()
            self._size = 0

    def put(self, data: bytes) -> None:
        with self._lock:
            # An empty pipe takes anything, so that no single line is too large for it.
            if self._size and self._size + len(data) > self._max_bytes:
                raise ChannelError(
                    f"the memory channel holds {self._size} bytes that nobody has read",
                    transient=True,
                )
            if self._gone or (self._loop is not None and self._loop.is_closed()):
                raise ChannelError(
                    "the memory channel's reader is gone: its session is over, and nobody will"
                    " read this"
                )
            self._chunks.append(data)
            self._size += len(data)
            if self._loop is not None:
                try:
                    self._loop.call_soon_threadsafe(self.filled.set)
                except RuntimeError:
                    pass  # the loop was closed this moment: the next write will say so

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return self._size

    def take(self) -> bytes:
        with self._lock:
            self.filled.clear()
            if not self._chunks:
                return b""
            data = self._chunks.popleft()
            self._size -= len(data)
            if self._chunks:
                self.filled.set()
            return data


class _MemoryWriter(ChannelWriter):
    guarantees = _GUARANTEES

    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe

    def write(self, lines: bytes) -> None:
        self._pipe.put(lines)

    def close(self) -> None:
        pass


class _MemoryReader(ChannelReader):
    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe

    @property
    def params(self) -> Mapping[str, Any]:
        return {}

    async def read(self) -> bytes:
        while not (data := self._pipe.take()):
            await self._pipe.filled.wait()
        return data

    async def read_available(self) -> bytes:
        return self._pipe.take()

    async def backlog(self) -> int:
        return self._pipe.size

    async def aclose(self) -> None:
        self._pipe.detach()
