"""Outputs that are slower than a script: what they miss is counted and said, nothing waits."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from asyncpipes import CustomMessageEvent, LogEvent, MaterializationEvent
from asyncpipes.protocol.metadata import MetadataValue
from tests.support import PATIENCE

from .terminal import WAITING, Terminal, asyncpipes_command, environment

pytestmark = pytest.mark.host

#: More than fits a pipe and the queue of whoever is too slow.
FLOOD = f"""{WAITING}
from asyncpipes import open_pipes
with open_pipes() as pipes:
    for index in range(2_000):
        print("x" * 10_000)
    sys.stdout.flush()
open("done", "w").close()
"""
#: So much that some is left out: up to 256 pieces of output are in hand, and 256 wait.
LONG = FLOOD.replace("2_000", "8_000")
#: The same in short lines, of which a view draws little: the terminal of these tests is slow.
SHORT = FLOOD.replace("2_000", "2_000_000").replace("10_000", "20")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "flood.py").write_text(FLOOD)
    job = {"name": "a", "command": [sys.executable, "flood.py"]}
    (tmp_path / "jobs.json").write_text(json.dumps({"job": [job]}))
    return tmp_path


class SlowFile:
    """A named pipe that takes nothing before :meth:`take`."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._may_read = threading.Event()
        self._rows: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read, args=[path], daemon=True)
        self._thread.start()

    def _read(self, path: Path) -> None:
        with open(path, "rb") as file:
            self._may_read.wait(PATIENCE)
            self._rows += map(json.loads, file)

    def take(self) -> None:
        self._may_read.set()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All that it got."""
        self._thread.join(PATIENCE)
        return self._rows


def left_out_of(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """The pieces of output in a stream, and how many its end says are not there."""
    end = rows[-1]
    assert end["event"] == "outcome"
    assert end["left_out"] > 0
    return sum(row["event"] == "external_stream" for row in rows), end["left_out"]


def test_a_slow_recording_beside_a_view(here: Path) -> None:
    (here / "flood.py").write_text(SHORT)
    file = SlowFile(here / "run.jsonl")
    arguments = ["run", "--record", "run.jsonl", "--", "python", "flood.py"]
    with Terminal(*arguments, cwd=here, columns=200) as terminal:
        terminal.until(lambda: (here / "done").exists())
        file.take()
        assert terminal.end() == 0
        pieces, left_out = left_out_of(file.rows)
        found = re.search(r"^  ([\d,]+) pieces of output$", terminal.text, re.MULTILINE)
        assert found, terminal.text
        assert int(found[1].replace(",", "")) == pieces + left_out, "counted once"
        words = " ".join(terminal.text.split())
        assert f"{left_out:,} pieces of the script's output came faster" in words
        assert "than the recording took them, and are left out there" in words
        terminal.check_clean()


@pytest.mark.parametrize(
    "what", [["--json", "--", sys.executable, "flood.py"], ["--json", "--file", "jobs.json"]]
)
def test_a_slow_reader_of_json(here: Path, what: list[str]) -> None:
    (here / "flood.py").write_text(LONG)
    process = subprocess.Popen(
        asyncpipes_command("run", *what),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=here, env=environment(),
    )  # fmt: skip
    with process:
        while not (here / "done").exists():
            assert process.poll() is None
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    _, left_out = left_out_of([json.loads(line) for line in out.splitlines()])
    told = f"{left_out:,} pieces of the script's output came faster than stdout took them"
    assert told in err.decode()


def test_a_slow_recording_of_a_job(here: Path) -> None:
    (here / "flood.py").write_text(LONG)
    jobs = json.loads((here / "jobs.json").read_text())
    jobs["job"][0]["record"] = "run.jsonl"
    (here / "jobs.json").write_text(json.dumps(jobs))
    file = SlowFile(here / "run.jsonl")
    with Terminal("run", "--file", "jobs.json", cwd=here, columns=200) as terminal:
        terminal.until(lambda: (here / "done").exists())
        file.take()
        assert terminal.end() == 0
        _, left_out = left_out_of(file.rows)
        told = f"a: {left_out:,} pieces of the script's output came faster than the recording"
        assert told in terminal.text


@pytest.mark.parametrize("more", [[], ["--record", "run.jsonl"]])
def test_a_reader_that_takes_nothing_until_the_timeout(here: Path, more: list[str]) -> None:
    """The script has ended in time; what it said has not been taken by then."""
    (here / "flood.py").write_text(FLOOD.replace("print(", "pipes.log.info("))
    for seconds in ("8", "64"):  # a busy machine may take long to get so far
        arguments = ["--json", "--timeout", seconds, *more, "--", sys.executable, "flood.py"]
        process = subprocess.Popen(
            asyncpipes_command("run", *arguments),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=here, env=environment(),
        )  # fmt: skip
        with process:
            assert process.wait(PATIENCE) == 124
            assert process.stderr is not None
            err = process.stderr.read().decode()
            assert process.stdout is not None
        if (here / "done").exists():
            break
    assert (here / "done").exists()
    assert "--timeout passed, and not all events have been taken" in err
    if more:
        rows = [json.loads(line) for line in (here / "run.jsonl").read_text().splitlines()]
        assert rows[-1]["event"] == "outcome"
        assert rows[-1]["timed_out"]
        assert (rows[-1]["exit_code"], rows[-1]["ok"]) == (0, False)


TABLES = f"""{WAITING}
from asyncpipes import open_pipes
"""
TABLES += """
row = {f"column {index}": index for index in range(20)}
with open_pipes() as pipes:
    for index in range(100):
        schema = [{"name": name, "type": "int"} for name in row]
        value = {"records": [row] * 20, "schema": schema}
        table = {"type": "table", "raw_value": value}
        pipes.report_asset_materialization({"t": table}, asset_key=f"a{index}")
        wait("go")
