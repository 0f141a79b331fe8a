"""What a channel is: a host's reader, a script's writer, and what they promise.

The reader lives on the host's event loop, the writer in the script's outbox
thread; they meet in the *messages params*, the JSON object that the host puts
into the bootstrap and from which the script makes its writer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ChannelError


@dataclass(frozen=True, slots=True)
class Guarantees:
    """What a channel promises about bytes that a write has returned for.

    Attributes:
        ordered: they arrive in the order they were written.
        immediate: they are out of the process: it may crash and they arrive all the same.
            The call that reports a result waits for that, on an event loop's thread too:
            for what was reported before it, and then for its own write. So a write takes
            a system call's time and not a network's, and waits for other writers for a
            bounded time at most: at a file, 5 s (``file_writer.LOCK_SECONDS``).
        acknowledged: the other end has confirmed them.
        durable: they survive a crash of the host.
    """

    ordered: bool
    immediate: bool
    acknowledged: bool
    durable: bool


class ChannelWriter(ABC):
    """The script's end. Used by one thread at a time, which may block in it.

    Making one does no I/O; :meth:`open` does.
    """

    guarantees: Guarantees

    #: The most bytes that one write should carry.
    batch_bytes: int = 1024 * 1024

    #: Whether, by the time of :meth:`open`, another process or context had written to the
    #: channel. Protocol 0.1 has one ``opened`` and one ``closed`` for a channel: towards a
    #: stock host, a writer that has joined others sends neither.
    joined: bool = False

    def open(self) -> None:
        """Make ready for writing.

        Raises:
            ChannelError: it cannot be; names what and says what to do.
        """

    def opened_extras(self) -> Mapping[str, Any]:
        """What the ``opened`` message carries under ``extras``."""
        return {}

    @abstractmethod
    def write(self, lines: bytes) -> None:
        """Write complete lines, each with its newline; block until that is done.

        After a *transient* :exc:`ChannelError` the caller may call again with
        the very same bytes: the writer goes on where it stopped, and writes
        nothing twice.

        Raises:
            ChannelError: some or all of the bytes are not written.
        """

    @abstractmethod
    def close(self) -> None:
        """Release everything, also after a failed write. Idempotent."""

    def in_fork(self) -> ChannelWriter:
        """The same channel for a forked process: a writer of its own, not opened yet.

        Called there, in the place of :meth:`close`: it releases what this process has
        inherited, and leaves alone what the parent goes on using. The threads of the
        parent are gone, and whatever locks they held stay locked.

        Raises:
            ChannelError: this channel cannot be written from a fork, which is the default.
        """
        raise ChannelError(
            f"{type(self).__name__} cannot be used from a forked process: open pipes in the"
            " worker itself, or report from the process that opened them"
        )


class ChannelReader(ABC):
    """The host's end. Lives on one event loop, used by one task at a time."""

    #: Whether the host may offer its extensions of protocol 0.1 to the script: not where
    #: somebody else reads the messages first, who would choke on them.
    extensible: bool = True

    @property
    @abstractmethod
    def params(self) -> Mapping[str, Any]:
        """The messages params that lead a script's writer here."""

    @abstractmethod
    async def read(self) -> bytes:
        """Wait for bytes and return them, at most about 1 MiB.

        Cancelling it loses nothing: the next call returns what this one would have.

        Raises:
            ChannelError: the channel cannot be read any more.
        """

    @abstractmethod
    async def read_available(self) -> bytes:
        """Return bytes that are there now, or ``b""`` at the present end.

        Like :meth:`read`, but it never waits for a script.
        """

    async def backlog(self) -> int | None:
        """Bytes that are there now and have not been returned; None if nobody can tell.

        A session reads as many when its script has ended. A channel that cannot tell is
        read until it is empty, which others that go on writing may put off.
        """
        return None

    async def settle(self) -> None:
        """The script has ended: wait until all that it has written can be read here.

        Called once, before the session reads to the end. For a channel on which that takes
        its time; the default returns at once.

        Raises:
            ChannelError: some of it never will be.
        """
        return

    async def seal(self) -> None:
        """Reading is about to end: have what a script writes from now on fail, if that can be.

        What was written before is read after this; so nothing that a script believes to be
        written is lost in silence. Best effort: the default does nothing.
        """
        return

    @abstractmethod
    async def aclose(self) -> None:
        """Release everything. Idempotent; safe to call while cancelled."""


class Channel(ABC):
    """A way for messages, as the host asks for it. Holds settings only.

    One object may serve any number of sessions, unless it says otherwise.
    """

    guarantees: Guarantees

    @abstractmethod
    async def open_reader(self) -> ChannelReader:
        """Create what has to be there before a script starts, and return the host's end.

        Raises:
            ChannelError: it cannot be created; names what and says what to do.
        """
