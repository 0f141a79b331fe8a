"""The command in a real terminal: what a person sees, and what is left of it."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pyte
import pytest
from pyte.modes import LNM
from rich.text import Text

from asyncpipes.cli.screen import Screen
from tests.support import PATIENCE, wait_until
from tests.support_host import is_alive

from .terminal import OWN, SPINNER, WAITING, Terminal, asyncpipes_command, environment

pytestmark = pytest.mark.host

#: What a terminal would obey: clear, title, colour, 8-bit CSI, carriage return, bell,
#: backspace, delete, right-to-left, form feed.
EVIL = "\x1b[2J\x1b]0;pwned\x07\x1b[45mred\x9b2J\r\x08\x7f\u202e\x0c\x85"


def script_of(directory: Path, body: str, name: str = "script.py") -> list[str | Path]:
    """A script, and its command, which is as short wherever these tests are run."""
    path = directory / name
    path.write_text(f"{WAITING}\nfrom asyncpipes import open_pipes\n{body}")
    return ["python", path.name]


PROGRESS = """
with open_pipes() as pipes:
    pipes.log.info("it begins")
    bar = {"completed": 7, "total": 12, "description": "months"}
    pipes.report_custom_message({"progress": bar})
    pipes.report_custom_message({"progress": {"completed": 4711}})
    print("told on stdout", flush=True)
    print("told on stderr", file=sys.stderr, flush=True)
    pipes.log.warning("it waits")
    wait("go")
    pipes.report_asset_check("sound", passed=True)
    pipes.report_asset_check("nice", passed=False, severity="WARN")
    pipes.report_asset_check("right", passed=False)
    pipes.report_custom_message({"other": [1, 2]})
"""


def test_what_a_person_sees(tmp_path: Path) -> None:
    command = script_of(tmp_path, PROGRESS)
    with Terminal("run", "--asset", "orders", "--", *command, cwd=tmp_path) as terminal:
        terminal.until("it waits")
        terminal.until("7/12  58%")
        terminal.until("4,711")
        terminal.until("2 pieces of output")
        status = re.compile(r"^\S open [\d.]+ s  .*python\S* script\.py$", re.MULTILINE)
        terminal.until(lambda: status.search(terminal.text) is not None)
        assert "out │ told on stdout" in terminal.text
        assert "err │ told on stderr" in terminal.text
        terminal.go("go")
        assert terminal.end() == 0
        text = terminal.text
        assert "✓ sound of orders passed" in text
        assert "✗ nice of orders failed (WARN)" in text
        assert "✗ right of orders failed (ERROR)" in text
        assert '▪ {"other":[1,2]}' in text
        assert "7/12" not in text, "a bar was left"
        last = terminal.lines[-3]
        assert re.fullmatch(
            r"✓ ok after [\d.]+ s: 0 materializations, 3 checks \(2 failed\), 3 custom messages",
            last,
        )
        assert "2 log lines (1 WARNING), 2 pieces of output" in text
        terminal.check_clean()


METADATA = """
with open_pipes() as pipes:
    table = {"records": [{"n": i, "name": f"row {i}"} for i in range(25)],
             "schema": [{"name": "n", "type": "int"}, {"name": "name", "type": "string"}]}
    schema = {"columns": [{"name": "n", "type": "int", "description": "the number"}]}
    pipes.report_asset_materialization(data_version="v7", metadata={
        "rows": 1234567,
        "ratio": 0.25,
        "truth": True,
        "nothing": None,
        "text": "plain\\nand more",
        "page": {"type": "url", "raw_value": "https://example.com/x"},
        "file": {"type": "path", "raw_value": "/tmp/x"},
        "notes": {"type": "md", "raw_value": "# Title\\n\\n* one\\n* **two**"},
        "tree": {"a": [1, {"b": None}]},
        "table": {"type": "table", "raw_value": table},
        "columns": {"type": "table_schema", "raw_value": schema},
        "when": {"type": "timestamp", "raw_value": 1767225600.0},
        "asset": {"type": "asset", "raw_value": "other/key"},
    })