"""


def test_what_takes_long_to_draw(tmp_path: Path) -> None:
    """The terminal is well: it is our own drawing that takes its time."""
    (tmp_path / "tables.py").write_text(TABLES)
    assets = [part for index in range(100) for part in ("--asset", f"a{index}")]
    arguments = ["run", *assets, "--", "python", "tables.py"]
    with Terminal(*arguments, cwd=tmp_path, columns=200) as terminal:
        terminal.until("a0 materialized")  # drawn as it should be, as long as there is time
        terminal.go("go")
        assert terminal.end() == 0
        assert "stalled" not in terminal.text
        assert terminal.text.count("✓ ok after") == 1
        assert "100 materializations" in terminal.text
        shown = [f"a{index} materialized" in terminal.text for index in range(100)]
        plain = [f"MATERIAL a{index}\n" in terminal.text for index in range(100)]
        assert all(map(any, zip(shown, plain, strict=True)))
        assert shown[0]
        terminal.check_clean()


def test_a_frame_takes_what_it_can_draw_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from asyncpipes.cli import view as module

    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def draw(event: LogEvent) -> str:
        clock[0] += 0.02
        return event.message

    monkeypatch.setattr(module, "render", draw)
    view = module.View(io.StringIO(), "title", lambda: "open")
    for index in range(60):
        view.take(LogEvent(str(index), "INFO"))
    assert len(view.above()) == 3
    assert view.waiting == 57, "the rest waits for the next ones"
    monkeypatch.setattr(module, "render", lambda event: event.message)
    assert len(view.above()) == 30


class Stalling(io.StringIO):
    """A terminal that takes some frames, and nothing more after them."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.left = frames
        self.again = threading.Event()

    def write(self, text: str) -> int:
        self.left -= bool(text)
        if self.left < 0:
            self.again.wait(PATIENCE)
        return super().write(text)


def test_only_a_terminal_that_takes_nothing_has_stalled() -> None:
    from asyncpipes.cli.view import View

    file = Stalling(3)
    view = View(file, "title", lambda: "open")
    view.start()
    for index in range(600):
        view.take(LogEvent(str(index), "WARNING"))
    view.close(None, 0.05)
    file.again.set()
    assert view.error == "it has stalled"


def test_a_terminal_that_is_slow_has_not_stalled() -> None:
    """All that is left takes longer than each frame of it may."""
    from asyncpipes.cli.view import View

    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            time.sleep(0.2 if text else 0)  # rich writes nothing now and then
            return super().write(text)

    file = Slow()
    view = View(file, "title", lambda: "open")
    for index in range(600):
        view.take(LogEvent(f"warning {index}.", "WARNING"))
    view.start()
    view.close(None, 2)
    assert view.error is None
    assert "warning 599." in file.getvalue()


