"""asyncpipes.protocol.framing: lines out of bytes, however those are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncpipes.protocol.framing import RAW_LIMIT, LineFramer, OversizedLine

TEXT = 'first\n{"ä": "€😀"}\n\nlast one\n'.encode()
LINES = TEXT.split(b"\n")[:-1]


def shown(lines: list[bytes | OversizedLine]) -> list[object]:
    """Lines as values that can be compared."""
    return [
        (line.prefix, line.length) if isinstance(line, OversizedLine) else line for line in lines
    ]


def feed_in(framer: LineFramer, pieces: list[bytes]) -> list[bytes | OversizedLine]:
    return [line for piece in pieces for line in framer.feed(piece)]


def expected(data: bytes, limit: int) -> list[object]:
    """What a framer must give for ``data``, said in the plainest way."""
    return [
        line if len(line) <= limit else (line[:RAW_LIMIT], len(line))
        for line in data.split(b"\n")[:-1]
    ]


@pytest.mark.parametrize("cut", range(len(TEXT) + 1))
def test_a_cut_at_every_byte(cut: int) -> None:
    framer = LineFramer()
    before = framer.feed(TEXT[:cut])
    assert before == LINES[: TEXT[:cut].count(b"\n")]
    assert framer.pending == len(TEXT[:cut].rpartition(b"\n")[2])
    assert framer.position == cut - framer.pending
    assert before + framer.feed(TEXT[cut:]) == LINES
    assert framer.finish() is None


@pytest.mark.parametrize("cuts", list(itertools.combinations(range(0, len(TEXT), 3), 2)))
def test_two_cuts(cuts: tuple[int, int]) -> None:
    first, second = cuts
    pieces = [TEXT[:first], TEXT[first:second], TEXT[second:]]
    assert feed_in(LineFramer(), pieces) == LINES


def test_byte_by_byte() -> None:
    framer = LineFramer()
    assert feed_in(framer, [bytes([byte]) for byte in TEXT]) == LINES
    assert framer.position == len(TEXT)


def test_empty_data_changes_nothing() -> None:
    framer = LineFramer()
    assert framer.feed(b"") == []
    framer.feed(b"half")
    assert framer.feed(b"") == []
    assert framer.feed(b"\n") == [b"half"]


def test_only_a_newline_ends_a_line() -> None:
    data = b"a\r\x0b\x0c\x1c\x85" + "\u2028\u2029".encode()
    assert LineFramer().feed(data + b"\n") == [data]


def test_the_rest_after_the_last_newline() -> None:
    framer = LineFramer()
    framer.feed(b"whole\ntorn")
    assert (framer.position, framer.pending) == (6, 4)
    assert framer.finish() == b"torn"
    assert (framer.position, framer.pending) == (10, 0)
    assert framer.finish() is None


@pytest.mark.parametrize("limit", [1, 2, 10, RAW_LIMIT, RAW_LIMIT + 1, 5000])
@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_the_limit_to_the_byte(limit: int, more: int, size: int) -> None:
    length = limit + more
    data = b"before\n"[: limit + 1] + b"x" * length + b"\nb\n"
    framer = LineFramer(limit)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert shown(feed_in(framer, pieces)) == expected(data, limit)
    assert framer.position == len(data)


def test_an_oversized_line_is_a_prefix_and_a_length() -> None:
    framer = LineFramer(10)
    assert framer.feed(b"0123456789") == []
    assert framer.feed(b"ab") == []
    assert framer.pending == 12
    [line] = framer.feed(b"c\n")
    assert isinstance(line, OversizedLine)
    assert (line.prefix, line.length, len(line)) == (b"0123456789abc", 13, 13)
    assert framer.feed(b"good\n") == [b"good"]


def test_an_endless_line_takes_no_more_memory_than_the_limit() -> None:
    framer = LineFramer(2000)
    for _ in range(1000):
        assert framer.feed(b"x" * 1000) == []
    assert framer.pending == 1_000_000
    assert len(framer._held) <= 2000
    rest = framer.finish()
    assert isinstance(rest, OversizedLine)
    assert (len(rest.prefix), rest.length) == (RAW_LIMIT, 1_000_000)
    assert framer.feed(b"new\n") == [b"new"]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="at least 1 byte"):
        LineFramer(limit)


PIECES = st.lists(
    st.binary(max_size=30) | st.sampled_from([b"\n", b"\n\n", b"ab\ncd"]), max_size=20
)


@given(PIECES, st.integers(1, 40))
@example([b"a" * 30, b"a" * 30, b"\n"], 40)
def test_any_pieces_give_the_same_lines(pieces: list[bytes], limit: int) -> None:
    data = b"".join(pieces)
    framer = LineFramer(limit)
    received = 0
    lines: list[bytes | OversizedLine] = []
    for piece in pieces:
        lines += framer.feed(piece)
        received += len(piece)
        assert framer.position + framer.pending == received
        assert data[: framer.position].endswith(b"\n") or not framer.position
    assert shown(lines) == expected(data, limit)
    rest = framer.finish()
    tail = data.rpartition(b"\n")[2]
    assert shown([rest] if rest is not None else []) == expected(
        tail + b"\n" if tail else b"", limit
    )
    assert framer.position == len(data)
