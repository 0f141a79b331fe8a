"""What has come lately, to tell a line that was sent twice from a number used twice.

A writer that cannot know whether a batch arrived sends it again, whole. Nobody asks
for the lines of before until a used number comes, so what is kept is the stream as it
was read, cut anywhere, at no cost for a line; it becomes lines when they are asked for.
"""

from __future__ import annotations

from collections import deque

#: How far back a repeated line is known, in bytes. A batch is 1 MiB at most
#: (``ChannelWriter.batch_bytes``), so with the batch itself and its repetition there are
#: two of them; and the rest of what was read with the last line comes on top.
RECENT_BYTES = 2 * 1024 * 1024 + 256 * 1024
#: Pieces that are kept at most, since one of few bytes takes many times its size: as many
#: as ``RECENT_BYTES`` come to if each is a message of 144 bytes.
_MAX_PIECES = 16_384
#: A line above this, in bytes, is a batch of its own and known by its hash.
_LONG = 1024 * 1024
#: Long lines that are known: what a writer may send again is the last one, and there are
#: other writers.
_MAX_LONG = 32


class RecentLines:
    """The latest bytes of a stream, and whether a line was among them."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._end = 0
        self._is_cut = False  # whether the first piece may begin inside a line
        self._long: deque[tuple[int, int]] = deque(maxlen=_MAX_LONG)
        # The lines from one position to another, made when they were first asked for.
        self._lines: set[bytes] = set()
        self._lines_from = 0
        self._lines_to = 0

    def add(self, data: bytes) -> None:
        """The next bytes of the stream."""
        pieces = self._pieces
        pieces.append(data)
        size = len(data)
        self._end += size
        self._size += size
        while self._size - len(pieces[0]) >= RECENT_BYTES or len(pieces) > _MAX_PIECES:
            self._size -= len(pieces.popleft())
            self._is_cut = True
            if self._lines and self._lines_to <= self._end - self._size:
                self._lines = set()  # nobody has asked for long

    def add_torn(self, line: bytes) -> None:
        """A line that came in several pieces, maybe in more than are kept; once it is judged."""
        if len(line) > _LONG:
            self._long.append((len(line), hash(line)))

    def forget(self, pending: int) -> None:
        """Keep nothing of what has come so far but the last ``pending`` bytes, a line's begin."""
        if pending > self._size:
            return  # more than is kept anyway
        rest = self._between(self._end - pending, self._end)
        self._pieces.clear()
        if rest:
            self._pieces.append(rest)
        self._size = pending
        self._is_cut = False

    def holds(self, line: bytes, position: int) -> bool:
        """Whether ``line``, which starts at ``position``, is there a first time before that.

        Positions are bytes from the start of the stream; from one call to the next they
        only grow. All calls together take time in proportion to the bytes of the stream.
        """
        start = self._end - self._size
        if self._lines_to <= start or position - self._lines_from > 2 * RECENT_BYTES:
            rest = self._between(start, position)
            self._lines = set(rest.split(b"\n")[self._is_cut :])
            self._lines_from = start
        else:
            self._lines.update(self._between(self._lines_to, position).split(b"\n"))
        self._lines_to = position
        return line in self._lines or (len(line) > _LONG and (len(line), hash(line)) in self._long)

    def _between(self, first: int, last: int) -> bytes:
        """The bytes from position ``first`` up to ``last``."""
        parts: list[bytes] = []
        end = self._end
        for piece in reversed(self._pieces):
            start = end - len(piece)
            if start < last:
                parts.append(piece[max(first - start, 0) : last - start])
            if start <= first:
                break
            end = start
        return b"".join(reversed(parts))
