"""Lines out of bytes: a framer that a torn line cannot hurt.

Messages are JSON objects, one a line (Dagster Pipes 0.1). A reader that follows
a growing file or a socket sees them cut anywhere, also inside a UTF-8
character; a line exists only once its newline has come.
"""

from __future__ import annotations

#: The longest line that is accepted by default, in bytes. Materializations with
#: tables of a few MB occur; 64 MiB leaves room and still bounds what one
#: missing newline can cost: under 1 GiB, since orjson works in 12 times the line.
DEFAULT_LINE_LIMIT = 64 * 1024 * 1024

#: How much of a line that cannot be used is kept to show, in bytes.
RAW_LIMIT = 1024


class OversizedLine:
    """Stands for a line above the limit: its first bytes and its whole length."""

    __slots__ = ("length", "prefix")

    def __init__(self, prefix: bytes, length: int) -> None:
        self.prefix = prefix
        self.length = length

    def __len__(self) -> int:
        return self.length


class LineFramer:
    """Collects bytes and gives out complete lines, without their newline.

    At most ``limit`` bytes of an unfinished line are held; of a longer one only
    a prefix of :data:`RAW_LIMIT` bytes is kept, and an :class:`OversizedLine`
    takes its place when its newline comes.
    """

    def __init__(self, limit: int = DEFAULT_LINE_LIMIT) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1 byte, got {limit}")
        self._limit = limit
        # Grown in place: a line that comes byte by byte costs no more than its length.
        self._held = bytearray()
        self._pending = 0
        self._position = 0

    @property
    def position(self) -> int:
        """Where the next line starts: bytes from the start of the stream."""
        return self._position

    @property
    def pending(self) -> int:
        """Bytes of the line that is not finished yet."""
        return self._pending

    def feed(self, data: bytes) -> list[bytes | OversizedLine]:
        """Take the next bytes; return the lines they complete, in order."""
        lines: list[bytes | OversizedLine] = []
        lines.extend(data.split(b"\n"))
        tail = lines.pop()
        assert isinstance(tail, bytes)
        if not lines:
            self._hold(tail)
            return lines
        if self._pending:
            first = lines[0]
            assert isinstance(first, bytes)
            self._hold(first)
            lines[0] = self._take()
        if len(data) > self._limit:
            lines = [self._checked(line) for line in lines]
        # The line held so far began at the old position, so its length counts in full.
        self._position += sum(map(len, lines)) + len(lines)
        self._hold(tail)
        return lines

    def finish(self) -> bytes | OversizedLine | None:
        """The stream is over: return what came after the last newline, or None."""
        if not self._pending:
            return None
        rest = self._take()
        self._position += len(rest)
        return rest

    def _hold(self, part: bytes) -> None:
        if not part:
            return
        room = max(self._limit, RAW_LIMIT) - self._pending
        if room > 0:
            self._held += part[:room]
        self._pending += len(part)

    def _take(self) -> bytes | OversizedLine:
        joined, length = bytes(self._held), self._pending
        self._held, self._pending = bytearray(), 0
        return joined if length <= self._limit else OversizedLine(joined[:RAW_LIMIT], length)

    def _checked(self, line: bytes | OversizedLine) -> bytes | OversizedLine:
        if isinstance(line, OversizedLine) or len(line) <= self._limit:
            return line
        return OversizedLine(line[:RAW_LIMIT], len(line))
