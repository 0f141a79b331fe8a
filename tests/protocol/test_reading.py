"""asyncpipes.protocol.reading: bytes in, events out, whatever the bytes are."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpipes.protocol.events import (
    AssetCheckEvent,
    ClosedEvent,
    CustomMessageEvent,
    Event,
    ExternalStreamEvent,
    GapEvent,
    LogEvent,
    MalformedEvent,
    MaterializationEvent,
    OpenedEvent,
)
from asyncpipes.protocol.exceptions import encode_exception
from asyncpipes.protocol.framing import RAW_LIMIT
from asyncpipes.protocol.messages import (
    METHODS,
    PLAIN_TAIL,
    encode_custom_head,
    encode_head,
    encode_heartbeat,
    encode_log_head,
    extension_tail,
)
from asyncpipes.protocol.metadata import MetadataValue, encode_metadata
from asyncpipes.protocol.reading import SessionReader

NOW = 1767225600.5
OPENED = encode_head("opened", {"extras": {}})
CLOSED = encode_head("closed", {})
GOOD = encode_log_head("good", "INFO") + PLAIN_TAIL


def read(*chunks: bytes) -> tuple[list[Event], SessionReader]:
    """The events of all chunks and of the end, and the reader behind them."""
    reader = SessionReader()
    events: list[Event] = []
    for chunk in chunks:
        new, sizes = reader.receive_data(chunk, NOW)
        assert len(new) == len(sizes)
        events += new
    new, sizes = reader.receive_end(NOW)
    assert len(new) == len(sizes)
    return events + new, reader


def one(line: bytes) -> Event:
    [event] = read(line)[0]
    return event


class Ours:
    """Lines of a writer of ours, numbered as its outbox does."""

    def __init__(self, name: str = "w") -> None:
        self.name = name
        self.seq = 0

    def __call__(self, head: bytes, *, skip: int = 0, dropped: int = 0) -> bytes:
        self.seq += 1 + skip
        return head + extension_tail(self.name, self.seq, NOW - 1, dropped)


def failure() -> Any:
    try:
        raise KeyError("lost")
    except KeyError as error:
        return encode_exception(error, extended=True)


METADATA = {"rows": 3, "text": {"type": "md", "raw_value": "*"}}

#: Each of the seven methods: its head, and the event that must come of it.
SEVEN: list[tuple[bytes, Callable[[Event], bool]]] = [
    (
        encode_head("opened", {"extras": {"a": [1]}}),
        lambda e: isinstance(e, OpenedEvent) and e.extras == {"a": [1]},
    ),
    (CLOSED, lambda e: isinstance(e, ClosedEvent) and e.exception is None),
    (
        encode_head("closed", {"exception": failure()}),
        lambda e: (
            isinstance(e, ClosedEvent)
            and e.exception is not None
            and e.exception.name == "KeyError"
        ),
    ),
    (
        encode_log_head("ä\n€", "WARNING"),
        lambda e: isinstance(e, LogEvent) and (e.message, e.level) == ("ä\n€", "WARNING"),
    ),
    (
        encode_head(
            "report_asset_materialization",
            {
                "asset_key": "a/b",
                "data_version": "v",
                "metadata": encode_metadata(METADATA, method="m"),
            },
        ),
        lambda e: (
            isinstance(e, MaterializationEvent)
            and (e.asset_key, e.data_version) == ("a/b", "v")
            and e.metadata
            == {"rows": MetadataValue("__infer__", 3), "text": MetadataValue("md", "*")}
        ),
    ),
    (
        encode_head(
            "report_asset_materialization",
            {"asset_key": "a", "data_version": None, "metadata": None},
        ),
        lambda e: (
            isinstance(e, MaterializationEvent) and (e.metadata, e.data_version) == ({}, None)
        ),
    ),
    (
        encode_head(
            "report_asset_check",
            {
                "asset_key": "a",
                "check_name": "c",
                "passed": False,
                "metadata": None,
                "severity": "WARN",
            },
        ),
        lambda e: (
            isinstance(e, AssetCheckEvent)
            and (e.asset_key, e.check_name, e.passed, e.severity, e.metadata)
            == ("a", "c", False, "WARN", {})
        ),
    ),
    (
        encode_custom_head({"deep": [None, 2**70]}),
        lambda e: isinstance(e, CustomMessageEvent) and e.payload == {"deep": [None, 2**70]},
    ),
    (encode_custom_head(None), lambda e: isinstance(e, CustomMessageEvent) and e.payload is None),
    (
        encode_head("log_external_stream", {"stream": "stderr", "text": "x", "extras": {"y": 1}}),
        lambda e: (
            isinstance(e, ExternalStreamEvent)
            and (e.stream, e.text, e.extras) == ("stderr", "x", {"y": 1})
        ),
    ),
]


def test_all_seven_are_tried() -> None:
    tried = {json.loads(head + PLAIN_TAIL)["method"] for head, _ in SEVEN}
    assert tried == set(METHODS)


@pytest.mark.parametrize(("head", "is_right"), SEVEN)
def test_what_is_encoded_is_decoded(head: bytes, is_right: Callable[[Event], bool]) -> None:
    event = one(head + PLAIN_TAIL)
    assert is_right(event), event
    assert (event.sequence, event.sent_at, event.writer) == (None, None, None)
    assert (event.received_at, event.position) == (NOW, 0)

    event = one(Ours()(head))
    assert is_right(event), event
    assert (event.sequence, event.sent_at, event.writer) == (1, NOW - 1, "w")
    assert (event.received_at, event.position) == (NOW, 0)


@pytest.mark.parametrize("method", ["opened", "closed"])
@pytest.mark.parametrize("params", [',"params":null', ""])
def test_opened_and_closed_may_go_without_params(method: str, params: str) -> None:
    line = f'{{"__dagster_pipes_version":"0.1","method":"{method}"{params}}}\n'
    assert not isinstance(one(line.encode()), MalformedEvent)


def message(method: str, params: Any, **top: Any) -> bytes:
    value = {"__dagster_pipes_version": "0.1", "method": method, "params": params, **top}
    return json.dumps(value).encode() + b"\n"


def changed(method: str, **changes: Any) -> bytes:
    """A good message of that method with parameters changed; ``...`` leaves one out."""
    good: dict[str, dict[str, Any]] = {
        "opened": {"extras": {}},
        "closed": {},
        "log": {"message": "m", "level": "INFO"},
        "report_asset_materialization": {"asset_key": "a", "data_version": None, "metadata": {}},
        "report_asset_check": {
            "asset_key": "a",
            "check_name": "c",
            "passed": True,
            "severity": "ERROR",
            "metadata": None,
        },
        "report_custom_message": {"payload": 1},
        "log_external_stream": {"stream": "stdout", "text": "t", "extras": {}},
    }
    params = {**good[method], **changes}
    return message(method, {key: value for key, value in params.items() if value is not ...})


#: Each is reported with its reason, and what follows arrives.
MALFORMED: list[tuple[bytes, str]] = [
    (b"garbage\n", ""),
    (b"\n", "empty"),
    (b"  \t\r\n", "empty"),
    (b'{"a": 1\n', ""),
    (b"{}{}\n", ""),
    (b"[1]\n", "this is an array"),
    (b'"text"\n', "this is a string"),
    (b"3\n", "this is a number"),
    (b"null\n", "this is nothing"),
    (b"true\n", "this is a boolean"),
    (b"{}\n", "'__dagster_pipes_version' is missing"),
    (b"\xff\xfe\x00\n", ""),
    (b'{"__dagster_pipes_version":"0.1","method":"log","params":{"message":"\xc3"}}\n', ""),
    (message("log", {}, __dagster_pipes_version="0.2"), "protocol version '0.2'"),
    (message("log", {}, __dagster_pipes_version=0.1), "protocol version 0.1"),
    (message("log", {}, __dagster_pipes_version=["0.1"]), "protocol version"),
    (message("report_everything", {}), "unknown method 'report_everything'"),
    (message("asyncpipes.heartbeats", {}), "unknown method"),
    (b'{"__dagster_pipes_version":"0.1","params":{}}\n', "unknown method None"),
    (b'{"__dagster_pipes_version":"0.1","method":["log"],"params":{}}\n', "unknown method"),
    (b'{"__dagster_pipes_version":"0.1","method":"log"}\n', "log: 'params' is missing"),
    (message("log", None), "log: 'params' must be an object, got nothing"),
    (message("log", [1]), "log: 'params' must be an object, got an array"),
    (message("opened", []), "opened: 'params' must be an object, got an array"),
    (message("closed", "x"), "closed: 'params' must be an object, got a string"),
    (changed("opened", extras=[1]), "opened: 'extras'"),
    (changed("opened", other=1), "opened: unknown parameter 'other'"),
    (changed("closed", other=1), "closed: unknown parameter 'other'"),
    (changed("closed", exception="text"), "exception"),
    (changed("log", message=...), "log: 'message' must be a string"),
    (changed("log", message=1), "log: 'message' must be a string, got a number"),
    (changed("log", level="Level 25"), "log: 'level' must be one of DEBUG, INFO"),
    (changed("log", level=25), "log: 'level'"),
    (changed("log", level=None), "log: 'level'"),
    (changed("log", level=["INFO"]), "log: 'level'"),
    (changed("log", other=1), "log: unknown parameter 'other'"),
    (message("log", {"message": "m", "level": "INFO"}, fields=[1]), "'fields' must be an object"),
    (changed("report_asset_materialization", asset_key=...), "'asset_key' must be a string"),
    (changed("report_asset_materialization", asset_key=["a"]), "'asset_key' must be a string"),
    (changed("report_asset_materialization", data_version=1), "'data_version' must be a string"),
    (changed("report_asset_materialization", metadata=[1]), "metadata"),
    (changed("report_asset_materialization", metadata={"k": 1}), "k"),
    (
        changed(
            "report_asset_materialization",
            metadata={"k": {"type": "from_the_future", "raw_value": 1}},
        ),
        "from_the_future",
    ),
    (changed("report_asset_materialization", other=1), "unknown parameter 'other'"),
    (changed("report_asset_check", asset_key=None), "'asset_key' must be a string"),
    (changed("report_asset_check", check_name=...), "'check_name' must be a string"),
    (changed("report_asset_check", passed="yes"), "'passed' must be a boolean"),
    (changed("report_asset_check", passed=1), "'passed' must be a boolean"),
    (changed("report_asset_check", severity="INFO"), "'severity' must be WARN or ERROR"),
    (changed("report_asset_check", severity=...), "'severity' must be WARN or ERROR"),
    (changed("report_asset_check", severity=["WARN"]), "'severity' must be WARN or ERROR"),
    (changed("report_asset_check", other=1), "unknown parameter 'other'"),
    (changed("report_custom_message", payload=...), "'payload' is missing"),
    (changed("report_custom_message", other=1), "unknown parameter 'other'"),
    (changed("log_external_stream", stream="stdin"), "'stream' must be stdout or stderr"),
    (changed("log_external_stream", stream=["stdout"]), "'stream' must be stdout or stderr"),
    (changed("log_external_stream", text=None), "'text' must be a string"),
    (changed("log_external_stream", extras="x"), "'extras' must be an object"),
    (changed("log_external_stream", other=1), "unknown parameter 'other'"),
    (message("closed", {}, writer=3, seq=1, sent_at=1.5), "'writer' must be a string"),
    (message("closed", {}, writer="w"), "'seq' must be a positive integer"),
    (message("closed", {}, writer="w", seq=0, sent_at=1.5), "'seq' must be a positive integer"),
    (message("closed", {}, writer="w", seq=True, sent_at=1.5), "'seq' must be a positive integer"),
    (message("closed", {}, writer="w", seq=1), "'sent_at' must be a number"),
    (
        message("closed", {}, writer="w", seq=1, sent_at=1.5, dropped="x"),
        "'dropped' must be a positive integer",
    ),
    (
        message("closed", {}, writer="w", seq=2**63, sent_at=1.5),
        "'seq' must be a positive integer of at most 63 bits, got 9223372036854775808",
    ),
    (
        message("closed", {}, writer="w", seq=1, sent_at=1.5, dropped=10**4000),
        "'dropped' must be a positive integer of at most 63 bits, got 1000000",
    ),
    (
        message("opened", {}, writer="w", seq=1, sent_at=1.5, pid=2**63),
        "'pid' must be a positive integer of at most 63 bits",
    ),
    (
        message("closed", {}, writer="w", seq=1, sent_at=float("nan")),
        "'sent_at' must be a finite number, got nan",
    ),
    (
        message("closed", {}, writer="w", seq=1, sent_at=float("-inf")),
        "'sent_at' must be a finite number, got -inf",
    ),
    (
        message("closed", {}, writer="w" * 65, seq=1, sent_at=1.5),
        "'writer' must have 64 characters at most, got 65",
    ),
    (b"[" * 100_000 + b"\n", ""),
]


@pytest.mark.parametrize(("line", "reason"), MALFORMED)
@pytest.mark.parametrize("piecewise", [False, True])
def test_a_malformed_line_is_an_event_and_reading_goes_on(
    line: bytes, reason: str, piecewise: bool
) -> None:
    before, after = OPENED + PLAIN_TAIL + GOOD, GOOD + CLOSED + PLAIN_TAIL
    data = before + line + after
    cut = len(before) + len(line) // 2
    events, reader = read(*([data[:cut], data[cut:]] if piecewise else [data]))
    assert [type(event) for event in events] == [
        OpenedEvent,
        LogEvent,
        MalformedEvent,
        LogEvent,
        ClosedEvent,
    ]
    malformed = events[2]
    assert isinstance(malformed, MalformedEvent)
    assert malformed.raw == line[:-1][:RAW_LIMIT]
    assert reason in malformed.reason
    assert malformed.reason
    assert malformed.position == len(before)
    assert events[3].position == len(before) + len(line)
    assert reader.state.malformed == 1
    assert reader.state.closed


@pytest.mark.parametrize("level", ["info", "Warning", "ERROR"])
def test_a_level_in_any_case_is_taken(level: str) -> None:
    event = one(changed("log", level=level))
    assert isinstance(event, LogEvent)
    assert event.level == level.upper()


def test_unknown_keys_on_top_are_ignored() -> None:
    event = one(message("report_custom_message", {"payload": 1}, future={"x": 1}, seq=7))
    assert isinstance(event, CustomMessageEvent)
    assert event.sequence is None


def test_fields_come_with_a_log_line() -> None:
    event = one(Ours()(encode_log_head("m", "INFO", {"line": 3})))
    assert isinstance(event, LogEvent)
    assert (event.message, event.fields, event.sequence) == ("m", {"line": 3}, 1)
    plain = one(GOOD)
    assert isinstance(plain, LogEvent)
    assert plain.fields == {}


# The end.


def test_a_truncated_last_line_is_reported() -> None:
    data = OPENED + PLAIN_TAIL + GOOD[:-10]
    events, reader = read(data)
    assert isinstance(events[-1], MalformedEvent)
    assert events[-1].reason.startswith("the last line is cut off: ")
    assert events[-1].raw == GOOD[:-10]
    assert events[-1].position == len(OPENED) + 2
    assert reader.state.malformed == 1
    assert reader.position == len(data)


def test_a_last_line_that_lacks_its_newline_alone_is_a_message() -> None:
    events, reader = read(GOOD + GOOD[:-1])
    assert [type(event) for event in events] == [LogEvent, LogEvent]
    assert reader.state.malformed == 0


def test_an_oversized_line_is_reported() -> None:
    for exact in (b"x", b"1" * 30):  # a long number, too, which takes another way
        reader = SessionReader(line_limit=len(GOOD))
        events, sizes = reader.receive_data(GOOD + exact * 500 + b"\n" + GOOD, NOW)
        assert [type(event) for event in events] == [LogEvent, MalformedEvent, LogEvent]
        malformed = events[1]
        assert isinstance(malformed, MalformedEvent)
        assert f"the line is {500 * len(exact)} bytes long, over the limit" in malformed.reason
        assert malformed.raw == (exact * 500)[:RAW_LIMIT]
        assert sizes == [len(GOOD), 500 * len(exact) + 1, len(GOOD)]
        reader.receive_data(exact * 500, NOW)
        events, _ = reader.receive_end(NOW)
        assert isinstance(events[0], MalformedEvent)
        assert "over the limit" in events[0].reason


def test_an_oversized_line_in_pieces_is_reported() -> None:
    reader = SessionReader(line_limit=100)
    assert reader.receive_data(b"x" * 150, NOW) == ([], [])
    events, sizes = reader.receive_data(b"x\n" + GOOD, NOW)
    assert [type(event) for event in events] == [MalformedEvent, LogEvent]
    assert sizes == [152, len(GOOD)]


# Cuts.


@pytest.mark.parametrize("cut", range(60))
def test_long_digits_across_a_cut_stay_exact(cut: int) -> None:
    number = 123456789012345678901234567890
    line = message("report_custom_message", {"payload": [number, "é"]})
    start = line.index(b"123")
    events, _ = read(GOOD + line[: start - 10 + cut], line[start - 10 + cut :] + GOOD)
    assert isinstance(events[1], CustomMessageEvent)
    assert events[1].payload == [number, "é"]


def test_long_digits_over_many_chunks() -> None:
    line = message("report_custom_message", {"payload": -(2**200)})
    events, _ = read(*(bytes([byte]) for byte in line))
    assert isinstance(events[0], CustomMessageEvent)
    assert events[0].payload == -(2**200)


def session() -> bytes:
    """All seven methods of a writer of ours, malformed lines and a gap among them."""
    ours = Ours()
    lines = [ours(OPENED)]
    for head, _ in SEVEN[3:]:
        lines += [ours(head), b"garbage \xe2\x82\xac\n"]
    lines += [ours(encode_log_head("after a gap ä", "INFO"), skip=3), ours(CLOSED, dropped=2)]
    return b"".join(lines)


WHOLE = session()


def facts(events: list[Event], reader: SessionReader) -> Any:
    state = reader.state
    return events, state.malformed, state.missing, state.dropped, state.violations, state.closed


def test_a_cut_at_every_byte_changes_nothing() -> None:
    whole = facts(*read(WHOLE))
    assert whole[1:] == (7, 3, 2, [], True)
    for cut in range(len(WHOLE)):
        assert facts(*read(WHOLE[:cut], WHOLE[cut:])) == whole


def test_byte_by_byte_changes_nothing() -> None:
    assert facts(*read(*(bytes([byte]) for byte in WHOLE))) == facts(*read(WHOLE))


@given(st.lists(st.integers(0, len(WHOLE)), max_size=12))
def test_any_cuts_change_nothing(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WHOLE)]
    chunks = [WHOLE[a:b] for a, b in itertools.pairwise(edges)]
    assert facts(*read(*chunks)) == facts(*read(WHOLE))


@given(st.lists(st.binary(max_size=80), max_size=12))
def test_any_bytes_at_all_end_in_events(chunks: list[bytes]) -> None:
    data = b"".join(chunks)
    events, reader = read(*chunks)
    assert len(events) == data.count(b"\n") + (not data.endswith(b"\n") and data != b"")
    assert reader.position == len(data)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON_VALUES)
def test_any_payload_comes_back_as_it_was(payload: Any) -> None:
    try:
        head = encode_custom_head(payload)
    except TypeError:  # infinities
        assert "inf" in repr(payload)
        return
    event = one(head + PLAIN_TAIL)
    assert isinstance(event, CustomMessageEvent)
    assert event.payload == payload


# Numbers.


def test_a_gap_stands_in_front_of_the_message_that_shows_it() -> None:
    ours = Ours()
    data = ours(OPENED) + ours(CLOSED, skip=4)
    reader = SessionReader()
    events, sizes = reader.receive_data(data, NOW)
    assert [type(event) for event in events] == [OpenedEvent, GapEvent, ClosedEvent]
    gap = events[1]
    assert isinstance(gap, GapEvent)
    assert (gap.first, gap.last, gap.writer) == (2, 5, "w")
    assert (gap.received_at, gap.position) == (NOW, sizes[0])
    assert reader.state.missing == 4
    assert sizes == [len(data) - sizes[2], 0, sizes[2]]


def test_a_gap_in_front_of_a_malformed_message_is_told_once() -> None:
    ours = Ours()
    ours(OPENED)
    bad = ours(encode_head("log", {"message": "m", "level": "LOUD"}))
    events, reader = read(bad + ours(CLOSED))
    assert [type(event) for event in events] == [GapEvent, MalformedEvent, ClosedEvent]
    assert (reader.state.missing, reader.state.malformed) == (1, 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"method":"log"', b'"method":"unheard_of"'), (b'"0.1"', b'"9.9"'), (b'"sent_at":', b'"x":')],
)
def test_a_malformed_message_is_not_missing_as_well(old: bytes, new: bytes) -> None:
    ours = Ours()
    opened = ours(OPENED)
    bad = ours(encode_log_head("m", "INFO"))
    assert old in bad
    events, reader = read(opened + bad.replace(old, new) + ours(CLOSED))
    assert [type(event) for event in events] == [OpenedEvent, MalformedEvent, ClosedEvent]
    assert (reader.state.missing, reader.state.malformed) == (0, 1)


@pytest.mark.parametrize("again", [1, 2])
def test_a_number_that_was_used_is_malformed(again: int) -> None:
    ours = Ours()
    first = [ours(OPENED), ours(encode_custom_head("x"))]
    repeated = encode_custom_head("y") + extension_tail("w", again, NOW)
    events, reader = read(b"".join(first) + repeated + ours(CLOSED))
    assert [type(event) for event in events] == [
        OpenedEvent,
        CustomMessageEvent,
        MalformedEvent,
        ClosedEvent,
    ]
    assert isinstance(events[2], MalformedEvent)
    assert f"message number {again} of writer w came after number 2" in events[2].reason
    assert (reader.state.malformed, reader.state.missing) == (1, 0)


def test_each_writer_counts_for_itself() -> None:
    a, b = Ours("a"), Ours("b")
    data = a(OPENED) + b(OPENED) + b(encode_custom_head(1)) + a(CLOSED) + b(CLOSED)
    events, reader = read(data)
    assert [(event.writer, event.sequence) for event in events] == [
        ("a", 1),
        ("b", 1),
        ("b", 2),
        ("a", 2),
        ("b", 3),
    ]
    assert (reader.state.missing, reader.state.violations) == (0, [])


def test_drop_counts_are_totals_of_each_writer() -> None:
    a, b = Ours("a"), Ours("b")
    custom = encode_custom_head(1)
    data = a(OPENED) + b(OPENED) + a(custom, dropped=2) + b(custom, dropped=10)
    data += a(custom, dropped=5) + a(CLOSED, dropped=5) + b(CLOSED, dropped=10)
    assert read(data)[1].state.dropped == 15


# What the table says, seen from the wire.


def test_a_message_out_of_turn_is_delivered_and_flagged() -> None:
    events, reader = read(GOOD + OPENED + PLAIN_TAIL + CLOSED + PLAIN_TAIL + GOOD)
    assert [type(event) for event in events] == [LogEvent, OpenedEvent, ClosedEvent, LogEvent]
    assert len(reader.state.violations) == 2


def test_output_of_a_stock_script_after_closed_is_in_order() -> None:
    """It stops copying its output only after it has sent ``closed``."""
    late = encode_head("log_external_stream", {"stream": "stdout", "text": "x", "extras": {}})
    data = OPENED + PLAIN_TAIL + CLOSED + PLAIN_TAIL + late + PLAIN_TAIL
    events, reader = read(data)
    assert isinstance(events[-1], ExternalStreamEvent)
    assert reader.state.violations == []
    assert reader.state.closed


def test_a_change_of_writers_is_seen_by_the_state() -> None:
    ours = Ours()
    data = OPENED + PLAIN_TAIL + GOOD + ours(encode_custom_head(1)) + GOOD + CLOSED + PLAIN_TAIL
    _, reader = read(data)
    assert reader.state.violations == [
        "a message came from writer w while its context was not opened"
    ]


# Heartbeats, and who sent them.


def test_a_heartbeat_is_no_event_and_no_gap() -> None:
    ours = Ours()
    beat = encode_heartbeat("w", 10.0, 0.25, 4711, NOW)
    data = ours(OPENED) + beat + ours(encode_custom_head(1)) + beat + ours(CLOSED)
    reader = SessionReader()
    events, sizes = reader.receive_data(data, NOW, 77.5)
    assert [event.sequence for event in events] == [1, 2, 3]
    assert events[1].position == sizes[0] + len(beat)
    assert (reader.state.missing, reader.state.malformed, reader.state.duplicates) == (0, 0, 0)
    assert reader.state.violations == []
    writer = reader.state.get("w")
    assert writer is not None
    assert (writer.pid, writer.lag, writer.interval) == (4711, 0.25, 10.0)
    assert writer.heard_at == 77.5


def test_nothing_but_heartbeats_at_the_end_is_no_event() -> None:
    ours = Ours()
    beat = encode_heartbeat("w", 10.0, None, 1, NOW)
    events, reader = read(ours(OPENED) + beat + beat[:-1])
    assert [type(event) for event in events] == [OpenedEvent]
    assert reader.state.malformed == 0


def beat(**changes: Any) -> bytes:
    """A heartbeat with params or top-level keys changed; ``...`` leaves one out."""
    value = json.loads(encode_heartbeat("w", 10.0, 0.25, 4711, NOW))
    for key, change in changes.items():
        home = value if key in value or key == "seq" else value["params"]
        home[key] = change
        if change is ...:
            del home[key]
    return json.dumps(value).encode() + b"\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (beat(interval=0), "'interval' must be a number from 0.01 to 86400, got 0"),
        (beat(interval=-1.5), "'interval' must be a number from 0.01 to 86400"),
        (beat(interval=1e-300), "'interval' must be a number from 0.01 to 86400"),
        (beat(interval=10**400), "'interval' must be a number from 0.01 to 86400"),
        (beat(interval=True), "'interval' must be a number from 0.01 to 86400, got True"),
        (beat(interval=...), "'interval' must be a number from 0.01 to 86400, got None"),
        (beat(lag=-0.5), "'lag' must be a number from 0 or null"),
        (beat(lag="1"), "'lag' must be a number from 0 or null, got '1'"),
        (beat(lag=float("inf")), "'lag' must be a number from 0 or null"),
        (beat(pid=0), "'pid' must be a positive integer, got 0"),
        (beat(pid=...), "'pid' must be a positive integer, got None"),
        (beat(pid=2**63), "'pid' must be a positive integer of at most 63 bits"),
        (beat(more=1), "unknown parameter 'more'"),
        (beat(params=[]), "'params' must be an object, got an array"),
        (beat(sent_at="now"), "'sent_at' must be a number, got a string"),
        (beat(sent_at=float("inf")), "'sent_at' must be a finite number, got inf"),
        (beat(writer="v" * 65), "'writer' must have 64 characters at most, got 65"),
        (beat(__dagster_pipes_version="0.2"), "protocol version '0.2'"),
        (beat(seq=3), "unknown method 'asyncpipes.heartbeat'"),
        (beat(writer=...), "unknown method 'asyncpipes.heartbeat'"),
        (beat(writer="v"), "from writer v while its context was not opened"),
    ],
)
def test_a_heartbeat_that_is_none_is_malformed(line: bytes, reason: str) -> None:
    ours = Ours()
    events, reader = read(ours(OPENED) + ours(encode_custom_head(1)) + line + GOOD)
    bad = events[2]
    assert isinstance(bad, MalformedEvent)
    assert reason in bad.reason
    assert isinstance(events[-1], LogEvent)
    assert reader.state.malformed == 1


def test_a_heartbeat_after_closed_is_malformed() -> None:
    ours = Ours()
    events, reader = read(ours(OPENED) + ours(CLOSED) + beat())
    assert isinstance(events[-1], MalformedEvent)
    assert "from writer w while its context was closed" in events[-1].reason
    assert reader.state.closed


def test_opened_may_say_which_process_it_is() -> None:
    _, reader = read(Ours("a")(OPENED + b',"pid":4711') + Ours("b")(OPENED))
    assert [(w.name, w.pid) for w in reader.state.unclosed] == [("a", 4711), ("b", None)]


@pytest.mark.parametrize("pid", ["0", "-1", "1.5", "true", '"4711"', "null"])
def test_a_process_id_is_a_positive_integer(pid: str) -> None:
    event = one(Ours()(OPENED + b',"pid":' + pid.encode()))
    assert isinstance(event, MalformedEvent)
    assert "'pid' must be a positive integer" in event.reason
    # What a stock script has at the top is its own affair.
    assert isinstance(one(OPENED + b',"pid":' + pid.encode() + PLAIN_TAIL), OpenedEvent)


def test_when_each_writer_was_heard() -> None:
    a, b = Ours("a"), Ours("b")
    reader = SessionReader()
    heard: dict[str, float] = {}

    def read_at(now: float, data: bytes) -> dict[str, float]:
        reader.receive_data(data, NOW, now)
        for writer in reader.state.unclosed:
            heard[str(writer.name)] = writer.heard_at
        return heard

    custom = encode_custom_head(1)
    assert read_at(1.0, a(OPENED) + b(OPENED)) == {"a": 1.0, "b": 1.0}
    assert read_at(2.0, a(custom) + a(custom)) == {"a": 2.0, "b": 1.0}
    assert read_at(3.0, a(custom)) == {"a": 3.0, "b": 1.0}
    assert read_at(4.0, GOOD) == {"a": 3.0, "b": 1.0}
    assert read_at(5.0, a(custom) + b(custom)) == {"a": 5.0, "b": 5.0}
    repeated = b(custom)
    read_at(6.0, repeated)
    assert read_at(7.0, repeated) == {"a": 5.0, "b": 7.0}


def test_the_largest_numbers_and_the_longest_id_are_taken() -> None:
    most = 2**63 - 1
    name = "w" * 64
    data = message("opened", {}, writer=name, seq=1, sent_at=-1e308, pid=most)
    data += message("closed", {}, writer=name, seq=most, sent_at=1e308, dropped=most)
    events, reader = read(data)
    assert [type(event) for event in events] == [OpenedEvent, GapEvent, ClosedEvent]
    assert (reader.state.missing, reader.state.dropped) == (most - 2, most)


def test_of_ids_that_are_too_long_nothing_is_kept() -> None:
    reader = SessionReader()
    for number in range(3):
        line = message("opened", {}, writer=f"{number}" + "x" * 100_000, seq=1, sent_at=1.5)
        events, _ = reader.receive_data(line + line, NOW)
        assert [type(event) for event in events] == [MalformedEvent] * 2
    assert not reader.state.is_numbered  # which it is once any writer is known
    assert (reader.state.contexts, reader.state.touched) == (0, set())
