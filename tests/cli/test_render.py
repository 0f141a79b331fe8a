"""asyncpipes.cli.render: what a person sees of each event."""

from __future__ import annotations

import json

import pytest

from asyncpipes import (
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

pytestmark = pytest.mark.host


def test_health_is_a_line() -> None:
    from asyncpipes.cli.render import event_lines

    assert event_lines(HealthEvent("blocked", 12.34, 4711)) == [
        "HEALTH   the event loop of process 4711 is blocked: it has not answered for 12.3 s"
    ]
    assert event_lines(HealthEvent("dead")) == [
        "HEALTH   the script has ended without closing its context"
    ]


def test_health_is_a_json_object() -> None:
    from asyncpipes.cli.render import JsonPrinter

    text = JsonPrinter().text(HealthEvent("silent", None, 4711, writer="w", received_at=1.5))
    assert json.loads(text) == {
        "event": "health",
        "status": "silent",
        "pid": 4711,
        "writer": "w",
        "received_at": 1.5,
    }


@pytest.mark.parametrize(
    ("event", "lines"),
    [
        (OpenedEvent(), ["OPENED"]),
        (ClosedEvent(), ["CLOSED"]),
        (
            LogEvent("lost", "ERROR", {"traceback": "Traceback:\n  Boom"}),
            ["ERROR    lost", "         Traceback:", "           Boom"],
        ),
        (LogEvent("", "INFO"), ["INFO     "]),
        (
            MaterializationEvent("orders", data_version="7"),
            ["MATERIAL orders  data version 7"],
        ),
        (CustomMessageEvent({"n": 1}), ['MESSAGE  {"n":1}']),
        (CustomMessageEvent(float("nan")), ["MESSAGE  nan"]),
        (ExternalStreamEvent("stderr", "a\nb\x1b[2J\n"), ["STDERR   a", "STDERR   b\\x1b[2J"]),
        (MalformedEvent(b"\xff{", "it is no JSON"), ["MALFORMED it is no JSON: \\xff{"]),
        (GapEvent(3, 5), ["GAP      messages 3 to 5 never arrived"]),
    ],
)
def test_every_event_is_lines_for_a_person(event: Event, lines: list[str]) -> None:
    from asyncpipes.cli.render import event_lines

    assert event_lines(event) == lines


def test_an_exception_is_lines_too() -> None:
    from asyncpipes.cli.render import event_lines
    from asyncpipes.protocol.exceptions import PipesException

    error = PipesException("bad\n", (), "Boom", None, None)
    first, *rest = event_lines(ClosedEvent(error))
    assert first == "CLOSED   with an exception:"
    assert "bad" in rest[0]
