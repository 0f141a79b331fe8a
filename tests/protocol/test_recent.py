"""asyncpipes.protocol.recent: a line sent twice is no event, a number used twice is one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpipes.protocol import recent
from asyncpipes.protocol.events import (
    ClosedEvent,
    CustomMessageEvent,
    Event,
    GapEvent,
    MalformedEvent,
    OpenedEvent,
)
from asyncpipes.protocol.messages import (
    PLAIN_TAIL,
    encode_custom_head,
    encode_head,
    encode_heartbeat,
    extension_tail,
)
from asyncpipes.protocol.outcome import judge
from asyncpipes.protocol.reading import SessionReader
from asyncpipes.protocol.recent import RECENT_BYTES, RecentLines

NOW = 1767225600.5
SLICE = 64 * 1024
BATCH = 1024 * 1024


def line(number: int, payload: object = None, writer: str = "w") -> bytes:
    return encode_custom_head(payload) + extension_tail(writer, number, NOW)


OPENED = encode_head("opened", {"extras": {}}) + extension_tail("w", 1, NOW)


def closed(number: int) -> bytes:
    return encode_head("closed", {}) + extension_tail("w", number, NOW)


def read(data: bytes, size: int = SLICE) -> tuple[list[Event], SessionReader]:
    """The events of ``data``, read ``size`` bytes at a time."""
    reader = SessionReader()
    events: list[Event] = []
    for start in range(0, len(data), size):
        events += reader.receive_data(data[start : start + size], NOW)[0]
    return events + reader.receive_end(NOW)[0], reader


def numbers(events: list[Event]) -> list[int | None]:
    return [event.sequence for event in events]


@pytest.mark.parametrize("size", [1, 7, 100, SLICE])
def test_a_batch_that_comes_twice_is_delivered_once(size: int) -> None:
    batch = OPENED + b"".join(line(n, "x" * n) for n in range(2, 9))
    events, reader = read(batch + batch + closed(9), size)
    assert numbers(events) == list(range(1, 10))
    assert reader.state.duplicates == 8
    assert (reader.state.malformed, reader.state.missing) == (0, 0)
    assert judge(reader.state, exit_code=0).ok
    # Positions go on counting what was passed over.
    assert events[-1].position == 2 * len(batch)


def test_a_batch_that_had_come_in_part_is_completed_by_its_repetition() -> None:
    batch = [line(n) for n in range(2, 12)]
    data = OPENED + b"".join(batch[:4]) + b"".join(batch) + closed(12)
    events, reader = read(data, 50)
    assert numbers(events) == list(range(1, 13))
    assert (reader.state.duplicates, reader.state.malformed) == (4, 0)


@pytest.mark.parametrize(
    ("data", "kinds"),
    [
        (OPENED + OPENED + closed(2), [OpenedEvent, ClosedEvent]),
        (OPENED + closed(2) + closed(2), [OpenedEvent, ClosedEvent]),
        (OPENED + closed(2) + OPENED, [OpenedEvent, ClosedEvent]),
    ],
)
def test_opened_and_closed_may_come_twice(data: bytes, kinds: list[type[Event]]) -> None:
    events, reader = read(data)
    assert [type(event) for event in events] == kinds
    assert reader.state.duplicates == 1
    assert judge(reader.state, exit_code=0).ok


def test_a_batch_with_a_heartbeat_may_come_after_closed_again() -> None:
    batch = encode_heartbeat("w", 10.0, None, 1, NOW) + closed(2)
    events, reader = read(OPENED + batch + batch)
    assert [type(event) for event in events] == [OpenedEvent, ClosedEvent]
    assert (reader.state.malformed, reader.state.duplicates) == (0, 2)


def test_a_duplicate_after_a_gap() -> None:
    events, reader = read(OPENED + line(4) + line(4) + closed(5))
    assert [type(event) for event in events] == [
        OpenedEvent,
        GapEvent,
        CustomMessageEvent,
        ClosedEvent,
    ]
    assert (reader.state.missing, reader.state.duplicates, reader.state.malformed) == (2, 1, 0)


def test_a_number_that_was_skipped_is_no_duplicate_when_it_comes() -> None:
    events, reader = read(OPENED + line(4) + line(3) + closed(5))
    assert [type(e) for e in events].count(MalformedEvent) == 1
    assert reader.state.duplicates == 0


def test_other_bytes_with_a_used_number_are_malformed() -> None:
    # What differs comes before its like: it must not be taken for its own first time.
    other = line(2, "y")
    events, reader = read(OPENED + line(2, "x") + other + line(2, "x") + closed(3))
    [bad] = [event for event in events if isinstance(event, MalformedEvent)]
    assert bad.raw == other[:-1]
    assert (reader.state.malformed, reader.state.duplicates) == (1, 1)


def test_a_last_line_without_its_newline_may_be_a_duplicate() -> None:
    events, reader = read(OPENED + closed(2) + closed(2)[:-1])
    assert numbers(events) == [1, 2]
    assert reader.state.duplicates == 1


def test_the_end_of_a_longer_line_is_no_line() -> None:
    """What is kept begins inside a line, whose rest looks like one."""
    lines = RecentLines()
    lines.add(b"begin of ")
    lines.add(b"a line\nnext\n")
    lines.add(b"." * (RECENT_BYTES - 13) + b"\n")
    assert lines._pieces[0] == b"a line\nnext\n"
    end = lines._end
    assert not lines.holds(b"a line", end)
    assert lines.holds(b"next", end)


def batches(count: int, first: int = 2, size: int = BATCH) -> tuple[list[bytes], int]:
    """Batches of ``size`` bytes or a little less, and the next number."""
    result, number = [], first
    for _ in range(count):
        batch = b""
        lines = []
        length = 0
        while length < size - 1100:
            lines.append(line(number, "." * 900))
            length += len(lines[-1])
            number += 1
        batch = b"".join(lines)
        result.append(batch)
    return result, number


@pytest.mark.parametrize("size", [SLICE, 5000])
def test_the_largest_batch_may_come_twice(size: int) -> None:
    [batch], last = batches(1)
    events, reader = read(OPENED + batch + batch + closed(last), size)
    assert numbers(events) == list(range(1, last + 1))
    assert reader.state.duplicates == last - 2


def test_what_is_older_than_the_window_is_malformed() -> None:
    (first, *others), last = batches(6)
    data = OPENED + first + b"".join(others) + first[: first.index(b"\n") + 1] + closed(last)
    events, reader = read(data)
    assert (reader.state.malformed, reader.state.duplicates) == (1, 0)
    assert "message number 2 of writer w came after" in next(
        event.reason for event in events if isinstance(event, MalformedEvent)
    )


@pytest.mark.parametrize("length", [BATCH + 1, 5 * BATCH])
def test_a_line_longer_than_a_batch_is_known_too(length: int) -> None:
    """Such a line is a batch of its own."""
    long, other = line(2, "." * length), line(2, "," * length)
    events, reader = read(OPENED + long + long + other + closed(3))
    assert [type(event) for event in events] == [
        OpenedEvent,
        CustomMessageEvent,
        MalformedEvent,
        ClosedEvent,
    ]
    assert reader.state.duplicates == 1


def test_a_duplicate_among_many_writers() -> None:
    writers = [f"w{n}" for n in range(20)]
    data = b""
    for name in writers:
        data += encode_head("opened", {}) + extension_tail(name, 1, NOW)
    repeated = b"".join(line(2, name, name) for name in writers)
    events, reader = read(data + repeated + repeated)
    assert len(events) == 40
    assert (reader.state.duplicates, reader.state.malformed) == (20, 0)


def test_the_last_line_of_a_writer_may_come_again_however_many_have_closed_since() -> None:
    """As many as can, before it is too long ago."""
    data = bytearray()
    lasts: list[bytes] = []
    while len(data) < RECENT_BYTES - 1000:
        name = f"{len(lasts):012}"
        data += encode_head("opened", {"extras": {}}) + extension_tail(name, 1, NOW)
        lasts.append(encode_head("closed", {}) + extension_tail(name, 2, NOW))
        data += lasts[-1]
    events, reader = read(bytes(data) + lasts[0] + lasts[-1])
    assert len(events) == 2 * len(lasts)
    assert (reader.state.duplicates, reader.state.malformed, reader.state.missing) == (2, 0, 0)
    assert judge(reader.state, exit_code=0).ok


class CountingLines(RecentLines):
    """Counts the bytes that are looked through."""

    looked_through = 0

    def _between(self, first: int, last: int) -> bytes:
        part = super()._between(first, last)
        self.looked_through += len(part)
        return part


@pytest.mark.parametrize("repeated", [True, False])
def test_a_stream_of_used_numbers_takes_linear_time(
    repeated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = 64 * 1024  # what is counted is in proportion to it
    monkeypatch.setattr(recent, "RECENT_BYTES", window)
    reader = SessionReader()
    lines = reader._recent = CountingLines()
    reader.receive_data(OPENED + line(2), NOW)
    total = 0
    for number in range(5 * window // 100):
        data = line(2, None if repeated else number)
        total += len(data)
        reader.receive_data(data, NOW)
    count = reader.state.duplicates if repeated else reader.state.malformed
    assert count == 5 * window // 100
    # Each byte once, and the window again when what is known has grown to twice that.
    assert total > 5 * window
    assert lines.looked_through < 3 * total


@pytest.mark.parametrize("size", [16, 100, SLICE])
def test_what_is_kept_is_bounded(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes, and in pieces where they are smaller than messages are."""
    most_bytes, most_pieces = 2 * SLICE + 1000, 1000
    monkeypatch.setattr(recent, "RECENT_BYTES", most_bytes)
    monkeypatch.setattr(recent, "_MAX_PIECES", most_pieces)
    lines = RecentLines()
    piece = b"x" * (size - 1) + b"\n"
    for _ in range(2 * most_bytes // size + 1):
        lines.add(piece)
        assert lines._size <= most_bytes + size
        assert len(lines._pieces) <= most_pieces
    # One of the bounds has been reached, and nothing more was let go than that takes.
    assert lines._size >= most_bytes or len(lines._pieces) == most_pieces


def test_the_bounds_hold_the_smallest_messages() -> None:
    """Of writers as they are, whose ids have 32 characters, even if each comes alone."""
    shortest = encode_head("closed", {}) + extension_tail("0" * 32, 1, NOW)
    assert recent._MAX_PIECES * len(shortest) >= RECENT_BYTES


def test_nothing_is_kept_of_stock_scripts() -> None:
    reader = SessionReader()
    plain = encode_head("opened", {}) + PLAIN_TAIL + encode_custom_head(1) + PLAIN_TAIL
    reader.receive_data(plain, NOW)
    assert reader._recent._size == 0
    # One of ours may come all the same, also with a line that had begun by then.
    data = OPENED + line(2)
    reader.receive_data(data[:20], NOW)
    reader.receive_data(data[20:] + data, NOW)
    assert (reader.state.duplicates, reader.state.malformed) == (2, 0)


def test_the_lines_are_let_go_when_nobody_asks_any_more() -> None:
    reader = SessionReader()
    reader.receive_data(OPENED + OPENED, NOW)
    assert reader._recent._lines
    for data in batches(3)[0]:
        reader.receive_data(data, NOW)
    assert not reader._recent._lines


@given(
    st.lists(st.integers(0, 7), max_size=40),
    st.lists(st.integers(1, 400), min_size=1, max_size=10),
)
def test_against_a_plain_list(order: list[int], sizes: list[int]) -> None:
    """Any order of eight lines, two of them with one number, cut anywhere."""
    eight = [line(1 + n // 2, n) for n in range(8)]
    data = b"".join(eight[n] for n in order)
    seen: set[int] = set()
    highest = duplicates = malformed = 0
    for n in order:
        if 1 + n // 2 > highest:
            highest = 1 + n // 2
        elif n in seen:
            duplicates += 1
        else:
            malformed += 1
        seen.add(n)
    reader = SessionReader()
    start = 0
    for size in itertools.cycle(sizes):
        if start >= len(data):
            break
        reader.receive_data(data[start : start + size], NOW)
        start += size
    assert (reader.state.duplicates, reader.state.malformed) == (duplicates, malformed)