"""


def test_metadata_is_shown_by_its_type(tmp_path: Path) -> None:
    command = script_of(tmp_path, METADATA)
    with Terminal("run", "--asset", "orders", "--", *command, cwd=tmp_path) as terminal:
        assert terminal.end() == 0
        text = terminal.text
        assert "◆ orders materialized  data version v7" in text
        for shown in (
            "rows    1,234,567",
            "ratio   0.25",
            "truth   true",
            "nothing null",
            "text    plain",
            "page    https://example.com/x",
            "file    /tmp/x",
            "• one",
            "• two",
            '"a": [',
            "row 19",
            "… 5 more rows",
            "the number",
            "2026-01-01 00:00:00+00:00",
            "other/key",
        ):
            assert shown in text, shown
        assert "row 20" not in text
        assert "**two**" not in text
        assert "\x1b]8;" in terminal.raw, "a page is a link"
        terminal.check_clean()


@pytest.mark.parametrize("columns", [20, 200])
@pytest.mark.parametrize("body", [PROGRESS, METADATA])
def test_narrow_and_wide(tmp_path: Path, columns: int, body: str) -> None:
    command = script_of(tmp_path, body)
    (tmp_path / "go").touch()
    with Terminal(
        "run", "--asset", "orders", "--", *command, cwd=tmp_path, columns=columns
    ) as terminal:
        assert terminal.end() == 0
        assert "✓ ok after" in terminal.text
        assert "orders" in terminal.text
        terminal.check_clean()


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_terminal_of_next_to_no_rows(tmp_path: Path, rows: int) -> None:
    command = script_of(tmp_path, PROGRESS)
    with Terminal("run", "--asset", "a", "--", *command, cwd=tmp_path, rows=rows) as terminal:
        terminal.until(lambda: "2 log lines" in terminal.raw)
        terminal.until_drawn()
        terminal.go("go")
        assert terminal.end() == 0
        terminal.check_clean()


@pytest.mark.parametrize("sizes", [[(24, 40), (24, 160)], [(24, 160), (24, 30)], [(12, 100)]])
def test_resized_while_it_runs(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    command = script_of(tmp_path, PROGRESS)
    with Terminal("run", "--asset", "orders", "--", *command, cwd=tmp_path) as terminal:
        terminal.until("it waits")
        terminal.until("2 pieces of output")
        for rows, columns in sizes:
            terminal.resize(rows, columns)
            terminal.until_drawn()
            text = terminal.text
            assert len(SPINNER.findall(text)) == 1, text
            assert len(re.findall("7/12|months", text)) <= 2, text
            # Made lower, this terminal forgets what was at its top.
            assert text.count("it begins") == (1 if rows == 24 else 0), text
            assert text.count("it waits") <= 1, text
        terminal.go("go")
        assert terminal.end() == 0
        assert "7/12" not in terminal.text
        terminal.check_clean()


def test_what_was_drawn_before_it_became_narrower_is_erased(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A frame that still stands when the terminal becomes narrower, which cuts it off."""
    screen = pyte.Screen(80, 12)
    screen.set_mode(LNM)
    stream = pyte.Stream(screen)
    monkeypatch.setattr(Screen, "size", property(lambda _: (screen.columns, screen.lines)))
    live = [Text("⠹ " + "bar " * 30), Text("⠹ " + "counts " * 30)]
    file = io.StringIO()
    drawing = Screen(file)
    for columns in (80, 60, 20, 30):
        screen.resize(columns=columns)
        drawing.draw([drawing.text_of(Text(f"at {columns}"))], live)
        stream.feed(file.getvalue())
        file.seek(0)
        file.truncate()
        shown = [line.rstrip() for line in screen.display if line.strip()]
        assert len(SPINNER.findall("\n".join(shown))) == 2, shown
        assert shown[-3] == f"at {columns}", shown


