"""Any bytes, cut anywhere: the lines are those of the whole, and memory has a limit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncpipes.protocol.framing import RAW_LIMIT, LineFramer, OversizedLine
from tests.protocol.strategies import cuts

streams = st.lists(
    st.binary(max_size=40)
    | st.sampled_from([b"\n", b"\r\n", b"\n\n", "ä€😀".encode(), b"x" * 1500]),
    max_size=12,
).map(b"".join)


def as_values(lines: list[bytes | OversizedLine]) -> list[object]:
    return [
        (line.prefix, line.length) if isinstance(line, OversizedLine) else line for line in lines
    ]


@given(st.data(), streams)
def test_the_lines_are_those_of_the_whole(data: st.DataObject, stream: bytes) -> None:
    framer = LineFramer()
    lines = [line for piece in data.draw(cuts(stream)) for line in framer.feed(piece)]
    rest = framer.finish()
    *whole, tail = stream.split(b"\n")
    assert lines == whole
    assert rest == (tail or None)
    assert framer.position == len(stream)


@given(st.data(), streams, st.integers(1, 40) | st.integers(800, 1600))
def test_a_limit_changes_long_lines_alone(data: st.DataObject, stream: bytes, limit: int) -> None:
    framer = LineFramer(limit)
    lines: list[bytes | OversizedLine] = []
    for piece in data.draw(cuts(stream)):
        lines += framer.feed(piece)
        assert len(framer._held) <= max(limit, RAW_LIMIT)
    assert as_values(lines) == [
        line if len(line) <= limit else (line[:RAW_LIMIT], len(line))
        for line in stream.split(b"\n")[:-1]
    ]
    assert framer.position + framer.pending == len(stream)


@given(streams)
def test_byte_by_byte(stream: bytes) -> None:
    framer = LineFramer()
    lines = [line for byte in stream for line in framer.feed(bytes([byte]))]
    assert lines == stream.split(b"\n")[:-1]
