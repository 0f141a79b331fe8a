"""What waits in the outbox, and how it becomes the bytes of one write."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import time

from ..protocol.messages import PLAIN_TAIL, encode_head, encode_log_head, extension_tail

#: All but the end of a message, when it was put, and whom to call once it is written.
#: Without a message: a mark that is reached when all before it is written.
Line = tuple[bytes, float, Callable[[], None] | None]

#: How the messages begin that are ours and not the user's, who is not told of their loss.
_OWN = tuple(encode_head(method, {}).removesuffix(b"{}") for method in ("opened", "closed"))


class Finisher:
    """Ends the lines of one channel, in the order in which they are written.

    Args:
        name: the ``writer`` id towards a host of ours; None towards a stock host.
        max_bytes: the buffer's limit, for the text about drops.
    """

    def __init__(self, name: str | None, max_bytes: int) -> None:
        self._name = name
        self._max_bytes = max_bytes
        self._sequence = 0
        self._dropped_told = 0
        #: About how many bytes a line grows by.
        self.tail_bytes = len(PLAIN_TAIL if name is None else extension_tail(name, 1000, time()))

    @property
    def has_begun(self) -> bool:
        """Whether a host of ours is to know the writer: number 1, ``opened``, is given out."""
        return self._sequence > 0

    def finish(self, lines: Iterable[Line], dropped: int) -> bytes:
        """The messages among ``lines``, complete; ``dropped`` records are lost so far."""
        if self._name is None:
            return self._finish_plain(lines, dropped)
        parts: list[bytes] = []
        name, sequence = self._name, self._sequence
        for head, sent_at, _ in lines:
            if head:
                sequence += 1
                parts += head, extension_tail(name, sequence, sent_at, dropped)
        self._sequence = sequence
        return b"".join(parts)

    def _finish_plain(self, lines: Iterable[Line], dropped: int) -> bytes:
        heads = [line[0] for line in lines if line[0]]
        if dropped != self._dropped_told:
            # Protocol 0.1 has no place for a count, so a stock host is told in its log.
            self._dropped_told = dropped
            text = (
                f"asyncpipes: {dropped} log or stream records were dropped so far, because"
                f" {self._max_bytes} bytes were waiting for the channel"
            )
            heads.insert(0, encode_log_head(text, "WARNING"))
        heads.append(b"")
        return PLAIN_TAIL.join(heads)


def tell(lines: Iterable[Line]) -> None:
    """Call those who wait for the lines."""
    for _, _, told in lines:
        if told is not None:
            told()


def count_reported(lines: Iterable[Line]) -> int:
    """How many of the lines are messages of the user's."""
    return sum(1 for head, _, _ in lines if head and not head.startswith(_OWN))
