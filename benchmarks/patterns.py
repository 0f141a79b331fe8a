"""What is reported where lines could be torn: sizes of messages, and how they are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

#: What a custom message of protocol 0.1 takes beside the text in its payload.
_FRAME_BYTES = 110


@dataclass(frozen=True, slots=True)
class Pattern:
    """Messages of one kind.

    Attributes:
        name: how the command line of the scripts calls it.
        sizes: how the table calls the sizes of the lines.
        count: how many.
        smallest, largest: bytes of a line, about.
    """

    name: str
    sizes: str
    count: int
    smallest: int
    largest: int

    def payloads(self, divisor: int = 1) -> Iterator[dict[str, Any]]:
        """What is reported; the same in every process. Only every ``divisor``-th of them."""
        random = Random(self.name)
        for index in range(self.size(divisor)):
            size = random.randint(self.smallest, self.largest)
            yield {"index": index, "text": "x" * max(0, size - _FRAME_BYTES)}

    def title(self, divisor: int = 1) -> str:
        """How the table calls it."""
        return f"{self.size(divisor):,} x {self.sizes}"

    def size(self, divisor: int = 1) -> int:
        """How many messages that makes."""
        return max(1, self.count // divisor)


PATTERNS = (
    Pattern("200B", "200 B", 50_000, 200, 200),
    Pattern("20KB", "20 KB", 500, 20_000, 20_000),
    Pattern("100KB", "100 KB", 500, 100_000, 100_000),
    Pattern("mixed", "0 to 20 KB", 5_000, 0, 20_000),
)

#: A flush after each message makes each a write of its own; without, they go in bursts. The
#: stock writer always writes each by itself.
WAYS = ("burst", "single")


def pattern(name: str) -> Pattern:
    """The pattern of that name."""
    return next(each for each in PATTERNS if each.name == name)