def test_without_a_terminal_nothing_is_escaped(tmp_path: Path) -> None:
    command = script_of(tmp_path, PROGRESS + METADATA.replace("with open_pipes", "if 1:#"))
    (tmp_path / "go").touch()
    done = subprocess.run(
        asyncpipes_command("run", "--asset", "orders", "--", *command),
        capture_output=True, text=True, env=environment(), cwd=tmp_path, timeout=PATIENCE,
    )  # fmt: skip
    assert "\x1b" not in done.stdout + done.stderr
    assert not SPINNER.search(done.stdout)
    assert "told on stdout\n" in done.stdout
    assert "told on stderr\n" in done.stderr


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": ""}])
def test_a_terminal_that_wants_no_colour(tmp_path: Path, env: dict[str, str]) -> None:
    command = script_of(tmp_path, PROGRESS)
    (tmp_path / "go").touch()
    with Terminal("run", "--asset", "orders", "--", *command, cwd=tmp_path, env=env) as terminal:
        assert terminal.end() == 0
        assert "\x1b" not in terminal.raw
        assert "STDOUT   told on stdout" in terminal.text
        assert "STDERR   told on stderr" in terminal.text
        assert "CHECK    orders  right: FAILED (ERROR)" in terminal.text
        assert "asyncpipes: ok after" in terminal.text
        terminal.check_clean()


ENDLESS = """
import signal
if "stubborn" in sys.argv:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open_pipes(handle_signals=False) as pipes:
    pipes.log.info("pid=%d.", os.getpid())
    while True:
        time.sleep(0.01)
"""


def pid_in(terminal: Terminal) -> int:
    terminal.until(lambda: re.search(r"pid=\d+\.", terminal.text) is not None)
    found = re.search(r"pid=(\d+)\.", terminal.text)
    assert found
    return int(found[1])


def test_ctrl_c_ends_it_in_an_orderly_way(tmp_path: Path) -> None:
    command = script_of(tmp_path, ENDLESS)
    with Terminal("run", "--", *command, cwd=tmp_path) as terminal:
        pid = pid_in(terminal)
        terminal.until_drawn()
        terminal.interrupt()
        assert terminal.end() == 130
        assert not is_alive(pid)
        assert "KeyboardInterrupt" in terminal.text, "it had its say"
        assert "✗ NOT OK after" in terminal.text
        assert "- interrupted by SIGINT" in terminal.text
        assert "asyncpipes: interrupted; the script has been ended" in terminal.text
        terminal.check_clean()


def test_ctrl_c_twice_ends_it_at_once(tmp_path: Path) -> None:
    command = script_of(tmp_path, ENDLESS)
    grace = ["--grace", "3600"]
    with Terminal("run", *grace, "--", *command, "stubborn", cwd=tmp_path) as terminal:
        pid = pid_in(terminal)
        terminal.until_drawn()
        terminal.interrupt()
        terminal.until("ending (Ctrl-C again: at once)")
        assert is_alive(pid)
        time.sleep(0.8)  # more than between the two signals that are one
        terminal.interrupt()
        assert terminal.end() == 130
        assert not is_alive(pid)
        assert "ended by signal 9" in terminal.text
        terminal.check_clean()


def test_a_terminal_that_is_closed_ends_the_script(tmp_path: Path) -> None:
    command = script_of(tmp_path, ENDLESS)
    with Terminal("run", "--", *command, cwd=tmp_path) as terminal:
        pid = pid_in(terminal)
        terminal.hang_up()
        wait_until(lambda: not is_alive(pid), "the script has ended")


def test_a_flood_is_counted_exactly(tmp_path: Path) -> None:
    command = script_of(
        tmp_path,
        """
with open_pipes() as pipes:
    for index in range(100_000):
        pipes.log.info("line %d", index)
        if index % 10_000 == 0:
            pipes.log.warning("grave %d.", index)
            pipes.report_asset_check(f"check {index}.", passed=index > 0)
    pipes.report_asset_materialization({"n": 1})
""",
    )
    with Terminal("run", "--asset", "orders", "--", *command, cwd=tmp_path) as terminal:
        assert terminal.end() == 0
        text = terminal.text
        assert "100,010 log lines (10 WARNING)" in text
        assert "1 materialization, 10 checks (1 failed)" in text
        told = re.findall(r"… ([\d,]+) lines? not shown, and counted below", terminal.raw)
        left_out = sum(int(number.replace(",", "")) for number in told)
        shown = len(re.findall(r"line \d+", terminal.raw))
        assert left_out > 0
        assert left_out + shown == 100_000
        for index in range(0, 100_000, 10_000):
            assert f"grave {index}." in terminal.raw
            assert f"check {index}." in terminal.raw
        assert "◆ orders materialized" in text
        terminal.check_clean()


