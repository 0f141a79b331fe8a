"""Lanes: work that blocks, in a thread of its own, one thing after the other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from anyio import move_on_after

from ..channels.finishing import outlast

T = TypeVar("T")


class Lane(Generic[T]):
    """A thread, and a bounded queue in front of it. Belongs to one event loop.

    The thread is made with the first item, and is not waited for when the interpreter ends:
    what blocks for ever must not keep the program.

    Args:
        name: the thread's.
        work: called in the thread with the items that wait, in order. What it raises is
            recorded, and the next ones follow.
        limit: items that may wait.
        at_most: items for one call.

    Attributes:
        error: the first exception of ``work``.
        failed: how often it raised.
    """

    def __init__(
        self, name: str, work: Callable[[list[T]], None], *, limit: int, at_most: int = 1
    ) -> None:
        self.error: Exception | None = None
        self.failed = 0
        self._name = name
        self._work = work
        self._limit = limit
        self._at_most = at_most
        # Neither end of it blocks the loop, and a thread may wait at the other.
        self._items: SimpleQueue[T | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._left = 0  # items that are not done, as far as the loop has been told
        self._is_done = asyncio.Event()
        self._drained: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None

    @property
    def is_full(self) -> bool:
        """Whether as many items wait as may."""
        return self._items.qsize() >= self._limit

    def offer(self, item: T) -> bool:
        """Queue an item, unless the lane is full; whether it was taken."""
        if self.is_full:
            return False
        self.force(item)
        return True

    async def put(self, item: T) -> None:
        """Queue an item as soon as there is room. Cancelled while it waits, it has not."""
        while self.is_full:
            self._room.clear()
            if self.is_full:
                await self._room.wait()
        self.force(item)

    def force(self, item: T) -> None:
        """Queue an item even if the lane is full."""
        if self._ended is None:
            self._ended = self._loop.create_future()
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        self._left += 1
        self._is_done.clear()
        self._items.put(item)

    async def settle(self, seconds: float) -> bool:
        """Wait until all of it is done, for so long at most; whether it is."""
        with move_on_after(seconds):
            if self._left:
                await self._is_done.wait()
        return not self._left

    async def drain(self) -> None:
        """Wait until all of it is done, through a cancellation, which is raised then."""
        if self._left:
            self._drained = self._loop.create_future()
            cancelled = await outlast(self._drained)
            if cancelled is not None:
                raise cancelled

    def cut(self) -> list[T]:
        """Take back all that still waits."""
        items: list[T] = []
        while True:
            try:
                item = self._items.get_nowait()
            except Empty:
                self._count(len(items))
                return items
            if item is not None:
                items.append(item)

    async def close(self) -> None:
        """Have all of it done, and the thread end; waited for through a cancellation."""
        self.let_go()
        if self._ended is not None:
            cancelled = await outlast(self._ended)
            if cancelled is not None:
                raise cancelled

    def let_go(self) -> None:
        """The thread ends when all is done; nobody waits for that."""
        if self._ended is not None:
            self._items.put(None)

    def _run(self) -> None:
        open_ended = True
        while open_ended:
            items, open_ended = self._take()
            if items:
                try:
                    self._work(items)
                except Exception as error:  # of whoever does the work: told by `error`
                    self.error = self.error or error
                    self.failed += 1
            self._tell(partial(self._count, len(items)))
            if self._items.qsize() <= self._limit // 2:
                self._tell(self._room.set)
        self._tell(self._end)

    def _take(self) -> tuple[list[T], bool]:
        items: list[T] = []
        item = self._items.get()
        while item is not None:
            items.append(item)
            if len(items) == self._at_most or self._items.empty():
                return items, True
            item = self._items.get()
        return items, False

    def _tell(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            pass  # the loop is closed: nobody waits

    def _count(self, done: int) -> None:
        self._left -= done
        if not self._left:
            self._is_done.set()
            if self._drained is not None and not self._drained.done():
                self._drained.set_result(None)

    def _end(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
