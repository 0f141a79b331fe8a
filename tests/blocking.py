"""A blocking call on an event loop's thread, made by this library, fails the test it is made in.

Blocking is what ``blockbuster`` knows as such: ``time.sleep``, the calls of ``os`` that
go to a disk, reads and writes of files, pipes and blocking sockets, ``Lock.acquire`` of
a lock that is held; and ``SimpleQueue.get`` of an empty queue, by which the outbox and
its callers wait for each other. It counts where a loop runs in the calling thread and asyncpipes is
among the callers, so what a test does by itself does not count. The call raises
``BlockingError``; one that is swallowed on its way fails the test all the same.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

import blockbuster.blockbuster
from blockbuster import BlockBuster, BlockBusterFunction, BlockingError

T = TypeVar("T")


class Allowed(NamedTuple):
    """A function that may block on a loop's thread, with all that it calls."""

    file: str
    function: str
    reason: str


#: What of this library may block there, and why.
ALLOWED = (
    Allowed(
        "asyncpipes/external/connection.py",
        "_load",
        "Entering a context reads the bootstrap and opens local files: once, for"
        " milliseconds, as documented. What a user gives, which may talk to a server, is"
        " entered in a thread.",
    ),
    Allowed(
        "asyncpipes/external/connection.py",
        "__exit__",
        "A plain `with` inside a loop blocks until the channel is closed; that is what it is.",
    ),
    Allowed(
        "asyncpipes/external/connection.py",
        "close",
        "A plain call that returns when the channel is closed, and says so.",
    ),
    Allowed(
        "asyncpipes/external/outbox.py",
        "_put_written",
        "A result on an immediate channel is written when its call returns, so that it"
        " survives an os._exit: the caller waits until the outbox has written it, and all that"
        " was reported before it, each write in its turn at the file, for which it waits while"
        " others write, and for `file_writer.LOCK_SECONDS` at most. A fork's first report does"
        " so whatever it is, a log too: once in each fork.",
    ),
    Allowed(
        "asyncpipes/channels/finishing.py",
        "without_thread",
        "When the interpreter's main thread has ended there are no threads any more.",
    ),
    Allowed(
        "asyncpipes/dagster/client.py",
        "_run_blocking",
        "The sync client blocks until the script has ended; that is what it is.",
    ),
)

#: What the interpreter does in one way for everybody, and what tests do for themselves.
_NOT_OURS = (
    # Importing a module, or a codec, for the first time reads files.
    ("importlib/_bootstrap.py", "_find_and_load"),
    ("<frozen importlib._bootstrap>", "_find_and_load"),
    # Starting a process; there is no other way.
    ("subprocess.py", "_execute_child"),
    # A logger's handlers are its owner's; pytest has one that writes to /dev/null.
    ("logging/__init__.py", "emit"),
    # What measures coverage takes a lock when a thread first runs a file; see its
    # Collector (before 7.17.5).
    ("coverage/collector.py", "lock_data"),
    ("tests/blocking.py", "by_the_test"),
    # Dagster's connections, closed by the garbage collector wherever that runs.
    ("sqlalchemy/pool/base.py", "_finalize_fairy"),
)


def _has_something(queue: SimpleQueue[object], *args: object, **options: object) -> bool:
    return not queue.empty()


class Guard:
    """Off when made. One serves any number of tests; its cost is 0.2 ms for each."""

    def __init__(self, allowed: Sequence[Allowed] = ALLOWED) -> None:
        self._calls: list[str] = []
        self._blockbuster = BlockBuster("asyncpipes")
        self._blockbuster.functions["queue.SimpleQueue.get"] = BlockBusterFunction(
            SimpleQueue, "get", scanned_modules="asyncpipes", can_block_predicate=_has_something
        )
        for function in self._blockbuster.functions.values():
            for file, name in (*_NOT_OURS, *(each[:2] for each in allowed)):
                function.can_block_in(file, name)

    @contextmanager
    def on(self) -> Generator[None, None, None]:
        """Blocking calls raise in here, and leaving fails if there was one."""
        calls = self._calls

        class Recorded(BlockingError):
            def __init__(self, function: str) -> None:
                super().__init__(function)
                calls.append("".join(traceback.format_stack(limit=12)[:-2]) + str(self))

        calls.clear()
        original = blockbuster.blockbuster.BlockingError
        blockbuster.blockbuster.BlockingError = Recorded  # type: ignore[assignment,misc]  # made by name
        self._blockbuster.activate()
        try:
            yield
        finally:
            self._blockbuster.deactivate()
            blockbuster.blockbuster.BlockingError = original  # type: ignore[misc]  # as it was
        assert not calls, "\n\n".join(["the event loop was blocked", *calls])

    def taken(self) -> list[str]:
        """The blocking calls until now, which no longer fail the test."""
        calls = self._calls.copy()
        self._calls.clear()
        return calls


def by_the_test(call: Callable[[], T]) -> T:
    """Call what is the test's own doing, though asyncpipes is among the callers."""
    return call()
