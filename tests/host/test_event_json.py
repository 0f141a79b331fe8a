"""asyncpipes.host.event_json: there and back, and what no such line is."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpipes import (
    AssetCheckEvent,
    ClosedEvent,
    CustomMessageEvent,
    Event,
    ExternalStreamEvent,
    GapEvent,
    HealthEvent,
    LogEvent,
    MalformedEvent,
    MaterializationEvent,
    OpenedEvent,
)
from asyncpipes.errors import MalformedMessageError
from asyncpipes.protocol.events import Level, Severity, Status, Stream
from asyncpipes.protocol.exceptions import PipesException
from asyncpipes.protocol.metadata import MetadataValue
from asyncpipes.protocol.outcome import Outcome

pytestmark = pytest.mark.host

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
whole = st.integers(0, 2**70)
seconds = st.floats(0, 1e12)
scalars = (
    st.none() | st.booleans() | whole | st.floats(allow_nan=False, allow_infinity=False) | text
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3)
)
objects = st.dictionaries(text, values, max_size=3)
metadata = st.dictionaries(text, st.builds(MetadataValue, text, values), max_size=3)
exceptions = st.recursive(
    st.builds(
        PipesException,
        text,
        st.lists(text, max_size=2).map(tuple),
        st.none() | text,
        st.none(),
        st.none(),
        st.lists(text, max_size=2).map(tuple),
    ),
    lambda inner: st.builds(
        lambda one, cause, leaves: replace(one, cause=cause, context=cause, exceptions=leaves),
        inner,
        inner,
        st.lists(inner, max_size=2).map(tuple),
    ),
    max_leaves=5,
)
common: dict[str, Any] = {
    "sequence": st.none() | whole,
    "sent_at": st.none() | seconds,
    "received_at": st.none() | seconds,
    "writer": st.none() | text,
    "position": st.none() | whole,
}
EVENTS: dict[type[Event], dict[str, Any]] = {
    OpenedEvent: {"extras": objects},
    ClosedEvent: {"exception": st.none() | exceptions},
    LogEvent: {"message": text, "level": st.sampled_from(get_args(Level)), "fields": objects},
    MaterializationEvent: {
        "asset_key": text,
        "metadata": metadata,
        "data_version": st.none() | text,
    },
    AssetCheckEvent: {
        "asset_key": text,
        "check_name": text,
        "passed": st.booleans(),
        "severity": st.sampled_from(get_args(Severity)),
        "metadata": metadata,
    },
    CustomMessageEvent: {"payload": values},
    ExternalStreamEvent: {
        "stream": st.sampled_from(get_args(Stream)),
        "text": text,
        "extras": objects,
    },
    MalformedEvent: {"raw": text.map(str.encode), "reason": text},
    GapEvent: {"first": whole, "last": whole},
    HealthEvent: {
        "status": st.sampled_from(get_args(Status)),
        "lag": st.none() | seconds,
        "pid": st.none() | whole,
    },
}
events = st.one_of([st.builds(kind, **common, **own) for kind, own in EVENTS.items()])
number = st.none() | st.integers(0, 1000)
outcomes = st.builds(
    Outcome,
    exit_code=number,
    signal=number,
    opened=st.booleans(),
    closed=st.booleans(),
    exception=st.none() | exceptions,
    malformed=st.integers(0, 9),
    missing=st.integers(0, 9),
    dropped=st.integers(0, 9),
    undelivered=st.integers(0, 9),
    timed_out=st.booleans(),
    cancelled=st.booleans(),
    duration=seconds,
    reasons=st.lists(text, max_size=3).map(tuple),
)


def there_and_back(what: Event | Outcome) -> Event | Outcome:
    from asyncpipes.host.event_json import event_to_json, from_json, outcome_to_json
    from asyncpipes.protocol.codec import loads

    line = outcome_to_json(what) if isinstance(what, Outcome) else event_to_json(what)
    assert b"\n" not in line
    return from_json(loads(line))


def test_every_event_has_a_name_and_a_strategy() -> None:
    from asyncpipes.host.event_json import EVENT_NAMES

    assert set(EVENT_NAMES) == set(EVENTS)
    # By name, since slots make each class twice.
    assert {kind.__name__ for kind in EVENTS} == {k.__name__ for k in Event.__subclasses__()}
    assert len(set(EVENT_NAMES.values())) == len(EVENT_NAMES)
    for kind, own in EVENTS.items():
        assert {field.name for field in fields(kind)} == {*own, *common}


@given(events)
def test_an_event_comes_back(event: Event) -> None:
    assert there_and_back(event) == event


@given(outcomes)
def test_an_outcome_comes_back(outcome: Outcome) -> None:
    back = there_and_back(outcome)
    assert back == outcome
    assert isinstance(back, Outcome)
    assert back.ok == outcome.ok


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_does_not_have_are_texts(number: float) -> None:
    assert there_and_back(CustomMessageEvent([number])) == CustomMessageEvent([repr(number)])


def test_bytes_that_are_no_text_are_escaped() -> None:
    back = there_and_back(MalformedEvent(b"\xff\n{", "why"))
    assert back == MalformedEvent(b"\\xff\n{", "why")


def test_lone_surrogates_come_back() -> None:
    event = LogEvent("\ud800", "INFO", {"\udfff": 1})
    assert there_and_back(event) == event


@pytest.mark.parametrize("levels", [249, 250, 1000])
def test_what_is_nested_too_deeply_is_left_out(levels: int) -> None:
    from asyncpipes.host.event_json import event_to_json

    payload: Any = "core"
    for index in range(levels):
        payload = [payload] if index % 2 else {"k": payload}
    line = event_to_json(CustomMessageEvent(payload))
    assert (b"core" in line) == (levels == 249)
    assert (b"nested too deeply" in line) == (levels > 249)
    assert there_and_back(CustomMessageEvent(payload)) is not None


def test_keys_of_a_later_version_are_passed_over() -> None:
    from asyncpipes.host.event_json import from_json

    assert from_json({"event": "opened", "colour": "blue"}) == OpenedEvent()


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({}, "`event` is None, which is no event"),
        ({"event": "nonsense"}, "`event` is 'nonsense'"),
        ({"event": ["log"]}, "`event` is an array"),
        ({"event": {}}, "`event` is an object"),
        ({"event": 7}, "`event` is 7"),
        ({"event": "log", "level": "INFO"}, "`message` is missing"),
        ({"event": "log", "message": 7, "level": "INFO"}, "`message` is 7"),
        ({"event": "log", "message": "x", "level": "LOUD"}, "'LOUD' is none of DEBUG"),
        ({"event": "log", "message": "x", "level": ["INFO"]}, "`level` is an array"),
        ({"event": "log", "message": "x", "level": "INFO", "fields": []}, "`fields` is"),
        ({"event": "opened", "sent_at": True}, "`sent_at` is True"),
        ({"event": "opened", "sent_at": "now"}, "`sent_at` is 'now'"),
        ({"event": "opened", "sent_at": float("nan")}, "no number of seconds"),
        ({"event": "opened", "received_at": 10**400}, "no number of seconds"),
        ({"event": "opened", "sequence": 1.5}, "`sequence` is 1.5"),
        ({"event": "gap", "first": True, "last": 2}, "`first` is True"),
        ({"event": "gap", "first": 1}, "`last` is missing"),
        ({"event": "asset_check", "asset_key": "a", "check_name": "c", "passed": 1}, "`passed`"),
        ({"event": "materialization", "asset_key": "a", "metadata": []}, "`metadata` is"),
        ({"event": "materialization", "asset_key": "a", "metadata": {"x": 1}}, "metadata 'x'"),
        ({"event": "materialization", "asset_key": "a", "metadata": {"x": {"type": 1}}}, "'x'"),
        ({"event": "closed", "exception": "x"}, "`exception` is 'x'"),
        ({"event": "closed", "exception": {}}, "exception.message"),
        ({"event": "closed", "exception": {"message": "x", "stack": [1]}}, "exception.stack"),
        ({"event": "outcome", "reasons": "x"}, "`reasons` is 'x'"),
        ({"event": "outcome", "reasons": [["x"]]}, "an array is no reason"),
        ({"event": "outcome", "exit_code": "0"}, "`exit_code` is '0'"),
        ({"event": "malformed", "raw": 1, "reason": "x"}, "`raw` is 1"),
    ],
)
def test_what_is_no_such_line(row: dict[str, Any], why: str) -> None:
    from asyncpipes.host.event_json import from_json

    with pytest.raises(MalformedMessageError) as caught:
        from_json(row)
    assert why in str(caught.value)


NAMES = [
    "opened", "closed", "log", "materialization", "asset_check", "custom_message",
    "external_stream", "malformed", "gap", "health", "outcome",
]  # fmt: skip
KEYS = sorted({f.name for kind in (*EVENTS, Outcome) for f in fields(kind)})
wild = values | st.just(float("nan")) | st.just(10**400) | st.just("\ud800")


@given(st.dictionaries(st.sampled_from(KEYS), wild), st.sampled_from(NAMES) | values)
def test_nothing_else_is_raised_whatever_a_row_holds(row: dict[str, Any], name: Any) -> None:
    from asyncpipes.host.event_json import event_to_json, from_json, outcome_to_json

    try:
        what = from_json({**row, "event": name})
    except MalformedMessageError:
        return
    line = outcome_to_json(what) if isinstance(what, Outcome) else event_to_json(what)
    assert json.loads(line)["event"] == name
