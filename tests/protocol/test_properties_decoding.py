"""Any line at all: the reader never raises, accounts for every byte, and reads on.

What the encoding side sends arrives as it was, whatever is in it.
"""

from __future__ import annotations

import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncpipes.errors import InvalidParameterError
from asyncpipes.protocol import codec
from asyncpipes.protocol.events import (
    CustomMessageEvent,
    Event,
    ExternalStreamEvent,
    GapEvent,
    LogEvent,
    MalformedEvent,
    MaterializationEvent,
)
from asyncpipes.protocol.framing import RAW_LIMIT
from asyncpipes.protocol.messages import (
    METHODS,
    PLAIN_TAIL,
    encode_custom_head,
    encode_head,
    encode_log_head,
    extension_tail,
)
from asyncpipes.protocol.outcome import judge
from asyncpipes.protocol.reading import SessionReader
from tests.protocol.strategies import (
    as_received,
    cuts,
    deep_values,
    integers,
    json_values,
    texts,
    wrapped,
)

NOW = 1_767_225_600.0

EXCEPTION = {"message": "E\n", "stack": ["s"], "name": "E", "cause": None, "context": None}
PARAMS: dict[str, dict[str, Any]] = {
    "opened": {"extras": {"a": 1}},
    "closed": {"exception": {**EXCEPTION, "cause": EXCEPTION, "exceptions": [EXCEPTION]}},
    "log": {"message": "hi", "level": "INFO"},
    "report_asset_materialization": {
        "asset_key": "orders",
        "data_version": "v1",
        "metadata": {"rows": {"raw_value": 5, "type": "int"}},
    },
    "report_asset_check": {
        "asset_key": "orders",
        "check_name": "c",
        "passed": True,
        "severity": "WARN",
        "metadata": {"rows": {"raw_value": [1], "type": "json"}},
    },
    "report_custom_message": {"payload": {"a": [1, 2.5, None]}},
    "log_external_stream": {"stream": "stdout", "text": "t", "extras": {"a": 1}},
    "asyncpipes.heartbeat": {"interval": 10.0, "lag": 0.5, "pid": 4711},
}


EXTENSION = {"writer": "w", "seq": 1, "sent_at": NOW, "dropped": 1, "pid": 1, "fields": {"a": 1}}


def message(method: str, *, extended: bool = False) -> dict[str, Any]:
    """A valid message that nothing else shares a value with."""
    found = {"__dagster_pipes_version": "0.1", "method": method, "params": PARAMS[method]}
    copy: dict[str, Any] = orjson.loads(orjson.dumps({**found, **(EXTENSION if extended else {})}))
    return copy


def message_of(method: str, **changes: Any) -> bytes:
    """A message with the extension, changed, as a line without its newline."""
    return codec.dumps({**message(method, extended=True), **changes}, where="test")


messages = st.builds(message, st.sampled_from(sorted(PARAMS)), extended=st.booleans())


#: What a hostile script may put in the place of a number, sums of which must still be printed.
huge = st.integers(1, 4300).map(lambda digits: 10**digits - 1) | st.sampled_from(
    [2**63 - 1, 2**63, 2**64, -(2**63), 1e308, 0]
)


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """A message of one of several writers, with any numbers where the extension has some."""
    found = message(draw(st.sampled_from(sorted(PARAMS))), extended=True)
    found["writer"] = draw(st.sampled_from(["w", "v", "u", "x" * 100]))
    for key in draw(st.sets(st.sampled_from(["seq", "dropped", "pid", "sent_at"]))):
        found[key] = draw(huge)
    if draw(st.booleans()) and "pid" in found["params"]:
        found["params"] = dict.fromkeys(found["params"], draw(huge))
    return codec.dumps(found, where="test")


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places inside nested objects and arrays."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[tuple[Any, ...]] = []
    for key, each in inner:
        found.append((*path, key))
        if isinstance(each, (dict, list)):
            found += paths(each, (*path, key))
    return found


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A valid message with some of its values changed, gone, or joined by others."""
    mutant = draw(messages)
    for _ in range(draw(st.integers(1, 3))):
        places = paths(mutant)
        *parents, key = draw(st.sampled_from(places)) if places else ("params",)
        parent = mutant
        for each in parents:
            parent = parent[each]
        change = draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "remove":
            del parent[key]
        elif change == "add" and isinstance(parent, dict):
            parent[draw(texts)] = draw(json_values)
        else:
            parent[key] = draw(deep_values)
    return codec.dumps(mutant, where="test")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid message some of whose bytes are gone, changed or put in."""
    line = bytearray(codec.dumps(draw(messages), where="test"))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(line)))
        end = min(len(line), start + draw(st.integers(0, 6)))
        line[start:end] = draw(st.binary(max_size=6))
    return bytes(line)


