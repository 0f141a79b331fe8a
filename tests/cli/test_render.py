"""asyncpipes.cli.render: what a person sees of each event."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

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
from asyncpipes.protocol.metadata import MetadataValue
from tests.support import PATIENCE

from .terminal import asyncpipes_command, environment

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


@pytest.mark.parametrize("when", [1e300, -1e18, 1e12])
def test_a_time_that_no_clock_shows(when: float) -> None:
    from asyncpipes.cli.render import clock

    assert len(clock(OpenedEvent(sent_at=when))) == 8
    assert clock(OpenedEvent(sent_at=1e300)) == "--:--:--"


def test_text_of_strangers_is_made_harmless() -> None:
    from asyncpipes.cli.text import json_text, one_line, safe

    assert safe("plain ünï 表 ✓\n\ttext") == "plain ünï 表 ✓\n\ttext"
    assert safe("\x1b\r\x85\u202e\ud800\x00") == "\\x1b\\r\\x85\\u202e\\ud800\\x00"
    assert one_line("a\nb\tc\r", 20) == "a\\nb c\\r"
    assert one_line("x" * 30, 10) == "x" * 9 + "…"
    assert one_line("\x00" * 10**6, 10) == "\\x00\\x00\\…"
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert json_text(deep) == "[nested too deeply to be shown]"
    assert json_text({"n": float("nan")}) == "{'n': nan}"


def drawn(event: Event) -> str:
    """What the view writes of an event."""
    from asyncpipes.cli.view import View

    return View(io.StringIO(), "title", lambda: "open")._text(event)


def test_what_is_large_is_cut_and_says_so() -> None:
    long_log = drawn(LogEvent("x" * 10**6 + "\n" + "line\n" * 10_000, "INFO"))
    assert len(long_log) < 10_000
    assert "more lines)" in long_log
    output = drawn(ExternalStreamEvent("stdout", "y\n" * 32_000))
    assert "… (31960 more lines)" in output.replace(",", "")
    records = [{f"c{n}": n for n in range(100)} for _ in range(100)]
    value = MetadataValue("table", {"records": records})
    table = drawn(MaterializationEvent("a", {"t": value}))
    assert "80 more rows" in table
    assert "80 more columns" in table
    labels = {f"label{n}": MetadataValue("int", n) for n in range(1000)}
    assert "900 more labels" in drawn(MaterializationEvent("a", labels))
    columns = MetadataValue("table_schema", {"columns": [{"name": str(n)} for n in range(50)]})
    assert "30 more columns" in drawn(MaterializationEvent("a", {"s": columns}))


def test_what_rich_cannot_draw_is_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    from asyncpipes.cli import view

    def fail(event: Event) -> object:
        raise RecursionError

    monkeypatch.setattr(view, "render", fail)
    assert "INFO     told" in drawn(LogEvent("told", "INFO"))


@pytest.mark.parametrize("kind", ["md", "json", "text", "table", "__infer__"])
def test_deep_values_are_drawn(kind: str) -> None:
    deep: object = "core"
    for _ in range(900):
        deep = [deep]
    assert " materialized" in drawn(MaterializationEvent("a", {"x": MetadataValue(kind, deep)}))
    quoted = MetadataValue(kind, ">" * 5000 + " deep")
    assert " materialized" in drawn(MaterializationEvent("a", {"x": quoted}))


def test_what_markdown_makes_of_entities_is_harmless() -> None:
    value = MetadataValue("md", "a&#8238;b &rlm; &#13; &#27;[2J")
    text = drawn(MaterializationEvent("k", {"m": value}))
    assert "\u202e" not in text
    assert "\u200f" not in text
    assert "\r" not in text
    assert "\\u202e" in text


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        ({"completed": 7, "total": 12, "description": "months"}, "months 7 12.0"),
        ({"completed": 0.5}, " 0.5 None"),
        ({"completed": 0, "total": 1, "more": "is fine"}, " 0 1.0"),
        ({"completed": -1}, None),
        ({"completed": True}, None),
        ({"completed": 10**400}, None),
        ({"completed": float("nan")}, None),
        ({"completed": 0, "total": 0}, " 0 None"),
        ({"completed": 1, "total": -1}, None),
        ({"completed": 1, "total": "2"}, None),
        ({"completed": 1, "description": ["x"]}, None),
        ({}, None),
        ("text", None),
    ],
)
def test_the_form_of_progress(payload: object, shown: str | None) -> None:
    from asyncpipes.cli.tally import Progress
    from asyncpipes.cli.view import bar

    progress = Progress.of({"progress": payload})
    if shown is None:
        assert progress is None
        return
    assert progress is not None
    told = f"{progress.description} {progress.completed:g} {progress.total}"
    assert told == shown
    assert bar(progress).plain.strip()


def test_a_bar_is_full_only_at_its_end() -> None:
    from asyncpipes.cli.tally import Progress
    from asyncpipes.cli.view import bar

    assert bar(Progress("", 1999, 2000)).plain.endswith(" 1,999/2,000  99%")
    assert bar(Progress("", 2000, 2000)).plain.endswith("100%")
    assert bar(Progress("", 2001, 2000)).plain.endswith("100%")
    assert bar(Progress("", 1, 1e-320)).plain.endswith("100%")


def test_bars_are_bounded_and_counted() -> None:
    from asyncpipes.cli.tally import Tally

    tally = Tally()
    for number in range(1000):
        progress = {"completed": 1, "description": str(number)}
        tally.add(CustomMessageEvent({"progress": progress}))
    assert len(tally.bars) == 100
    assert tally.kinds[CustomMessageEvent] == 1000


def test_live_lines_are_erased_from_where_they_begin() -> None:
    """Whatever a terminal made of them meanwhile: it wraps them, or cuts them off."""
    from rich.text import Text

    from asyncpipes.cli.screen import ERASE, Screen

    file = io.StringIO()
    screen = Screen(file)
    screen.draw([], [Text("one"), Text("two"), Text("x" * 500)])
    first = file.getvalue()
    assert first.endswith("\r\x1b[2A")
    assert "\x1b[J" not in first
    assert max(map(len, first.split("\n"))) < 90
    screen.draw(["above\n"], [Text("new")])
    assert file.getvalue()[len(first) :] == f"{ERASE}above\nnew\r"
    before = file.getvalue()
    screen.draw([], ())
    assert file.getvalue()[len(before) :] == ERASE
    before = file.getvalue()
    screen.draw([], ())
    assert file.getvalue() == before, "there is nothing left to erase"


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), RuntimeError("of rich")])
def test_a_terminal_that_fails_is_told(error: Exception) -> None:
    from asyncpipes.cli.view import View

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise error

    view = View(Broken(), "title", lambda: "open")
    view.start()
    view.take(LogEvent("x", "INFO"))
    view.close(None, 30)
    assert view.error in ("Input/output error", "RuntimeError: of rich")


def test_grave_lines_of_jobs_are_bounded_and_said() -> None:
    from asyncpipes.cli.jobs_file import Job
    from asyncpipes.cli.jobs_view import _JobFrames
    from asyncpipes.cli.running import Interrupts, Script

    job = Job("a", Script(["true"]), state="ok")
    frames = _JobFrames(io.StringIO(), [job], Interrupts())
    for number in range(1000):
        frames.take(job, LogEvent(f"warning {number}", "WARNING"))
        frames.take(job, LogEvent("not grave", "INFO"))
    frames.ended(job)
    text = "".join(frames.above())
    assert text.count("warning ") == 200
    assert "… 800 lines not shown, and counted" in text
    assert "ok after" in text
    assert frames.above() == []


def test_wide_names_are_a_column_too() -> None:
    from rich.cells import cell_len

    from asyncpipes.cli.jobs_view import _padded

    assert {cell_len(_padded(name, 9)) for name in ("a", "日本", "日本日本日本", "x" * 20)} == {9}


def test_an_output_that_cannot_say_all_characters(tmp_path: Path) -> None:
    env = environment(PYTHONIOENCODING="ascii")
    script = "from asyncpipes import open_pipes\nwith open_pipes() as p: p.log.info('schön ✓')"
    done = subprocess.run(
        asyncpipes_command("run", "--", sys.executable, "-c", script),
        capture_output=True, text=True, env=env, cwd=tmp_path, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done
    assert "INFO     sch\\xf6n \\u2713" in done.stdout