EVERYWHERE = """
import logging
evil = open("evil", encoding="utf-8", newline="").read()
with open_pipes() as pipes:
    pipes.log.info(evil)
    pipes.log.info("lines\\n" + evil)
    logging.getLogger("x" + evil)
    try:
        raise ValueError(evil)
    except ValueError:
        pipes.log.exception("with a traceback")
    pipes.report_custom_message({evil: [evil]})
    pipes.report_custom_message(
        {"progress": {"completed": 1, "total": 2, "description": "bar" + evil}})
    wait("go")
    def typed(kind, raw):
        return {"type": kind, "raw_value": raw}
    records = [{"a" + evil: evil}]
    pipes.report_asset_materialization(asset_key="key" + evil, data_version=evil, metadata={
        "label" + evil: evil,
        "text": typed("text", evil),
        "url": typed("url", "https://example.com/" + evil),
        "path": typed("path", evil),
        "notebook": typed("notebook", evil),
        "md": typed("md", "# T" + evil + "\\n\\n&#13;&#8238;&#x9b;&#27;[2J <b>" + evil
            + "</b>\\n\\n`" + evil + "` ![i" + evil + "](u" + evil + ")"
            + " [l](https://x/" + evil + ")"),
        "json": {"k" + evil: evil},
        "table": typed("table",
            {"records": records, "schema": [{"name": "a" + evil, "type": evil}]}),
        "schema": typed("table_schema",
            {"columns": [{"name": evil, "type": evil, "description": evil}]}),
        "asset": typed("asset", evil),
        "dagster_run": typed("dagster_run", evil),
    })
    pipes.report_asset_check("check" + evil, asset_key="key" + evil, passed=False,
                             metadata={"why": evil})
    print("out" + evil, flush=True)
    print("err" + evil, file=sys.stderr, flush=True)
    with open(os.environ["MESSAGES"], "ab") as file:
        file.write(b'{"bad": "' + evil.encode() + b'\\n')
    raise RuntimeError("left with" + evil)
"""
#: The script writes a bad line beside what it reports.
FIND_MESSAGES = """
from asyncpipes.protocol import bootstrap
params = bootstrap.from_mapping(os.environ, source="x").messages
os.environ["MESSAGES"] = params["path"]
"""


def assert_harmless(raw: str) -> None:
    rest = OWN.sub("", raw)
    bad = sorted({char for char in rest if not char.isprintable() and char != "\n"})
    assert bad == [], bad
    assert "\x1b[45m" not in raw, "a colour of the script's"
    assert not re.search("\x1b]8;[^\x1b]*pwned", raw), "in a link"


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}])
def test_control_characters_are_shown_and_not_obeyed(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "evil").write_text(EVIL, encoding="utf-8", newline="")
    command = script_of(tmp_path, FIND_MESSAGES + EVERYWHERE)
    arguments = ["run", "--asset", f"key{EVIL}", "--", *command, f"title{EVIL}"]
    with Terminal(*arguments, cwd=tmp_path, rows=50, env=env) as terminal:
        terminal.until(lambda: re.search(r"bar\\(x|u00)1b\[2J", terminal.raw) is not None)
        terminal.go("go")
        assert terminal.end() == 1
        assert_harmless(terminal.raw)
        shown = terminal.text
        for field in ("label", "key", "check", "out", "err", "left with"):
            assert f"{field}\\x1b[2J" in shown, (field, shown)
        assert ("MALFORMED" if env else "bad line") in shown
        if not env:
            assert "T\\x1b[2J" in shown
            assert "title\\x1b[2J" in terminal.raw


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}])
def test_control_characters_of_jobs(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "evil").write_text(EVIL, encoding="utf-8", newline="")
    command = script_of(tmp_path, FIND_MESSAGES + EVERYWHERE)
    jobs = [
        {"name": f"job{EVIL}{number}", "command": list(map(str, command)), "assets": [f"key{EVIL}"]}
        for number in range(2)
    ]
    (tmp_path / "jobs.json").write_text(json.dumps({"job": jobs}))
    with Terminal("run", "--file", "jobs.json", cwd=tmp_path, env=env) as terminal:
        terminal.until(lambda: re.search(r"bar\\(x|u00)1b\[2J", terminal.raw) is not None)
        terminal.go("go")
        assert terminal.end() == 1
        assert_harmless(terminal.raw)
        assert "job\\x1b[2J" in terminal.text
        assert "the first that failed: job\\x1b[2J" in terminal.text
        terminal.check_clean()


