"""asyncpipes.protocol.events: immutable values that ``match`` works on."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest

from asyncpipes.protocol import events
from asyncpipes.protocol.events import (
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
from asyncpipes.protocol.reading import SessionReader

COMMON: dict[str, Any] = {
    "sequence": 7,
    "sent_at": 1.5,
    "received_at": 2.5,
    "writer": "w",
    "position": 100,
}
MADE: list[Event] = [
    OpenedEvent({"a": 1}, **COMMON),
    ClosedEvent(None, **COMMON),
    LogEvent("m", "INFO", {"line": 1}, **COMMON),
    MaterializationEvent("a", {}, "v", **COMMON),
    AssetCheckEvent("a", "c", False, "WARN", {}, **COMMON),
    CustomMessageEvent([1], **COMMON),
    ExternalStreamEvent("stdout", "t", {}, **COMMON),
    MalformedEvent(b"x", "why", **COMMON),
    GapEvent(1, 2, **COMMON),
    HealthEvent("blocked", 1.5, 4711, **COMMON),
]


def test_every_class_is_tried() -> None:
    classes = {
        value
        for value in vars(events).values()
        if isinstance(value, type) and issubclass(value, Event) and value is not Event
    }
    assert {type(event) for event in MADE} == classes


@pytest.mark.parametrize("event", MADE)
def test_events_are_values(event: Event) -> None:
    assert {name: getattr(event, name) for name in COMMON} == COMMON
    assert event == copy.copy(event) == pickle.loads(pickle.dumps(event))
    assert event != dataclasses.replace(event, sequence=8)
    for field in dataclasses.fields(event):
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
            setattr(event, field.name, None)
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
        event.no_such_field = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("event", MADE)
def test_the_common_fields_may_be_left_out_and_go_by_name_alone(event: Event) -> None:
    own = {
        field.name: getattr(event, field.name)
        for field in dataclasses.fields(event)
        if field.name not in COMMON
    }
    bare = type(event)(**own)
    assert all(getattr(bare, name) is None for name in COMMON)
    with pytest.raises(TypeError):
        type(event)(*own.values(), 1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("level", "number"),
    [("DEBUG", 10), ("INFO", 20), ("WARNING", 30), ("ERROR", 40), ("CRITICAL", 50)],
)
def test_level_numbers_are_those_of_logging(level: Any, number: int) -> None:
    assert LogEvent("m", level).level_number == number


def test_match_works() -> None:
    def name(event: Event) -> str:
        match event:
            case LogEvent(level="ERROR", message=text):
                return f"error {text}"
            case LogEvent(text, level):
                return f"{level} {text}"
            case AssetCheckEvent(passed=False, check_name=check):
                return f"failed {check}"
            case MaterializationEvent(key):
                return f"made {key}"
            case _:
                return "other"

    assert [name(event) for event in (LogEvent("m", "ERROR"), *MADE[2:6])] == [
        "error m",
        "INFO m",
        "made a",
        "failed c",
        "other",
    ]


def test_an_event_off_the_wire_is_like_one_that_was_made() -> None:
    line = (
        b'{"__dagster_pipes_version":"0.1","method":"log","params":{"message":"m","level":"INFO"}'
        b',"fields":{"line":1},"writer":"w","seq":1,"sent_at":1.5}\n'
    )
    [event], _ = SessionReader().receive_data(line, 2.5)
    made = LogEvent(
        "m", "INFO", {"line": 1}, sequence=1, sent_at=1.5, received_at=2.5, writer="w", position=0
    )
    assert event == made
    assert repr(event) == repr(made)
    assert pickle.loads(pickle.dumps(event)) == made
