"""The ready subscribers: to a logger, to a list, to JSON lines."""

from __future__ import annotations

import io
import json
import logging
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from asyncpipes import (
    ClosedEvent,
    CustomMessageEvent,
    Event,
    GapEvent,
    HealthEvent,
    InvalidParameterError,
    LogEvent,
    MalformedEvent,
    MaterializationEvent,
    OutcomeError,
    Subscriber,
    run,
    to_json_lines,
    to_list,
    to_logger,
)
from asyncpipes.host.event_json import EVENT_NAMES, event_to_json
from asyncpipes.protocol import events
from tests.support_host import raw_child, script

OURS = """
import logging
from asyncpipes import open_pipes

with open_pipes() as pipes:
    pipes.log.debug("fine")
    try:
        1 / 0
    except ZeroDivisionError:
        pipes.log.exception("not fine, 100 %")
"""


async def test_to_logger(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test.host")
    with caplog.at_level(logging.DEBUG, "test.host"):
        await run(
            script(tmp_path, OURS), subscribers=[Subscriber(to_logger(logger), in_thread=True)]
        )
    first, second = [record for record in caplog.records if record.name == "test.host"]
    assert (first.levelno, first.getMessage()) == (logging.DEBUG, "fine")
    assert second.levelno == logging.ERROR
    lines = second.getMessage().splitlines()
    assert lines[0] == "not fine, 100 %"
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert vars(second)["pipes"]["line"] == 10
    assert vars(second)["pipes"]["file"].endswith("external_code.py")


def test_what_a_ready_one_cannot_write_to_is_refused_at_once(tmp_path: Path) -> None:
    with open(tmp_path / "text", "w") as file:
        for wrong in (file, "events.jsonl", None):
            with pytest.raises(InvalidParameterError, match="must be open in binary mode"):
                to_json_lines(wrong)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(InvalidParameterError, match=r"as logging.getLogger\('name'\)"):
        to_logger("name")  # type: ignore[arg-type]  # on purpose


async def test_subscribers_that_are_no_list_are_refused() -> None:
    with pytest.raises(InvalidParameterError, match="`subscribers` must be a list"):
        await run(["true"], subscribers=print)  # type: ignore[arg-type]  # on purpose


def test_to_logger_warns_of_what_was_lost(caplog: pytest.LogCaptureFixture) -> None:
    log = to_logger(logging.getLogger("test.host"))
    log(MalformedEvent(b"garbage", "not JSON"))
    log(GapEvent(3, 5))
    log(CustomMessageEvent(1))
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (logging.WARNING, "malformed message: not JSON: b'garbage'"),
        (logging.WARNING, "messages 3 to 5 never arrived"),
    ]


def test_to_logger_tells_how_the_script_is_doing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "test.host")
    log = to_logger(logging.getLogger("test.host"))
    log(HealthEvent("blocked", 2.25, 4711))
    log(HealthEvent("blocked", None, None))
    log(HealthEvent("silent", None, 4711))
    log(HealthEvent("dead"))
    log(HealthEvent("alive", 0.0, 4711))
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (
            logging.WARNING,
            "the event loop of process 4711 is blocked: it has not answered for 2.2 s",
        ),
        (logging.WARNING, "the event loop of the script is blocked"),
        (logging.WARNING, "process 4711 is silent: neither messages nor heartbeats come from it"),
        (logging.WARNING, "the script has ended without closing its context"),
        (logging.INFO, "process 4711 is alive again"),
    ]


async def test_to_list() -> None:
    target: list[Event] = []
    await run(raw_child("opened(); custom(1); closed()"), subscribers=[to_list(target)])
    assert [type(event).__name__ for event in target] == [
        "OpenedEvent",
        "CustomMessageEvent",
        "ClosedEvent",
    ]


async def test_json_lines_of_a_stock_script_with_numbers_that_json_has_not(tmp_path: Path) -> None:
    source = """
        from dagster_pipes import open_dagster_pipes
        with open_dagster_pipes() as pipes:
            pipes.report_custom_message({"a": [float("nan"), float("inf")], "b": 2**70})
            pipes.report_asset_materialization(
                metadata={"loss": {"raw_value": float("-inf"), "type": "float"}, "rows": 2}
            )
    """
    file = io.BytesIO()
    seen: list[Event] = []
    await run(
        script(tmp_path, source),
        asset_keys=["orders"],
        subscribers=[to_json_lines(file), seen.append],
    )
    rows = [json.loads(line) for line in file.getvalue().splitlines()]
    names = [row["event"] for row in rows]
    assert names == ["opened", "custom_message", "materialization", "closed"]
    assert rows[1]["payload"] == {"a": ["nan", "inf"], "b": 2**70}
    assert rows[2]["metadata"]["loss"] == {"type": "float", "raw_value": "-inf"}
    assert rows[2]["metadata"]["rows"]["raw_value"] == 2
    custom = seen[1]
    assert isinstance(custom, CustomMessageEvent)
    assert math.isnan(custom.payload["a"][0])


async def test_json_lines_of_an_exception_group(tmp_path: Path) -> None:
    source = """
        import sys
        from asyncpipes import open_pipes
        if sys.version_info < (3, 11):
            from exceptiongroup import ExceptionGroup
        with open_pipes():
            try:
                raise OSError("cause")
            except OSError as error:
                raise ExceptionGroup("several", [ValueError("one"), KeyError("two")]) from error
    """
    file = io.BytesIO()
    with pytest.raises(OutcomeError):
        await run(
            script(tmp_path, source),
            subscribers=[(to_json_lines(file), ClosedEvent)],
            forward_stdio=False,
        )
    row = json.loads(file.getvalue())
    exception = row["exception"]
    assert exception["name"] == "ExceptionGroup"
    assert exception["cause"]["name"] == "OSError"
    text = json.dumps(exception)
    assert "one" in text
    assert "two" in text


def test_every_kind_of_event_has_a_name_and_its_fields() -> None:
    examples: dict[type[Event], dict[str, Any]] = {
        kind: {
            f.name: {"message": "m", "level": "INFO", "passed": True, "raw": b"\xff", "first": 1,
                     "last": 2, "stream": "stdout"}.get(f.name, "x")
            for f in fields(kind)
            if f.default is f.default_factory
        }
        for kind in EVENT_NAMES
    }  # fmt: skip
    kinds = {kind for kind in vars(events).values() if isinstance(kind, type)}
    assert set(EVENT_NAMES) == {k for k in kinds if issubclass(k, Event)} - {Event}
    for kind, arguments in examples.items():
        row = json.loads(event_to_json(kind(**arguments)))
        assert row.pop("event") == EVENT_NAMES[kind]
        assert set(arguments) <= set(row)
    assert json.loads(event_to_json(MalformedEvent(b"a\xff", "r")))["raw"] == "a\\xff"


def test_a_line_is_one_line_and_leaves_out_what_is_none() -> None:
    line = event_to_json(MaterializationEvent("orders"))
    assert json.loads(line) == {"event": "materialization", "asset_key": "orders", "metadata": {}}
    assert b"\n" not in event_to_json(LogEvent("two\nlines", "INFO"))


async def test_a_prepared_subscriber_has_its_options() -> None:
    import threading

    threads = []

    def note(event: Event) -> None:
        threads.append(threading.current_thread())

    await run(
        raw_child("opened(); log('a', 'DEBUG'); log('b', 'ERROR'); closed()"),
        subscribers=[Subscriber(note, LogEvent, min_level="ERROR", in_thread=True)],
    )
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