JOB = """
with open_pipes() as pipes:
    pipes.log.info("here")
    if sys.argv[1] == "5":
        pipes.log.warning("a job that fails")
        wait("go")
        sys.exit(5)
    wait("go")
    pipes.report_asset_materialization()
"""


def test_twelve_jobs_in_a_small_terminal(tmp_path: Path) -> None:
    command = script_of(tmp_path, JOB)
    text = "".join(
        f'[[job]]\nname = "month {number:02}"\nassets = ["orders"]\n'
        f"command = {json.dumps([*map(str, command), str(number)])}\n"
        for number in range(1, 13)
    )
    (tmp_path / "jobs.toml").write_text(text)
    arguments = ["run", "--file", "jobs.toml", "--jobs", "4"]
    with Terminal(*arguments, cwd=tmp_path, rows=10) as terminal:
        terminal.until("12 jobs: 4 running, 8 waiting")
        terminal.until(lambda: terminal.text.count("1 log line") == 4)
        assert len(SPINNER.findall(terminal.text)) == 4
        terminal.until_drawn()
        terminal.go("go")
        assert terminal.end() == 5
        lines = terminal.lines
        ended = [line for line in lines if re.match(r"[✓✗] month \d\d  ", line)]
        assert sorted(line[2:10] for line in ended) == [f"month {n:02}" for n in range(1, 13)]
        assert [line[2:10] for line in ended if line.startswith("✗")] == ["month 05"]
        assert any("WARNING  a job that fails" in line for line in lines)
        assert "asyncpipes: NOT OK: 11 of 12 jobs ok after" in terminal.text
        assert "11 materializations" in terminal.text
        assert "the first that failed: month 05, with 5" in terminal.text
        assert "- the process ended with exit code 5" in terminal.text
        terminal.check_clean()


LEVELS = """
with open_pipes() as pipes:
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(pipes.log, level)("told as " + level)
"""


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize("level", ["info", "error"])
def test_log_level(tmp_path: Path, level: str, from_file: bool) -> None:
    """Of jobs, a terminal has no room for what is not grave."""
    command = list(map(str, script_of(tmp_path, LEVELS)))
    (tmp_path / "jobs.json").write_text(json.dumps({"job": [{"command": command}]}))
    what = ["--file", "jobs.json"] if from_file else ["--", *command]
    with Terminal("run", "--log-level", level, *what, cwd=tmp_path) as terminal:
        assert terminal.end() == 0
        shown = re.findall("told as ([a-z]+)", terminal.text)
        expected = ["info", "warning", "error", "critical"]
        if level == "error":
            expected = expected[2:]
        elif from_file:
            expected = expected[1:]
        assert shown == expected
        terminal.check_clean()


def test_why_each_job_failed(tmp_path: Path) -> None:
    body = "with open_pipes():\n    raise ValueError('no ' + sys.argv[1])\n"
    command = list(map(str, script_of(tmp_path, body)))
    jobs = [{"name": name, "command": [*command, name]} for name in ("a", "b", "c")]
    (tmp_path / "jobs.json").write_text(json.dumps({"job": jobs}))
    for env in ({}, {"NO_COLOR": "1"}):
        with Terminal("run", "--file", "jobs.json", cwd=tmp_path, rows=60, env=env) as terminal:
            assert terminal.end() == 1
            for name in ("a", "b", "c"):
                assert f"  - the script failed: ValueError: no {name}" in terminal.text
                err = "STDERR   " if env else "err │ "
                assert f"{err}ValueError: no {name}" in terminal.text
            terminal.check_clean()