def test_values_that_take_long_to_draw_are_bounded() -> None:
    from asyncpipes.cli.view import View

    table = MetadataValue("table", {"records": [{"n": 1}], "schema": [{"name": "n"}]})
    event = MaterializationEvent("a", {f"t{index}": table for index in range(50)})
    text = View(io.StringIO(), "title", lambda: "open")._text(event)
    assert text.count("table of 1 row: n") == 40


def test_the_bar_that_moved_last_is_the_last() -> None:
    from asyncpipes.cli.tally import Tally

    tally = Tally()
    for index in range(200):
        for description in (f"inner {index}", "outer"):
            progress = {"completed": index, "description": description}
            tally.add(CustomMessageEvent({"progress": progress}))
    assert len(tally.bars) == 100
    assert list(tally.bars)[-2:] == ["inner 199", "outer"]
    assert tally.bars["outer"].completed == 199


def test_a_recording_is_in_the_file_at_once(here: Path) -> None:
    script = FLOOD.replace("open_pipes() as pipes:", "open_pipes() as pipes:\n    wait('go')", 1)
    script = script.replace("wait('go')", "pipes.log.info('told'); wait('go')")
    (here / "flood.py").write_text(script)
    process = subprocess.Popen(
        asyncpipes_command("run", "--record", "r.jsonl", "--", sys.executable, "flood.py"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=here, env=environment(),
        start_new_session=True,
    )  # fmt: skip
    with process:
        file = here / "r.jsonl"
        while not (file.exists() and b"told" in file.read_bytes()):
            assert process.poll() is None
        process.kill()
        process.communicate(timeout=PATIENCE)
    events = [json.loads(line)["event"] for line in file.read_text().splitlines()]
    assert events == ["opened", "log"]
    (here / "go").touch()  # the script goes on without us


def test_a_recording_is_of_one_run(here: Path) -> None:
    script = "from asyncpipes import open_pipes\nwith open_pipes():\n    wait('go')\n"
    (here / "flood.py").write_text(WAITING + script)
    command = asyncpipes_command("run", "--record", "r.jsonl", "--", sys.executable, "flood.py")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=here, env=environment()
    ) as first:
        while not (here / "r.jsonl").exists() or not (here / "r.jsonl").read_bytes():
            assert first.poll() is None
        second = subprocess.run(
            command, capture_output=True, text=True, cwd=here, env=environment(), timeout=PATIENCE
        )
        assert second.returncode == 74
        assert second.stderr == "asyncpipes: cannot write r.jsonl: another run is recorded there\n"
        (here / "go").touch()
        first.communicate(timeout=PATIENCE)
        assert first.returncode == 0
    events = [json.loads(line)["event"] for line in (here / "r.jsonl").read_text().splitlines()]
    assert events == ["opened", "closed", "outcome"]


def test_bars_that_move_stay_in_their_places() -> None:
    from asyncpipes.cli.view import View

    view = View(io.StringIO(), "title", lambda: "open")

    def move(name: str, completed: int) -> None:
        progress = {"completed": completed, "total": 9, "description": name}
        view.take(CustomMessageEvent({"progress": progress}))

    def drawn() -> list[str]:
        return [line.plain.split()[0] for line in view.live(0)[:-2]]

    for turn in range(3):
        for name in "abcdefgh":
            move(name, turn)
            if turn:
                assert drawn() == ["d", "e", "f", "g", "h", "…"]
        drawn()
    assert "… and 3 more bars" in [line.plain.strip() for line in view.live(0)]
    move("e", 9)
    assert drawn() == ["d", "f", "g", "h", "c", "…"], "what is complete makes room"
    for name in "ijklmnopqrstuvw":
        move(name, 1)
    assert drawn()[-2:] == ["w", "…"]


def test_sigterm_leaves_a_replays_terminal_clean(tmp_path: Path) -> None:
    rows = [
        {"event": "log", "message": f"line {index}", "level": "INFO", "received_at": index * 9.0}
        for index in range(100)
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Terminal("replay", "--speed", "1", "r.jsonl", cwd=tmp_path) as terminal:
        terminal.until("line 0")
        terminal.until_drawn()
        shell = terminal.child.pid
        (command,) = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        os.kill(int(command), signal.SIGTERM)
        assert terminal.end() == 128 + signal.SIGTERM
        assert "asyncpipes: terminated" in terminal.text
        terminal.check_clean()
