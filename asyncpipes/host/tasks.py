"""The tasks of a session, which the shut-down of a loop may cancel before they begin."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from anyio.abc import TaskGroup


class Tasks:
    """Starts tasks in a group. :meth:`close` is for when the group has ended.

    A loop that is shut down cancels all tasks at once, new ones too. Of those the
    coroutines never run, and Python complains about each ("was never awaited").
    """

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self._not_begun: set[Coroutine[Any, Any, None]] = set()

    def start(
        self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any, name: str
    ) -> None:
        """Run ``function(*args)`` in a task of the group."""

        async def run() -> None:
            self._not_begun.discard(coroutine)
            await function(*args)

        coroutine = run()
        self._not_begun.add(coroutine)
        self._group.start_soon(lambda: coroutine, name=name)

    def cancel(self) -> None:
        """Cancel the whole group."""
        self._group.cancel_scope.cancel()

    def close(self) -> None:
        """Let go of what never ran. Idempotent."""
        while self._not_begun:
            self._not_begun.pop().close()