def read(stream: bytes, pieces: list[bytes]) -> tuple[SessionReader, list[Event]]:
    """All events of a stream; checks that they account for every byte of it."""
    reader = SessionReader()
    events: list[Event] = []
    sizes: list[int] = []
    for piece in pieces:
        new, of_them = reader.receive_data(piece, NOW)
        events += new
        sizes += of_them
    new, of_them = reader.receive_end(NOW)
    events += new
    sizes += of_them
    assert len(events) == len(sizes)
    lines = stream.split(b"\n")
    if not lines[-1]:
        lines.pop()
    gaps = [event for event in events if isinstance(event, GapEvent)]
    beats = [line for line in lines if b"asyncpipes.heartbeat" in line]
    told = len(events) - len(gaps)
    assert told <= len(lines)
    # What is passed over is a heartbeat, or a line that had come before.
    assert len(lines) - told - reader.state.duplicates <= len(beats)
    assert [size for size, event in zip(sizes, events, strict=True) if not size] == [0] * len(gaps)
    if told == len(lines):
        assert sum(sizes) == len(stream) + (not stream.endswith(b"\n") and bool(stream))
    malformed = [event for event in events if isinstance(event, MalformedEvent)]
    assert len(malformed) == reader.state.malformed
    for event in malformed:
        assert event.reason
        assert len(event.reason) < 400
        assert len(event.raw) <= RAW_LIMIT
        assert event.position is not None
        assert stream[event.position :].startswith(event.raw)
    outcome = judge(reader.state)  # whatever came, it can be said how it ended
    assert all(len(reason) < 400 for reason in outcome.reasons)
    assert outcome.ok <= (not malformed and not gaps)
    return reader, events


GOOD_OPENED = encode_head("opened", {}) + extension_tail("zz", 1, NOW)
GOOD = encode_log_head("still here", "INFO") + extension_tail("zz", 2, NOW)


def reads_on(line: bytes) -> list[Event]:
    """The events of a line, after which a good message must arrive."""
    stream = GOOD_OPENED + line + b"\n" + GOOD
    _, events = read(stream, [stream])
    assert isinstance(events[-1], LogEvent)
    assert (events[-1].message, events[-1].sequence) == ("still here", 2)
    return events[1:-1]


@given(st.data(), st.lists(st.binary(max_size=60) | st.just(b"\n"), max_size=8).map(b"".join))
def test_any_bytes(data: st.DataObject, stream: bytes) -> None:
    _, events = read(stream, data.draw(cuts(stream)))
    assert all(isinstance(event, MalformedEvent) for event in events)


@given(json_values)
@example({})
@example(0)
def test_any_json(value: Any) -> None:
    [event] = reads_on(codec.dumps(value, where="test"))
    assert isinstance(event, MalformedEvent)


@given(st.lists(hostile(), min_size=1, max_size=12))
@example([message_of("closed", writer=w, seq=10**4300 - 1) for w in "ab"])
@example([message_of("opened", writer=w, dropped=10**4300 - 1) for w in "ab"])
def test_any_numbers_of_several_writers(lines: list[bytes]) -> None:
    stream = b"\n".join(lines)
    reader, _ = read(stream, [stream])
    state = reader.state
    assert 0 <= state.missing < len(lines) * 2**63
    assert 0 <= state.dropped < len(lines) * 2**63
    for writer in state.unclosed:
        assert len(writer.name or "") <= 64
        assert (writer.pid or 0) < 2**63


@given(mutants())
def test_a_message_with_any_values(line: bytes) -> None:
    assert len(reads_on(line)) <= 2


@given(damaged())
def test_a_damaged_message(line: bytes) -> None:
    reads_on(line)


@given(st.data(), st.lists(mutants() | damaged() | messages.map(orjson.dumps), max_size=6))
def test_cuts_change_nothing(data: st.DataObject, lines: list[bytes]) -> None:
    stream = b"\n".join(lines)
    whole = read(stream, [stream])[1]
    assert read(stream, data.draw(cuts(stream)))[1] == whole


def one(line: bytes) -> Event:
    """The event of one line of an open writer ``w``."""
    reader = SessionReader()
    reader.receive_data(encode_head("opened", {}) + extension_tail("w", 1, NOW), NOW)
    [event], [size] = reader.receive_data(line, NOW)
    assert size == len(line)
    assert reader.state.malformed == reader.state.missing == reader.state.violation_count == 0
    return event


tails = st.sampled_from([extension_tail("w", 2, NOW), extension_tail("w", 2, NOW, 3)])


@given(deep_values, tails)
def test_any_payload_arrives(payload: Any, tail: bytes) -> None:
    event = one(encode_custom_head(payload) + tail)
    assert isinstance(event, CustomMessageEvent)
    assert repr(event.payload) == repr(as_received(payload))


@given(texts, st.dictionaries(texts, json_values, max_size=3), tails)
def test_any_log_line_arrives(text: str, fields: dict[str, Any], tail: bytes) -> None:
    event = one(encode_log_head(text, "ERROR", fields) + tail)
    assert isinstance(event, LogEvent)
    assert event.message == as_received(text)
    assert event.level == "ERROR"
    assert repr(event.fields) == repr(as_received(fields))


