"""What a laid-out file must look like, and how a kernel shows it piece by piece.

``python -m tests.layouts PATH UNTEARABLE NAME LINES FLUSH`` is one of several writers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import pytest

from asyncpipes.channels import file_writer
from asyncpipes.channels.file_writer import FileWriter
from asyncpipes.protocol.layout import MAX_BLOCK, MIN_FILLER
from tests.support import PATIENCE

FILLER_START = b'{"__dagster_pipes_version":"0.1","method":"log_external_stream"'


def stripped(data: bytes) -> list[bytes]:
    """The lines without blanks at their ends, and without fillers."""
    lines = [line.rstrip(b" ") for line in data.split(b"\n")[:-1]]
    return [line for line in lines if not line.startswith(FILLER_START)]


def block_of(size: int, page: int) -> int:
    """What a line of that size must not cross."""
    block = page
    while block < size and block < MAX_BLOCK:
        block *= 2
    return block


def crossing(data: bytes, page: int, offset: int = 0) -> list[tuple[int, int]]:
    """Where lines that cross a boundary of theirs start and end in the file.

    A line over the largest block crosses one in any case, and is left out.
    """
    found = []
    start = offset
    for line in data.split(b"\n")[:-1]:
        end = start + len(line) + 1
        block = block_of(len(line.rstrip(b" ")) + 1, page)
        if start // block != (end - 1) // block and len(line) < max(page, MAX_BLOCK):
            found.append((start, end))
        start = end
    return found


def room_is_good(size: int, page: int) -> bool:
    """Whether the next writer can go on there."""
    return size % page == 0 or page - size % page >= MIN_FILLER


def page_by_page(offset: int, size: int, page: int) -> Iterator[int]:
    """The file's sizes that a reader may see during a write, without large folios."""
    at, end = offset, offset + size
    while at < end:
        at = min(end, at + page - at % page)
        yield at


def folio_by_folio(offset: int, size: int, page: int) -> Iterator[int]:
    """The same with large folios (Linux, ``__filemap_get_folio``).

    A folio is at most what is left of the write, rounded down to a power of two, and
    starts at a multiple of its size; the page in which the file ended has one already.
    """
    at, end = offset, offset + size
    while at < end:
        folio = page
        while at % page == 0 and at % (2 * folio) == 0 and 2 * folio <= min(end - at, MAX_BLOCK):
            folio *= 2
        at = min(end, at - at % page + folio)
        yield at


def torn(data: bytes, offset: int, seen: Iterable[int]) -> list[int]:
    """Sizes among ``seen`` at which the file ends in the middle of a line."""
    return [size for size in seen if data[size - offset - 1 : size - offset] != b"\n"]


def write_all(path: str, untearable: bool, name: int, lines: int, flush: int) -> None:
    """Write numbered lines of many sizes, so many with each write."""
    random = Random(name)
    writer = FileWriter(path, untearable=untearable)
    writer.open()
    batch = []
    for number in range(lines):
        size = random.choice([0, 100, 1_000, 3_000, 4_096] + [9_000, 20_000] * (number % 50 == 0))
        text = b"x" * random.randint(0, size)
        batch.append(b'{"writer":%d,"number":%d,"text":"%b"}\n' % (name, number, text))
        if len(batch) == flush or number == lines - 1:
            writer.write(b"".join(batch))
            batch.clear()
    writer.close()


def foreign_link(link: Path, target: Path | str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A link of somebody else's; who cannot make one takes another name for himself."""
    link.symlink_to(target)
    if os.geteuid() == 0:
        os.chown(link, 12_345, 12_345, follow_symlinks=False)
    else:
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)
    return link


if __name__ == "__main__":
    file_writer.LOCK_SECONDS = file_writer.STALLED_SECONDS = PATIENCE
    print("ready", flush=True)
    sys.stdin.readline()
    _path, _untearable, *_numbers = sys.argv[1:]
    write_all(_path, _untearable == "True", *map(int, _numbers))
