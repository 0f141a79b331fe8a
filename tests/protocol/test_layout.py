"""asyncpipes.protocol.layout: lines that do not cross what a reader sees at once."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpipes.protocol.layout import MAX_BLOCK, MIN_FILLER, lay_out
from tests.layouts import (
    block_of,
    crossing,
    folio_by_folio,
    page_by_page,
    room_is_good,
    stripped,
    torn,
)

PAGE = 512
#: Around all that decides: nothing, a filler, a page, and powers of two of it.
SIZES = sorted(
    size + more
    for size in (2, MIN_FILLER, PAGE - MIN_FILLER, PAGE // 2, PAGE, 2 * PAGE, 4 * PAGE, 5 * PAGE)
    for more in (-1, 0, 1)
)
GOOD_OFFSETS = [at for at in range(9 * PAGE) if room_is_good(at, PAGE)]


def line_of(size: int) -> bytes:
    return b"x" * (size - 1) + b"\n"


def check(lines: bytes, offset: int, page: int = PAGE) -> bytes:
    """Lay out where the file was left as it should be, and check all that is promised."""
    data = lay_out(lines, offset, page)
    assert stripped(data) == lines.split(b"\n")[:-1]
    assert crossing(data, page, offset) == []
    assert room_is_good(offset + len(data), page)
    long = max(map(len, lines.splitlines(keepends=True)), default=0)
    if long <= MAX_BLOCK:
        assert torn(data, offset, folio_by_folio(offset, len(data), page)) == []
    if long <= page:
        assert torn(data, offset, page_by_page(offset, len(data), page)) == []
        assert len(data) <= 2 * len(lines) + page
    return data


def test_one_line_at_every_offset() -> None:
    for size in SIZES:
        for offset in GOOD_OFFSETS[:: 1 if size <= PAGE else 3]:
            check(line_of(size), offset)


def test_two_lines_at_every_offset_of_a_page() -> None:
    for first in SIZES:
        for second in SIZES:
            for offset in range(0, PAGE - MIN_FILLER, 7):
                check(line_of(first) + line_of(second), offset)


def test_every_size_at_some_offsets() -> None:
    for size in range(1, 4 * PAGE):
        for offset in (0, 1, PAGE // 2 + 3, PAGE - MIN_FILLER, 3 * PAGE, 5 * PAGE + 17):
            check(line_of(size), offset)


@given(
    batches=st.lists(
        st.lists(
            st.one_of(
                st.integers(1, PAGE),
                st.integers(1, 20 * PAGE),
                st.sampled_from(SIZES),
            ),
            max_size=30,
        ),
        max_size=10,
    ),
)
@settings(deadline=None)
def test_batch_after_batch(batches: list[list[int]]) -> None:
    offset = 0
    for sizes in batches:
        offset += len(check(b"".join(map(line_of, sizes)), offset))


@given(sizes=st.lists(st.integers(1, 3 * PAGE), min_size=1), offset=st.integers(0, 8 * PAGE))
@settings(deadline=None)
def test_after_a_foreign_writer_only_what_comes_first_may_cross(
    sizes: list[int], offset: int
) -> None:
    lines = b"".join(map(line_of, sizes))
    data = lay_out(lines, offset, PAGE)
    assert stripped(data) == lines.split(b"\n")[:-1]
    assert room_is_good(offset + len(data), PAGE)
    at_fault = [] if room_is_good(offset, PAGE) else [offset]
    assert [start for start, _ in crossing(data, PAGE, offset) if start not in at_fault] == []


@pytest.mark.parametrize("offset", [0, 100, 4096, 5000, 131072 + 17])
def test_real_sizes(offset: int) -> None:
    for size in (235, 3_000, 4_096, 4_097, 9_000, 20_000, 100_000, 1_000_000):
        check(line_of(size) * 3, offset, 4096)


def test_a_line_that_is_known_is_followed_by_blanks_and_not_by_a_filler() -> None:
    data = check(line_of(300) * 3, 0)
    assert data == (b"x" * 299 + b" " * 212 + b"\n") * 2 + line_of(300)


def test_a_line_that_would_cross_comes_after_a_filler() -> None:
    data = check(line_of(300), 300)
    filler, line, rest = data.split(b"\n")
    assert (len(filler) + 1, line + b"\n", rest) == (212, line_of(300), b"")


def test_a_filler_is_a_message_that_does_nothing() -> None:
    filler = lay_out(line_of(300), 300, PAGE).split(b"\n")[0]
    assert json.loads(filler) == {
        "__dagster_pipes_version": "0.1",
        "method": "log_external_stream",
        "params": {"stream": "stdout", "text": "", "extras": {}},
    }


def test_the_shortest_filler_fits() -> None:
    data = check(line_of(PAGE), PAGE - MIN_FILLER)
    assert len(data) == MIN_FILLER + PAGE


def test_a_long_line_is_written_to_the_end_of_its_block() -> None:
    """The kernel takes no larger folio than the write is long."""
    data = check(line_of(20_000), 0, 4096)
    assert len(data) == 32_768
    assert torn(line_of(20_000), 0, folio_by_folio(0, 20_000, 4096)) == [16_384]


def test_a_long_line_comes_after_its_fillers_if_it_is_the_first() -> None:
    """A reader that comes in the middle of the write has them to read."""
    data = check(line_of(20_000), 0, 4096)
    assert [len(line) + 1 for line in data.split(b"\n")[:-1]] == [4096] * 3 + [480, 20_000]
    data = check(b"{}\n" + line_of(20_000), 32_768 - 3, 4096)
    assert data.startswith(b"{}\n" + line_of(20_000)), "something else was there to read"


def test_a_line_over_the_largest_block_crosses_as_few_as_can_be() -> None:
    size = 2 * MAX_BLOCK + 1
    data = lay_out(line_of(size), 10, 4096)
    start = 10 + data.index(b"xx")
    assert (start // MAX_BLOCK, (start + size - 1) // MAX_BLOCK) == (1, 3)
    assert 10 + len(data) == 4 * MAX_BLOCK
    assert stripped(data) == [b"x" * (size - 1)]


def test_lines_that_fit_are_not_touched() -> None:
    lines = line_of(100) * 3
    assert lay_out(lines, 10, PAGE) is lines
    assert lay_out(b"", 10, PAGE) == b""


def test_the_models_find_what_is_torn() -> None:
    """Or nothing would be shown by their finding nothing."""
    lines = line_of(300) * 100
    assert torn(lines, 0, page_by_page(0, len(lines), PAGE))
    assert torn(lines, 100, folio_by_folio(100, len(lines), PAGE))
    assert crossing(lines, PAGE)
    assert [block_of(size, PAGE) for size in (1, 512, 513, 1025)] == [512, 512, 1024, 2048]
