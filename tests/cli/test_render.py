"""asyncpipes.cli.render: what a person sees of a script's health."""

from __future__ import annotations

import json

import pytest

from asyncpipes import HealthEvent

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
