"""Where lines stand in a messages file, so that a stock host cannot read half of one.

The stock host follows the file with ``readline()``, which returns whatever there is of a
line when it meets the end of the file inside it; half a line is no JSON, and its reader
dies of it (``dagster._utils.tail_file``, Dagster 1.13). And a write becomes visible in
pieces: the kernel copies it into the page cache a *folio* at a time, and moves the end of
the file after each. A folio is a page, or, on file systems with large folios, a
power-of-two run of pages at a multiple of its own size. What stands inside one folio
appears at once. So, in a file at a given offset:

- a line of at most a page crosses no page boundary;
- a longer line stands inside a *block*, a multiple of the next power of two, and the write
  covers that block from its start to its end, for the kernel makes no folio that is larger
  than what is left of the write: 20 KB at a multiple of 32 KiB came as 16 KB and 4 KB, and
  at once when the write was 32 KiB long.

JSON allows blanks before the newline, so a line is padded to the end of its page where the
next one does not fit. One that was written by an earlier call cannot be padded any more, and
blanks in front of a line can themselves be read as half a line: there the room is filled
with *fillers*, messages that do nothing (a ``log_external_stream`` with an empty text).
The room left in the file's last page is therefore always 0 or enough for a filler.

A long line that is the first one of its write stands at the end of its block, after the
fillers: where single pages become visible, a reader that comes in the middle has them to
read while the rest is written.

What it is good for was measured by ``python -m benchmarks loss``, on Linux 6.18 and ext4 with
large folios: no line was torn there. Lines over 2 MiB, the largest folio, can be; and on file
systems without large folios (tmpfs by default) so can lines over a page, though more rarely
than those of a stock writer. Lines of 2 to 4 KB, or of little more than a power of two, take
up to twice their size in the file.
"""

from __future__ import annotations

from .messages import PLAIN_TAIL, encode_head

_FILLER = encode_head("log_external_stream", {"stream": "stdout", "text": "", "extras": {}})
_FILLER += PLAIN_TAIL[:-1]

#: Bytes of the shortest filler, with its newline.
MIN_FILLER = len(_FILLER) + 1

#: The largest folio of Linux on x86-64, and on ARM with pages of 4 KiB: in steps of this
#: size even the longest write becomes visible. A longer line gains nothing from its block.
MAX_BLOCK = 2 * 1024 * 1024


def lay_out(lines: bytes, offset: int, page: int) -> bytes:
    """Arrange whole lines for one write at the end of a file.

    The work is a search for each page, not for each line.

    Args:
        lines: complete lines, each with its newline.
        offset: the file's size, where they will be written.
        page: the page size in bytes: a power of two, no less than :data:`MIN_FILLER`.

    Returns:
        The same lines in the same order, some of them with blanks before the newline, and
        fillers between and after them. If less room than for a filler is left in the
        page at ``offset``, which none but a foreign writer leaves, then what comes first
        there crosses the boundary.
    """
    parts: list[bytes] = []
    start, at, whole_until = 0, offset, 0
    while start < len(lines):
        room = page - at % page
        end = len(lines)
        if end - start > room:
            end = lines.rfind(b"\n", start, start + room) + 1
            if end:  # the line after this one does not fit
                _pad(parts, lines[start:end], start + room - end)
                start, at = end, at + room
                continue
            end = lines.index(b"\n", start) + 1
            size = end - start
            block = page if size <= page else min(1 << (size - 1).bit_length(), MAX_BLOCK)
            gap = -at % block
            if gap and room < MIN_FILLER:
                pass  # after a foreign writer
            elif size <= page:
                at = _fill(parts, at, at + gap, page)
                continue  # now it fits, and perhaps others beside it
            else:
                rest = -size % block
                whole_until = max(whole_until, at + gap + size + rest)
                at = _fill(parts, at, at + gap + (0 if start else _fillable(rest, page)), page)
        at += end - start
        left = -at % page
        blanks = left if left < MIN_FILLER else 0
        _pad(parts, lines[start:end], blanks)
        start, at = end, at + blanks
    _fill(parts, at, whole_until, page)
    return b"".join(parts)


def _pad(parts: list[bytes], lines: bytes, blanks: int) -> None:
    if blanks:
        parts += lines[:-1], b" " * blanks + b"\n"
    else:
        parts.append(lines)


def _fill(parts: list[bytes], at: int, until: int, page: int) -> int:
    """Fillers up to there, none of them over a page boundary; return where that is."""
    while at < until:
        size = min(page - at % page, until - at)
        parts.append(_FILLER + b" " * (size - MIN_FILLER) + b"\n")
        at += size
    return at


def _fillable(size: int, page: int) -> int:
    """As much of so many bytes as pages and one filler more can take."""
    odd = size % page
    return size if odd >= MIN_FILLER else size - odd
