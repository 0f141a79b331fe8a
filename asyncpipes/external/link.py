"""The link to the host: a channel's writer, its outbox, and how both begin and end on the wire.

Towards a host of ours each writer tells its own life: ``opened`` with its process, a
heartbeat, ``closed`` with an exception. A stock host knows one ``opened`` and one
``closed`` for a channel (Dagster Pipes 0.1), so there all writers but the first, which
have *joined* it, send neither, and tell in the log if they end by an exception.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..channels.base import ChannelWriter
from ..protocol.messages import encode_head, heartbeat_interval, speaks_extension
from .closing import CLEAN_END, Ending, told_in_log
from .forking import writer_in_fork
from .heartbeat import Heartbeat
from .outbox import Kind, Outbox
from .waiting import block


@dataclass(frozen=True, slots=True)
class Host:
    """What the messages params say of the host.

    Attributes:
        is_ours: it takes the extensions of the protocol.
        heartbeat: seconds between the heartbeats that it asks for; None for none.
    """

    is_ours: bool
    heartbeat: float | None

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Host:
        """Read them."""
        return cls(speaks_extension(params), heartbeat_interval(params))


class Link:
    """One writer of a session.

    Args:
        writer: the channel's end, opened already; not in a fork, where the outbox does it.
        extras: what ``opened`` carries.
        max_bytes: what may wait for the channel.
        on_first_use: in a fork, called before the first message is sent; perhaps twice.

    Attributes:
        outbox: takes the messages; closes the writer once it is started.
    """

    def __init__(
        self,
        writer: ChannelWriter,
        host: Host,
        extras: Mapping[str, Any],
        max_bytes: int,
        on_first_use: Callable[[], None] | None = None,
    ) -> None:
        self._writer = writer
        self._host = host
        self._extras = extras
        self._max_bytes = max_bytes
        self._is_fork = on_first_use is not None
        self._has_joined = not host.is_ours and (self._is_fork or writer.joined)
        name = os.urandom(6).hex() if host.is_ours else None
        heartbeat = None
        if name is not None and host.heartbeat is not None:
            # In a fork there is no loop that runs.
            heartbeat = Heartbeat(name, host.heartbeat, asyncio._get_running_loop())
        self.outbox = Outbox(
            writer,
            name,
            max_bytes,
            heartbeat=heartbeat,
            opening=self._opening() if self._is_fork else None,
            on_first_use=on_first_use,
        )

    def in_fork(self, on_first_use: Callable[[], None]) -> Link:
        """The link of a forked process, to the same channel.

        Where the channel cannot be used from there, it says so when it is.
        """
        writer = writer_in_fork(self._writer)
        return Link(writer, self._host, self._extras, self._max_bytes, on_first_use)

    @property
    def is_idle(self) -> bool:
        """Whether this is a fork's that has sent nothing: it was never opened."""
        return self._is_fork and not self.outbox.is_used

    def greet(self) -> None:
        """Send ``opened``."""
        if opening := self._opening():
            self.outbox.put(opening, Kind.RESULT)

    def closing(self, head: bytes, ending: Ending) -> Callable[[Callable[[], None]], None]:
        """What sends the last message, ``head``, and calls back when the channel is closed."""
        if self._has_joined:
            head = b"" if head == CLEAN_END else told_in_log(ending)
        return lambda done: self.outbox.close(head, done)

    def end(self, head: bytes, ending: Ending, deadline: float) -> None:
        """Send the last message and close the channel; block for it until ``deadline``.

        What a signal's handler raises meanwhile (Ctrl-C) comes afterwards, a second time
        at once. And one may call this in the middle of itself, which will not go on.
        """
        try:
            self._end(head, ending, deadline)
        except BaseException:
            self._end(head, ending, deadline)
            raise

    def _end(self, head: bytes, ending: Ending, deadline: float) -> None:
        left = max(0.0, deadline - time.monotonic())
        if self.outbox.is_closing:
            self.outbox.join(left)
        else:
            block(self.closing(head, ending), left)

    def _opening(self) -> bytes:
        if self._has_joined:
            return b""
        head = encode_head("opened", {"extras": self._extras})
        return head + b',"pid":%d' % os.getpid() if self._host.is_ours else head
