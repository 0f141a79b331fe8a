"""replay and validate: recordings, messages files of ours and of dagster_pipes, and garbage."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import OURS, PATIENCE, bootstrap

from .terminal import asyncpipes_command, environment

pytestmark = pytest.mark.host

REPORT = """
with {opening} as pipes:
    pipes.log.info("one")
    pipes.log.error("two")
    pipes.report_custom_message({{"n": 1}})
    pipes.report_asset_materialization(asset_key="orders", metadata={{"rows": 2}})
    pipes.report_asset_check(asset_key="orders", check_name="sound", passed=True)
"""
OURS_SCRIPT = "from asyncpipes import open_pipes" + REPORT.format(opening="open_pipes()")
STOCK_SCRIPT = "from dagster_pipes import open_dagster_pipes" + REPORT.format(
    opening="open_dagster_pipes()"
)
RESULTS = "1 materialization, 1 check, 1 custom message, 2 log lines (1 ERROR)"


def asyncpipes(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        asyncpipes_command(*arguments),
        capture_output=True, text=True, timeout=PATIENCE, cwd=cwd, env=environment(),
    )  # fmt: skip


def recording(path: Path) -> None:
    command = [sys.executable, "-c", OURS_SCRIPT]
    done = asyncpipes("run", "--asset", "orders", "--record", path, "--", *command, cwd=path.parent)
    assert done.returncode == 0, done


def messages(path: Path, source: str, **params: Any) -> None:
    env = environment(**bootstrap({"path": str(path), **params}))
    subprocess.run([sys.executable, "-c", source], env=env, check=True, timeout=PATIENCE)


MAKERS: dict[str, Callable[[Path], None]] = {
    "recording": recording,
    "ours": lambda path: messages(path, OURS_SCRIPT, **OURS),
    "stock": lambda path: messages(path, STOCK_SCRIPT),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_good_files(tmp_path: Path, kind: str) -> None:
    MAKERS[kind](tmp_path / "file")
    done = asyncpipes("validate", "file", cwd=tmp_path)
    assert done.returncode == 0, done
    what = "recording" if kind == "recording" else "messages file"
    assert done.stdout == f"asyncpipes: ok: no bad line in this {what}: {RESULTS}\n"
    replayed = asyncpipes("replay", "file", cwd=tmp_path)
    assert replayed.returncode == 0, replayed
    lines = [line.partition(" ")[2] for line in replayed.stdout.splitlines()[:-1]]
    assert lines == [
        "OPENED",
        "INFO     one",
        "ERROR    two",
        'MESSAGE  {"n":1}',
        "MATERIAL orders",
        "         rows = 2",
        "CHECK    orders  sound: passed",
        "CLOSED",
    ]
    after = "" if kind == "stock" else " after "  # which has no times
    assert replayed.stdout.splitlines()[-1].startswith(f"asyncpipes: ok{after}")
    assert replayed.stdout.startswith("--:--:-- ") == (kind == "stock"), "nobody knows when"


@pytest.mark.parametrize("command", ["validate", "replay"])
@pytest.mark.parametrize("kind", MAKERS)
def test_a_pipe_is_read_as_a_file_is(tmp_path: Path, kind: str, command: str) -> None:
    """It can be read once."""
    MAKERS[kind](tmp_path / "file")
    done = asyncpipes(command, "file", cwd=tmp_path)
    line = f"cat file | {shlex.join(asyncpipes_command(command, '/dev/stdin'))}"
    piped = subprocess.run(
        line,
        shell=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
        timeout=PATIENCE,
    )
    assert piped.returncode == done.returncode == 0
    assert re.sub("after .* s", "", piped.stdout) == re.sub("after .* s", "", done.stdout)


def test_what_is_wrong_with_the_end_of_a_recording(tmp_path: Path) -> None:
    recording(tmp_path / "file")
    lines = (tmp_path / "file").read_text().splitlines(keepends=True)
    for content, fault in (
        ("".join([*lines, lines[0]]), "it comes after the outcome"),
        ("".join([*lines[:-1], '{"event":"outcome"}\n']), "outcome: `reasons` is missing"),
    ):
        (tmp_path / "file").write_text(content)
        done = asyncpipes("validate", "file", cwd=tmp_path)
        assert done.returncode == 1
        assert fault in done.stdout


@pytest.mark.parametrize("kind", MAKERS)
def test_replayed_as_json_it_is_a_recording_again(tmp_path: Path, kind: str) -> None:
    MAKERS[kind](tmp_path / "file")
    done = asyncpipes("replay", "--json", "file", cwd=tmp_path)
    assert done.returncode == 0
    assert "asyncpipes: ok" in done.stderr
    if kind == "recording":
        assert done.stdout == (tmp_path / "file").read_text()
    (tmp_path / "again").write_text(done.stdout)
    again = asyncpipes("validate", "again", cwd=tmp_path)
    assert again.stdout == f"asyncpipes: ok: no bad line in this recording: {RESULTS}\n"


@pytest.mark.parametrize("kind", MAKERS)
def test_a_file_that_is_cut_off(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    MAKERS[kind](path)
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(whole[: last + 20])
    number = whole.count(b"\n")
    done = asyncpipes("validate", "file", cwd=tmp_path)
    assert done.returncode == 1
    assert f"file:{number}: byte {last}: the last line is cut off: not JSON" in done.stdout
    assert "NOT OK: 1 bad line" in done.stdout
    missing = "it has no outcome at its end" if kind == "recording" else "never closed its context"
    assert missing in done.stdout
    replayed = asyncpipes("replay", "file", cwd=tmp_path)
    assert replayed.returncode == 0
    assert "MALFORMED the last line is cut off" in replayed.stdout
    assert "NOT OK" in replayed.stdout
    assert ("it was cut off" if kind == "recording" else "never closed") in replayed.stdout


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = asyncpipes("validate", "file", cwd=tmp_path)
    assert done.returncode == 0
    assert "ok: no bad line in this messages file" in done.stdout
    assert "the script never opened pipes" in done.stdout
    replayed = asyncpipes("replay", "file", cwd=tmp_path)
    assert replayed.returncode == 0
    assert "the script never opened pipes" in replayed.stdout


def test_gaps_and_messages_out_of_turn(tmp_path: Path) -> None:
    path = tmp_path / "file"
    MAKERS["ours"](path)
    opened, one, two, *rest = path.read_bytes().splitlines(keepends=True)
    after = one.replace(b'"seq":2', b'"seq":8')
    assert after != one
    path.write_bytes(b"".join([opened, two, b"\n", *rest, after]))
    done = asyncpipes("validate", "file", cwd=tmp_path)
    assert done.returncode == 1
    gap, blank, late, *_ = done.stdout.splitlines()
    assert gap == f"file:2: byte {len(opened)}: messages 2 to 2 are missing before it"
    assert blank == f"file:3: byte {len(opened + two)}: the line is empty"
    start = path.stat().st_size - len(after)
    assert late.startswith(f"file:{len(rest) + 4}: byte {start}: a message came from ")
    assert "context was closed" in late
    assert "NOT OK: 3 bad lines" in done.stdout
    replayed = asyncpipes("replay", "file", cwd=tmp_path).stdout
    assert "GAP      messages 2 to 2 never arrived" in replayed
    assert "1 message never arrived" in replayed


BAD = [
    (b"garbage", "not JSON"),
    (b"\xff\xfe\x00", "invalid UTF-8: byte 0xff at offset 0"),
    (b"[1]", "it is no object"),
    (b'{"event": "nonsense"}', "`event` is 'nonsense', which is no event"),
    (b'{"event": ["log"]}', "`event` is an array, which is no event"),
    (b'{"event": "log", "message": 7, "level": "INFO"}', "log: `message` is 7"),
    (b'{"event": "log", "level": "INFO"}', "log: `message` is missing"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"event":' * 100_000, "nested too deeply"),
    (b'{"event": "gap", "first": ' + b"9" * 5000 + b', "last": 1}', "too many digits"),
    (b'{"event": "opened", "received_at": 1e999}', "no number of seconds"),
    (b'{"event": "\x1b[2J"}', "not JSON"),
    (b'{"event": "\\u001b[2J"}', "'\\x1b[2J', which is no event"),
]


def test_bad_lines_of_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "file"
    good = b'{"event": "opened"}\n'
    path.write_bytes(good + b"".join(bad + b"\n" for bad, _ in BAD) + good)
    done = asyncpipes("validate", "file", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    *lines, verdict, missing = done.stdout.splitlines()
    position = len(good)
    for number, ((bad, why), line) in enumerate(zip(BAD, lines, strict=True), 2):
        assert line.startswith(f"file:{number}: byte {position}: "), line
        assert why in line
        position += len(bad) + 1
    assert verdict.startswith(f"asyncpipes: NOT OK: {len(BAD)} bad lines in this recording")
    assert "it has no outcome" in missing
    replayed = asyncpipes("replay", "file", cwd=tmp_path)
    assert replayed.returncode == 0, replayed.stderr
    assert replayed.stdout.count("MALFORMED") == len(BAD)
    assert "\x1b" not in replayed.stdout
    as_json = asyncpipes("replay", "--json", "file", cwd=tmp_path)
    rows = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert [row["event"] for row in rows].count("malformed") == len(BAD)


def test_bad_lines_of_a_messages_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    MAKERS["stock"](path)
    good = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(good[0] + b"".join(bad + b"\n" for bad, _ in BAD) + b"".join(good[1:]))
    done = asyncpipes("validate", "file", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("file:")]
    position = len(good[0])
    for number, ((bad, _), line) in enumerate(zip(BAD, lines, strict=True), 2):
        assert line.startswith(f"file:{number}: byte {position}: "), line
        position += len(bad) + 1
    assert asyncpipes("replay", "file", cwd=tmp_path).returncode == 0


HOSTILE = [
    {"event": "log", "message": "a\x1b[2J", "level": "INFO", "sent_at": 1e300},
    {"event": "log", "message": "x", "level": "INFO", "sent_at": -1e15},
    {"event": "log", "message": "x", "level": "INFO", "fields": {"traceback": {"a": 1}}},
    {"event": "malformed", "raw": "\x1b[2J", "reason": "\x1b[2J\nmore"},
    {"event": "gap", "first": 10**30, "last": -1},
    {"event": "health", "status": "blocked", "lag": 1e300, "pid": -1},
    {"event": "closed", "exception": {"message": "\x1b[2J"}},
    {"event": "materialization", "asset_key": "\x1b[2J\n", "metadata": {
        "t1": {"type": "table", "raw_value": {"records": 7}},
        "t2": {"type": "table", "raw_value": {"records": [7], "schema": [7]}},
        "t3": {"type": "table", "raw_value": {"records": [{}], "schema": 7}},
        "t4": {"type": "table", "raw_value": None},
        "s1": {"type": "table_schema", "raw_value": {"columns": 7}},
        "s2": {"type": "table_schema", "raw_value": 7},
        "md": {"type": "md", "raw_value": {"a": 1}},
        "url": {"type": "url", "raw_value": None},
        "json": {"type": "json", "raw_value": "{"},
        "int": {"type": "int", "raw_value": "x"},
        "when": {"type": "timestamp", "raw_value": 1e300},
        "what": {"type": "\x1b[2J", "raw_value": "\x1b[2J"},
    }},
    {"event": "custom_message"},
    {"event": "custom_message", "payload": {"progress": {"completed": 10**400}}},
    {"event": "custom_message", "payload": {"progress": {"completed": 1, "total": 1e-320}}},
    {"event": "custom_message", "payload": {"progress": {"completed": "x"}}},
    {"event": "external_stream", "stream": "stdout", "text": "\r\x1b[2J" * 3},
    {"event": "external_stream", "stream": "stderr", "text": ""},
    {"event": "outcome", "duration": 1e300, "reasons": ["\x1b[2J"]},
]  # fmt: skip


@pytest.mark.parametrize("options", [[], ["--json"], ["--speed", "1e300"]])
def test_hostile_values_are_shown_harmless(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "file").write_text("".join(json.dumps(row) + "\n" for row in HOSTILE))
    done = asyncpipes("replay", *options, "file", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    if options != ["--json"]:
        assert "MALFORMED \\x1b[2J\\nmore: \\x1b[2J" in done.stdout
        assert "  - \\x1b[2J" in done.stdout


def test_hostile_values_in_the_view(tmp_path: Path) -> None:
    from .terminal import OWN, Terminal

    (tmp_path / "file").write_text("".join(json.dumps(row) + "\n" for row in HOSTILE))
    with Terminal("replay", "file", cwd=tmp_path) as terminal:
        assert terminal.end() == 0
        rest = OWN.sub("", terminal.raw)
        assert all(char.isprintable() or char == "\n" for char in rest)
        assert "✗ NOT OK after" in terminal.text
        terminal.check_clean()


def test_options_of_a_replay_in_the_view(tmp_path: Path) -> None:
    from .terminal import Terminal

    recording(tmp_path / "file")
    options = ["--speed", "1000", "--log-level", "ERROR"]
    with Terminal("replay", *options, "file", cwd=tmp_path) as terminal:
        assert terminal.end() == 0
        assert re.search(r"ERROR\W+two", terminal.text), terminal.text
        assert not re.search(r"INFO\W+one", terminal.text)
        assert "2 log lines (1 ERROR)" in terminal.text, "all are counted"
        terminal.check_clean()


@pytest.mark.parametrize("speed", ["1", "1000"])
def test_speed_waits_between_events(
    tmp_path: Path, speed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncpipes import OpenedEvent
    from asyncpipes.cli import replay

    slept: list[float] = []
    monkeypatch.setattr("asyncpipes.cli.replay.time.sleep", slept.append)
    pace = replay._Pace(float(speed))
    for at in (100.0, 100.5, 100.5, 99.0, 1e6, None):
        pace.wait(OpenedEvent(received_at=at))
    assert slept == [0.5 / float(speed), 10.0]


@pytest.mark.parametrize("command", [["validate"], ["replay"], ["replay", "--json"]])
def test_a_stdout_that_takes_nothing(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "file").write_bytes(b"garbage\n")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            asyncpipes_command(*command, "file"),
            stdout=full, stderr=subprocess.PIPE, text=True, env=environment(), cwd=tmp_path,
            timeout=PATIENCE,
        )  # fmt: skip
    assert done.returncode == 74, done
    assert "asyncpipes: cannot write to stdout: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_line_without_end_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncpipes.cli import recording as module
    from asyncpipes.protocol.events import MalformedEvent
    from asyncpipes.protocol.framing import LineFramer

    monkeypatch.setattr(module, "LineFramer", lambda: LineFramer(1000))
    monkeypatch.setattr(module, "_PIECE", 100)
    (tmp_path / "file").write_text('{"event": "' + "x" * 5000 + '"}\n{"event": "opened"}\n')
    first, second = module.StreamFile(str(tmp_path / "file")).lines()
    assert first.fault == "it is 5013 bytes long, over the limit"
    assert isinstance(first.what, MalformedEvent)
    assert len(first.what.raw) <= 200
    assert (second.number, second.position, second.fault) == (2, 5014, None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([b"", b'{"event": "opened"}\n', b'{"job": "a", "event": "opened"}\n']),
    st.binary(max_size=300),
)
def test_no_bytes_raise_anything(tmp_path: Path, head: bytes, rest: bytes) -> None:
    from asyncpipes.cli.recording import StreamFile
    from asyncpipes.cli.render import event_lines
    from asyncpipes.protocol.outcome import Outcome

    path = tmp_path / "file"
    path.write_bytes(head + rest)
    file = StreamFile(str(path))
    assert file.is_recording or not head
    for line in file.lines():
        if not isinstance(line.what, Outcome):
            assert all(text.isprintable() for text in event_lines(line.what))