@given(texts, texts, st.dictionaries(texts, json_values, max_size=3), tails)
def test_any_texts_and_values_arrive(
    key: str, version: str, extras: dict[str, Any], tail: bytes
) -> None:
    params = {
        "asset_key": key,
        "data_version": version,
        "metadata": {key: {"raw_value": extras, "type": "json"}},
    }
    event = one(encode_head("report_asset_materialization", params) + tail)
    assert isinstance(event, MaterializationEvent)
    assert (event.asset_key, event.data_version) == (as_received(key), as_received(version))
    [value] = event.metadata.values()
    assert repr(value.raw_value) == repr(as_received(extras))
    output = {"stream": "stderr", "text": version, "extras": extras}
    event = one(encode_head("log_external_stream", output) + tail)
    assert isinstance(event, ExternalStreamEvent)
    assert event.text == as_received(version)
    assert repr(event.extras) == repr(as_received(extras))


@given(integers)
def test_no_integer_loses_a_digit(number: int) -> None:
    line = encode_custom_head([number, {"n": number}]) + PLAIN_TAIL
    reader = SessionReader()
    reader.receive_data(encode_head("opened", {}) + PLAIN_TAIL, NOW)
    # Cut in every third place, as a channel may cut it.
    events = [
        event
        for start in range(0, len(line), 3)
        for event in reader.receive_data(line[start : start + 3], NOW)[0]
    ]
    [event] = events
    assert isinstance(event, CustomMessageEvent)
    assert event.payload == [number, {"n": number}]
    assert all(type(each) is int for each in (event.payload[0], event.payload[1]["n"]))


# Nesting: a limit on each side, and a reason.

LEVELS = [1, 250, 499, 500, 501, 1000, 1021, 1022, 1023, 1024, 1025, 1100, 3000, 100_000]


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"cause":', b"}"), (b"[", b"")])
def test_nesting_in_any_place(brackets: tuple[bytes, bytes], levels: int) -> None:
    nested = brackets[0] * levels + b"1" + brackets[1] * levels
    for method in PARAMS:
        for *parents, key in paths(message(method, extended=True)):
            mutant = message(method, extended=True)
            parent = mutant
            for each in parents:
                parent = parent[each]
            parent[key] = "HERE"
            before, _, after = orjson.dumps(mutant).partition(b'"HERE"')
            [*_, event] = reads_on(before + nested + after)
            # The message around it has a few levels itself.
            if levels > codec.MAX_NESTING:
                assert isinstance(event, MalformedEvent)
                assert "nested too deeply" in event.reason or "not JSON" in event.reason


@pytest.mark.parametrize("exact", [False, True])
def test_the_limit_of_nesting_to_the_level(exact: bool) -> None:
    # A long integer takes the line through the standard library.
    number = b"1" * 30 if exact else b"1"
    inside = codec.MAX_NESTING - 2  # the message and its params

    def line(levels: int) -> bytes:
        nested = b"[" * levels + number + b"]" * levels
        return encode_custom_head(0)[:-2] + nested + b"}" + PLAIN_TAIL

    assert isinstance(reads_on(line(inside + 1)[:-1])[0], MalformedEvent)
    reader = SessionReader()
    reader.receive_data(GOOD_OPENED, NOW)
    [event], _ = reader.receive_data(line(codec.MAX_NESTING_SENT), NOW)
    assert isinstance(event, CustomMessageEvent)
    if not exact:
        [event], _ = reader.receive_data(line(inside), NOW)
        assert isinstance(event, CustomMessageEvent)


@pytest.mark.parametrize("as_object", [False, True])
@pytest.mark.parametrize("inner", [1, 2**80, "\ud800"])
def test_what_is_encoded_is_nested_so_far_and_no_further(as_object: bool, inner: Any) -> None:
    # An object takes the walk two of the interpreter's 1,000 frames, so it may end sooner.
    levels = 400 if as_object else codec.MAX_NESTING_SENT
    reached = one(
        encode_custom_head(wrapped(inner, levels, as_object)) + extension_tail("w", 2, NOW)
    )
    assert isinstance(reached, CustomMessageEvent)
    for deeper in (codec.MAX_NESTING_SENT + 1, 990, 5000, 100_000):
        with pytest.raises(InvalidParameterError, match=r"^report_custom.*nested too deeply"):
            encode_custom_head(wrapped(inner, deeper, as_object))


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_brackets_without_end_take_bounded_memory(opening: bytes) -> None:
    line = encode_custom_head(0)[:-2] + opening * 1_000_000
    tracemalloc.start()
    try:
        [event] = reads_on(line)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(event, MalformedEvent)
    assert "nested too deeply" in event.reason
    # orjson's own working space is 12 times the line.
    assert peak < 20 * len(line)


def test_each_method_is_mutated() -> None:
    assert set(METHODS) < set(PARAMS)