def test_the_state_of_each_job(tmp_path: Path) -> None:
    body = "wait('go 1')\nwith open_pipes():\n    wait('go 2')\n"
    command = list(map(str, script_of(tmp_path, body)))
    (tmp_path / "jobs.json").write_text(
        json.dumps({"job": [{"name": "日本の job", "command": command}]})
    )
    with Terminal("run", "--file", "jobs.json", cwd=tmp_path) as terminal:
        line = re.compile(r"^\S .*job  (\w+) +[\d.]+ s  0 mat", re.MULTILINE)
        terminal.until(lambda: line.findall(terminal.text) == ["waiting"])
        terminal.go("go 1")
        terminal.until(lambda: line.findall(terminal.text) == ["open"])
        terminal.go("go 2")
        assert terminal.end() == 0
        terminal.check_clean()


def test_json_on_a_terminal_is_harmless(tmp_path: Path) -> None:
    body = "print('a\\x9b31mb\\u202ec\\U000e0041', flush=True)\nwith open_pipes(): pass\n"
    command = script_of(tmp_path, body)
    with Terminal("run", "--json", "--", *command, cwd=tmp_path, columns=400) as terminal:
        assert terminal.end() == 0
        assert_harmless(terminal.raw)
        rows = [json.loads(line) for line in terminal.lines if line.startswith("{")]
        texts = [row["text"] for row in rows if row["event"] == "external_stream"]
        assert texts == ["a\x9b31mb\u202ec\U000e0041\n"]


@pytest.mark.parametrize("columns", [20, 200])
def test_more_jobs_than_rows(tmp_path: Path, columns: int) -> None:
    command = script_of(tmp_path, JOB)
    jobs = [{"command": [*map(str, command), "0"], "assets": ["a"]} for _ in range(6)]
    (tmp_path / "jobs.json").write_text(json.dumps({"job": jobs}))
    arguments = ["run", "--file", "jobs.json", "--jobs", "6"]
    with Terminal(*arguments, cwd=tmp_path, rows=6, columns=columns) as terminal:
        terminal.until("… and 3 jobs mor…" if columns == 20 else "… and 3 jobs more that run")
        terminal.until_drawn()
        terminal.go("go")
        assert terminal.end() == 0
        terminal.check_clean()


def test_ctrl_c_ends_all_jobs(tmp_path: Path) -> None:
    command = script_of(tmp_path, ENDLESS)
    jobs = [{"command": [*map(str, command)]} for _ in range(4)]
    (tmp_path / "jobs.json").write_text(json.dumps({"job": jobs}))
    arguments = ["run", "--file", "jobs.json", "--jobs", "2"]
    with Terminal(*arguments, cwd=tmp_path) as terminal:
        terminal.until("2 running, 2 waiting")
        terminal.until(lambda: terminal.text.count("1 log line") == 2)
        terminal.interrupt()
        assert terminal.end() == 128 + signal.SIGINT
        assert terminal.text.count("not started") == 2
        assert terminal.text.count("NOT OK (130)") == 2
        assert "0 of 4 jobs ok" in terminal.text
        assert "interrupted; the scripts have been ended" in terminal.text
        terminal.check_clean()


def test_replay_shows_all_of_a_recording(tmp_path: Path) -> None:
    command = script_of(
        tmp_path,
        "with open_pipes() as pipes:\n"
        "    for index in range(500):\n"
        "        pipes.log.info('line %d.', index)\n"
        "    pipes.report_asset_materialization({'n': 1})\n",
    )
    subprocess.run(
        asyncpipes_command("run", "--asset", "a", "--record", "run.jsonl", "--", *command),
        check=True, env=environment(), cwd=tmp_path, stdout=subprocess.DEVNULL, timeout=PATIENCE,
    )  # fmt: skip
    with Terminal("replay", "run.jsonl", cwd=tmp_path) as terminal:
        assert terminal.end() == 0
        for index in range(500):
            assert f"line {index}." in terminal.text
        assert "not shown" not in terminal.raw
        assert "✓ ok after" in terminal.text
        assert "500 log lines" in terminal.text
        terminal.check_clean()
