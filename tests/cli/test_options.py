"""Every option of every command does what its help says, and its errors say what to do."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from asyncpipes import __version__
from tests.support import PATIENCE, bootstrap

from .given import given, walked
from .terminal import WAITING, asyncpipes_command, environment

pytestmark = pytest.mark.host

SHOW = """
import os, sys
from asyncpipes import open_pipes
with open_pipes() as pipes:
    span = pipes.partition_key_range if pipes.is_partition_step else None
    pipes.report_custom_message({
        "assets": pipes.asset_keys if pipes.is_asset_step else None,
        "partitions": span and [span["start"], span["end"]],
        "extras": pipes.extras,
        "run_id": pipes.run_id,
        "job_name": pipes.job_name,
        "env": os.environ.get("FOR_THE_SCRIPT"),
        "cwd": os.getcwd(),
    })
    pipes.log.debug("a debug line")
    pipes.log.warning("a warning")
"""


def asyncpipes(
    *arguments: str | Path, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        asyncpipes_command(*arguments),
        capture_output=True, text=True, timeout=PATIENCE, cwd=cwd, env=environment(**(env or {})),
    )  # fmt: skip


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "show.py").write_text(SHOW)
    return tmp_path


def seen(here: Path, *options: str | Path) -> dict[str, Any]:
    """What the script saw of its context and its surroundings."""
    script = here / "show.py"
    done = asyncpipes("run", "--json", *options, "--", sys.executable, script, cwd=here)
    assert done.returncode == 0, done.stderr
    events = map(json.loads, done.stdout.splitlines())
    payload: dict[str, Any] = next(e["payload"] for e in events if e["event"] == "custom_message")
    return payload


def refused(here: Path, *arguments: str | Path) -> str:
    """What a command line that is wrong is answered, as one line."""
    done = asyncpipes(*arguments, cwd=here)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def test_the_context(here: Path) -> None:
    plain = seen(here)
    assert plain["assets"] is None
    assert plain["partitions"] is None
    assert plain["extras"] == {}
    assert len(plain["run_id"]) == 36, "a random one"
    options = ["--asset", "sales/2024", "--asset", "b", "--run-id", "mine", "--job-name", "nightly"]
    full = seen(here, *options, "--partition", "2026-01")
    assert full["assets"] == ["sales/2024", "b"]
    assert full["partitions"] == ["2026-01", "2026-01"]
    assert (full["run_id"], full["job_name"]) == ("mine", "nightly")
    assert seen(here, "--partition-range", "a..c")["partitions"] == ["a", "c"]


def test_partitions_that_cannot_be(here: Path) -> None:
    both = ["--partition", "a", "--partition-range", "a..c"]
    assert "either --partition or --partition-range" in refused(here, "run", *both, "--", "true")
    for wrong in ("a", "a..", "..b", "a..b..c"):
        text = refused(here, "run", "--partition-range", wrong, "--", "true")
        assert "FIRST..LAST, as 2026-01-01..2026-01-31" in text


def test_an_asset_without_a_name(here: Path) -> None:
    assert "asset_keys holds an empty key" in refused(here, "run", "--asset", "", "--", "true")


def test_extras(here: Path) -> None:
    (here / "big.json").write_text('{"from": ["a", "file"]}')
    extras = ["n=10", "t=text", "j={\"a\": [1]}", "none=null", "eq=a=b", "empty=", "f=@big.json",
              'at="@x"']  # fmt: skip
    options = [part for extra in extras for part in ("--extra", extra)]
    assert seen(here, *options)["extras"] == {
        "n": 10, "t": "text", "j": {"a": [1]}, "none": None, "eq": "a=b", "empty": "",
        "f": {"from": ["a", "file"]}, "at": "@x",
    }  # fmt: skip


def test_extras_that_cannot_be(here: Path) -> None:
    def told(extra: str) -> str:
        return refused(here, "run", "--extra", extra, "--", "true")

    (here / "bad.json").write_text("{")
    (here / "deep.json").write_text("[" * 100_000)
    assert "'novalue' is not KEY=VALUE" in told("novalue")
    assert "is not KEY=VALUE" in told("=x")
    assert "x: cannot read none.json: No such file" in told("x=@none.json")
    assert "x: bad.json is not JSON" in told("x=@bad.json")
    assert "For a text that begins with @, give it as JSON" in told("x=@bad.json")
    assert "deep.json is not JSON" in told("x=@deep.json")
    assert "nan" in told("x=NaN")


def test_a_deeply_nested_extra_is_text(here: Path) -> None:
    deep = "[" * 50_000
    assert seen(here, "--extra", f"x={deep}")["extras"] == {"x": deep}


def test_surroundings(here: Path) -> None:
    (here / "below").mkdir()
    shown = seen(here, "--env", "FOR_THE_SCRIPT=a=b", "--cwd", "below")
    assert shown["env"] == "a=b"
    assert shown["cwd"] == str(here / "below")
    assert "is not KEY=VALUE" in refused(here, "run", "--env", "X", "--", "true")
    assert "does not exist" in refused(here, "run", "--cwd", "nowhere", "--", "true")


@pytest.mark.parametrize("option", ["--timeout", "--grace"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon"])
def test_times_that_cannot_be(here: Path, option: str, value: str) -> None:
    assert f"Invalid value for '{option}'" in refused(here, "run", option, value, "--", "true")


def test_timeout_and_grace(here: Path) -> None:
    (here / "deaf.py").write_text(
        "import signal, time\nfrom asyncpipes import open_pipes\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "with open_pipes(handle_signals=False) as pipes:\n"
        "    open('deaf', 'w').close()\n"
        "    while True:\n        time.sleep(0.01)\n"
    )
    for seconds in ("1", "4", "16", "64"):  # a busy machine may take long to get so far
        options = ["--timeout", seconds, "--grace", "0.1"]
        done = asyncpipes("run", *options, "--", sys.executable, "deaf.py", cwd=here)
        assert done.returncode == 124
        assert re.search(rf"timeout of {seconds} seconds?\b", done.stdout)
        if (here / "deaf").exists():
            break
    assert "ended by signal 9" in done.stdout


@pytest.mark.parametrize("level", ["WARNING", "warning"])
def test_log_level_hides_and_counts(here: Path, level: str) -> None:
    command = [sys.executable, "show.py"]
    done = asyncpipes("run", "--record", "r", "--log-level", level, "--", *command, cwd=here)
    assert "a warning" in done.stdout
    assert "a debug line" not in done.stdout
    recorded = (here / "r").read_text()
    assert "a debug line" in recorded, "a recording has all"
    as_json = asyncpipes("run", "--json", "--log-level", level, "--", *command, cwd=here)
    assert "a debug line" in as_json.stdout, "and so has JSON"
    replayed = asyncpipes("replay", "--log-level", level, "r", cwd=here)
    assert "a warning" in replayed.stdout
    assert "a debug line" not in replayed.stdout
    assert "Invalid value for '--log-level'" in refused(
        here, "run", "--log-level", "LOUD", "--", "true"
    )


def test_no_strict(here: Path) -> None:
    command = [sys.executable, "-c", "print('never opens')"]
    assert asyncpipes("run", "--", *command, cwd=here).returncode == 76
    done = asyncpipes("run", "--no-strict", "--", *command, cwd=here)
    assert done.returncode == 0
    assert "NOT OK" in done.stdout, "it is told all the same"
    failing = [sys.executable, "-c", "raise SystemExit(3)"]
    assert asyncpipes("run", "--no-strict", "--", *failing, cwd=here).returncode == 3


def test_json_ends_with_the_outcome(here: Path) -> None:
    done = asyncpipes("run", "--json", "--", sys.executable, "show.py", cwd=here)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["event"] for row in rows] == [
        "opened", "custom_message", "log", "log", "closed", "outcome",
    ]  # fmt: skip
    assert rows[-1]["ok"] is True
    assert rows[-1]["exit_code"] == 0
    assert "asyncpipes: ok after" in done.stderr


def test_a_recording_is_the_same_lines(here: Path) -> None:
    options = ["--json", "--record", "run.jsonl"]
    done = asyncpipes("run", *options, "--", sys.executable, "show.py", cwd=here)
    assert (here / "run.jsonl").read_text() == done.stdout


def test_a_recording_has_the_scripts_own_output_too(here: Path) -> None:
    """Which is passed on as it is besides, where plain lines are printed."""
    code = "from asyncpipes import open_pipes\nwith open_pipes(): print('from stdout')"
    command = [sys.executable, "-c", code]
    done = asyncpipes("run", "--record", "run.jsonl", "--", *command, cwd=here)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines().count("from stdout") == 1
    assert "STDOUT" not in done.stdout
    recorded = [json.loads(line) for line in (here / "run.jsonl").read_text().splitlines()]
    assert "from stdout\n" in [row.get("text") for row in recorded]


@pytest.mark.parametrize("kind", ["lines", "json"])
def test_a_recording_that_takes_nothing(here: Path, kind: str) -> None:
    options = ["--record", "/dev/full", *(["--json"] if kind == "json" else [])]
    done = asyncpipes("run", *options, "--", sys.executable, "show.py", cwd=here)
    assert done.returncode == 74
    assert "asyncpipes: cannot write to /dev/full: No space left on device" in done.stderr
    assert "a warning" in done.stdout, "the run goes on without it"


def test_a_full_recording_does_not_hide_the_exit_code(here: Path) -> None:
    failing = [sys.executable, "-c", "raise SystemExit(3)"]
    assert asyncpipes("run", "--record", "/dev/full", "--", *failing, cwd=here).returncode == 3


def test_a_recording_that_cannot_be_opened(here: Path) -> None:
    done = asyncpipes("run", "--record", "no/such/dir", "--", "true", cwd=here)
    assert done.returncode == 74
    assert "cannot write no/such/dir: No such file or directory" in done.stderr


def test_usage_that_is_incomplete(here: Path) -> None:
    (here / "jobs.json").write_text('{"job": [{"command": "true"}]}')
    assert "the script to run" in refused(here, "run")
    assert "not both" in refused(here, "run", "--file", "jobs.json", "--", "true")
    assert "--jobs is for --file" in refused(here, "run", "--jobs", "2", "--", "true")
    assert "--jobs" in refused(here, "run", "--file", "jobs.json", "--jobs", "0")
    text = refused(here, "run", "--file", "jobs.json", "--record", "x")
    assert "give jobs a `record` each" in text
    assert "does not exist" in refused(here, "run", "--file", "none.toml")


JOBS = """
[[job]]
name = "first"
command = [{python}, "show.py"]
assets = ["a"]
partition = "2026-01"
extras = {{ mine = 1 }}
run_id = "r1"
job_name = "j1"
env = {{ FOR_THE_SCRIPT = "of the job" }}
record = "first.jsonl"

[[job]]
command = [{python}, "../show.py"]
partition_range = "a..b"
cwd = "below"
timeout = 60
grace = 1.5
"""


def test_a_file_of_jobs(here: Path) -> None:
    (here / "below").mkdir()
    (here / "jobs.toml").write_text(JOBS.format(python=json.dumps(sys.executable)))
    options = ["--asset", "of all", "--extra", "all=2", "--env", "FOR_THE_SCRIPT=of all"]
    done = asyncpipes("run", "--file", "jobs.toml", "--jobs", "2", "--json", *options, cwd=here)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    payloads = {row["job"]: row["payload"] for row in rows if row["event"] == "custom_message"}
    assert payloads["first"] == {
        "assets": ["a"], "partitions": ["2026-01", "2026-01"], "extras": {"all": 2, "mine": 1},
        "run_id": "r1", "job_name": "j1", "env": "of the job", "cwd": str(here),
    }  # fmt: skip
    assert payloads["job 2"]["assets"] == ["of all"]
    assert payloads["job 2"]["partitions"] == ["a", "b"]
    assert payloads["job 2"]["env"] == "of all"
    assert payloads["job 2"]["cwd"] == str(here / "below")
    assert sorted(row["job"] for row in rows if row["event"] == "outcome") == ["first", "job 2"]
    assert "asyncpipes: ok: 2 of 2 jobs ok" in done.stderr
    assert asyncpipes("validate", "first.jsonl", cwd=here).returncode == 0
    (here / "all.jsonl").write_text(done.stdout)
    assert asyncpipes("validate", "all.jsonl", cwd=here).returncode == 0, "a recording as well"


def test_what_a_job_does_not_say_is_as_the_options_say(here: Path) -> None:
    (here / "below").mkdir()
    (here / "jobs.json").write_text(
        json.dumps({"job": [{"command": [sys.executable, str(here / "show.py")]}]})
    )

    def shown(*options: str) -> dict[str, Any]:
        done = asyncpipes("run", "--file", "jobs.json", "--json", *options, cwd=here)
        assert done.returncode == 0, done.stderr
        rows = map(json.loads, done.stdout.splitlines())
        payload: dict[str, Any] = next(r["payload"] for r in rows if r["event"] == "custom_message")
        return payload

    of_all = shown(
        "--run-id", "mine", "--job-name", "nightly", "--partition", "a", "--cwd", "below"
    )
    assert (of_all["run_id"], of_all["job_name"]) == ("mine", "nightly")
    assert of_all["partitions"] == ["a", "a"]
    assert of_all["cwd"] == str(here / "below")
    assert shown("--partition-range", "a..c")["partitions"] == ["a", "c"]


def test_times_of_all_jobs(here: Path) -> None:
    (here / "jobs.json").write_text(
        '{"job": [{"command": "trap : INT TERM; : >deaf; while :; do :; done"}]}'
    )
    for seconds in ("0.5", "2", "8", "32"):  # a busy machine may take long to get so far
        options = ["--timeout", seconds, "--grace", "0.1"]
        done = asyncpipes("run", "--file", "jobs.json", *options, cwd=here)
        assert done.returncode == 124, done
        assert f"timeout of {seconds} seconds" in done.stdout
        if (here / "deaf").exists():
            break
    assert "ended by signal 9" in done.stdout


def test_log_level_and_no_strict_of_all_jobs(here: Path) -> None:
    jobs = [{"command": [sys.executable, "show.py"]}, {"command": "true"}]
    (here / "jobs.json").write_text(json.dumps({"job": jobs}))
    options = ["--log-level", "WARNING", "--no-strict"]
    done = asyncpipes("run", "--file", "jobs.json", *options, cwd=here)
    assert done.returncode == 0, done
    assert "a warning" in done.stdout
    assert "a debug line" not in done.stdout


def test_jobs_as_lines(here: Path) -> None:
    command = [sys.executable, "show.py"]
    jobs = [{"name": "one", "command": command}, {"command": "exit 7"}]
    (here / "jobs.json").write_text(json.dumps({"job": jobs}))
    done = asyncpipes("run", "--file", "jobs.json", "--jobs", "1", cwd=here)
    assert done.returncode == 7
    assert re.search(r"^[\d:]{8} one   │ WARNING  a warning$", done.stdout, re.MULTILINE)
    assert re.search(r"^[\d:]{8} one   │ ok after", done.stdout, re.MULTILINE)
    assert re.search(r"^[\d:]{8} job 2 │ NOT OK \(7\) after", done.stdout, re.MULTILINE)
    assert "asyncpipes: NOT OK: 1 of 2 jobs ok" in done.stdout
    assert "the first that failed: job 2, with 7" in done.stdout


def test_the_exit_code_is_that_of_the_first_failure(here: Path) -> None:
    (here / "later.py").write_text(
        f"{WAITING}\nwait('failed')\nwhile os.path.getsize('first.jsonl') < 1:\n"
        "    time.sleep(0.01)\nsys.exit(9)"
    )
    jobs: list[dict[str, Any]] = [
        {"name": "later", "command": [sys.executable, "later.py"]},
        {"name": "first", "command": "touch failed; exit 8", "record": "first.jsonl"},
    ]
    (here / "jobs.json").write_text(json.dumps({"job": jobs}))
    done = asyncpipes("run", "--file", "jobs.json", "--jobs", "2", cwd=here)
    assert done.returncode == 8
    assert "the first that failed: first, with 8" in done.stdout


@pytest.mark.parametrize(
    ("job", "code"),
    [
        ({"command": "true"}, 76),
        ({"command": ["no-such-program-anywhere"]}, 127),
        ({"command": ["/dev/null"]}, 126),
        ({"command": "kill -9 $$"}, 137),
        ({"command": "sleep 3600", "timeout": 0.3}, 124),
        ({"command": "true", "record": "no/such/dir"}, 74),
        ({"command": [sys.executable, "show.py"], "record": "/dev/full"}, 74),
    ],
)
def test_the_exit_code_of_a_job(here: Path, job: dict[str, Any], code: int) -> None:
    (here / "jobs.json").write_text(json.dumps({"job": [job]}))
    done = asyncpipes("run", "--file", "jobs.json", cwd=here)
    assert done.returncode == code, done
    assert "the first that failed: job 1" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", 'has no jobs: it needs {"job": [...]}, each with a `command`'),
        ('{"job": []}', "has no jobs"),
        ('{"job": [7]}', "job 1 is no table"),
        ('{"job": [{}]}', "job 1: `command` is missing"),
        ('{"job": [{"command": ""}]}', "job 1: `command` is missing"),
        ('{"job": [{"command": [1]}]}', "hold texts alone"),
        ('{"job": [{"command": "x", "asset": "a"}]}', "'asset' is none of name, command"),
        ('{"job": [{"command": 7}]}', "`command` must be a text, or a list of texts"),
        ('{"job": [{"command": "x", "timeout": true}]}', "`timeout` must be a number"),
        ('{"job": [{"command": "x", "timeout": 0}]}', "`timeout` must be above 0"),
        ('{"job": [{"command": "x", "timeout": 1%s}]}' % ("0" * 400), "must be above 0"),
        ('{"job": [{"command": "x", "record": "a\\u0000"}]}', "`record` is no file's name"),
        ('{"jobs": 4, "job": [{"command": "x"}]}', "'jobs' is not known, `job` is all it has"),
        ('{"job": [{"command": "x", "record": ""}]}', "`record` is no file's name: ''"),
        ('{"job": [{"command": "x", "grace": NaN}]}', "`grace` must be above 0"),
        ('{"job": [{"command": "x", "cwd": "none"}]}', "`cwd` is no directory: 'none'"),
        ('{"job": [{"command": "x", "partition_range": "a"}]}', "is not FIRST..LAST"),
        (
            '{"job": [{"command": "x", "name": "a"}, {"command": "x", "name": "a"}]}',
            "two jobs have the name 'a'",
        ),
        (
            '{"job": [{"command": "x", "record": "r"}, {"command": "x", "record": "./r"}]}',
            "two jobs have the `record`",
        ),
        ('{"job": [{"command": "x", "name": ""}]}', "`name` is empty"),
        (
            '{"job": [{"command": "x", "partition": "a", "partition_range": "a..b"}]}',
            "either `partition` or `partition_range`",
        ),
        ('{"job": [{"command": "x", "assets": ["a", "a"]}]}', "job 1: "),
        ('{"job": [{"command": "x", "extras": {"n": NaN}}]}', "job 1: "),
    ],
)
def test_a_file_of_jobs_that_is_wrong(here: Path, text: str, what: str) -> None:
    (here / "jobs.json").write_text(text)
    assert what in refused(here, "run", "--file", "jobs.json")


@pytest.mark.parametrize("wrong", [["--extra", "x=1e999"], ["--asset", ""]])
def test_what_is_refused_replaces_no_recording(here: Path, wrong: list[str]) -> None:
    (here / "keep.jsonl").write_text("precious")
    refused(here, "run", "--record", "keep.jsonl", *wrong, "--", "true")
    assert (here / "keep.jsonl").read_text() == "precious"


def test_every_job_that_was_tried_has_an_outcome(here: Path) -> None:
    jobs = [
        {"name": "missing", "command": ["no-such-program"], "record": "missing.jsonl"},
        {"name": "unwritable", "command": "true", "record": "none/r.jsonl"},
        {"name": "null", "command": ["a\0b"]},
    ]
    (here / "jobs.json").write_text(json.dumps({"job": jobs}))
    done = asyncpipes("run", "--json", "--jobs", "1", "--file", "jobs.json", cwd=here)
    assert done.returncode == 127
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["job"], row["event"], row["ok"]) for row in rows] == [
        ("missing", "outcome", False), ("unwritable", "outcome", False), ("null", "outcome", False)
    ]  # fmt: skip
    assert "none/r.jsonl" in rows[1]["reasons"][0]
    assert json.loads((here / "missing.jsonl").read_text())["reasons"] == rows[0]["reasons"]


def test_what_several_jobs_printed_is_not_replayed_as_one(here: Path) -> None:
    (here / "jobs.toml").write_text('[[job]]\ncommand = "true"\n')
    done = asyncpipes("run", "--json", "--file", "jobs.toml", cwd=here)
    (here / "lines").write_text(done.stdout)
    assert "give each job a `record`" in refused(here, "replay", "lines")
    assert asyncpipes("validate", "lines", cwd=here).returncode == 0


@pytest.mark.parametrize("options", [["run", "--json"], ["run", "--json", "--record", "r.jsonl"]])
def test_a_command_that_cannot_start_has_an_outcome_too(here: Path, options: list[str]) -> None:
    done = asyncpipes(*options, "--", "no-such-program", cwd=here)
    assert done.returncode == 127
    (row,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert row["event"] == "outcome"
    assert "no-such-program" in row["reasons"][0]
    if "r.jsonl" in options:
        assert (here / "r.jsonl").read_text() == done.stdout


@pytest.mark.parametrize(
    "command",
    ["run --no-strict -- true", "validate empty", "replay empty", "--help", "completion bash"],
)
def test_last_words_that_nobody_takes_go_to_stderr(here: Path, command: str) -> None:
    (here / "empty").touch()
    line = f"{shlex.join(asyncpipes_command())} {command} >/dev/full"
    done = subprocess.run(
        line, shell=True, capture_output=True, text=True, cwd=here, env=environment(),
        timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 74, done
    assert "asyncpipes: cannot write to stdout: No space left" in done.stderr
    assert "Traceback" not in done.stderr
    if command.startswith("run"):
        assert "never opened pipes" in done.stderr, "the verdict is not lost with it"


def test_a_file_that_is_no_toml(here: Path) -> None:
    (here / "jobs.toml").write_bytes(b"\xff")
    assert "jobs.toml is not TOML" in refused(here, "run", "--file", "jobs.toml")


@pytest.mark.parametrize("speed", ["0", "-1", "nan", "inf"])
def test_speeds_that_cannot_be(here: Path, speed: str) -> None:
    (here / "x").touch()
    assert "Invalid value for '--speed'" in refused(here, "replay", "--speed", speed, "x")


@pytest.mark.parametrize("command", ["replay", "validate"])
def test_files_that_are_not_there(here: Path, command: str) -> None:
    assert "does not exist" in refused(here, command, "none")
    assert "is a directory" in refused(here, command, ".")
    done = asyncpipes(command, "/proc/self/mem", cwd=here)
    assert done.returncode == 2
    assert "cannot read /proc/self/mem" in done.stderr


def test_context_hides_the_extras(here: Path) -> None:
    env = bootstrap({"path": "/tmp/messages"}, extras={"token": "s3cret", "n": [1]})
    done = asyncpipes("context", cwd=here, env=env)
    assert done.returncode == 0
    assert "s3cret" not in done.stdout
    shown = json.loads(done.stdout)
    assert shown["context"]["asset_keys"] == ["orders"]
    assert shown["context"]["extras"] == {
        "token": "(str, hidden: --show-extras shows it)",
        "n": "(list, hidden: --show-extras shows it)",
    }
    assert shown["messages"] == {"path": "/tmp/messages"}
    open_ = json.loads(asyncpipes("context", "--show-extras", cwd=here, env=env).stdout)
    assert open_["context"]["extras"] == {"token": "s3cret", "n": [1]}


def test_context_in_a_run(here: Path) -> None:
    done = asyncpipes(
        "run", "--no-strict", "--asset", "a", "--", *asyncpipes_command("context"), cwd=here
    )
    assert done.returncode == 0
    assert '"asset_keys": [\n      "a"\n    ]' in done.stdout


def test_context_that_is_deep_or_not_there(here: Path) -> None:
    deep: list[Any] = []
    for _ in range(240):
        deep = [deep]
    env = bootstrap({}, extras={"deep": deep})
    done = asyncpipes("context", "--show-extras", cwd=here, env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["context"]["extras"] == {"deep": deep}
    missing = asyncpipes("context", cwd=here)
    assert missing.returncode == 1
    assert "Try `asyncpipes run -- asyncpipes context`" in " ".join(missing.stderr.split())
    bad = asyncpipes("context", cwd=here, env={**env, "DAGSTER_PIPES_CONTEXT": "x\x1b[2J"})
    assert bad.returncode == 1
    assert "DAGSTER_PIPES_CONTEXT" in bad.stderr
    assert "\x1b" not in bad.stderr


def told(here: Path, env: dict[str, str], *options: str) -> tuple[dict[str, Any], str]:
    """What `context` can tell of an environment that is not whole, and what it says of the rest."""
    done = asyncpipes("context", *options, cwd=here, env=env)
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("how", ["missing", "spoilt"])
def test_context_tells_what_is_left_of_the_variables(here: Path, how: str) -> None:
    whole = bootstrap({"path": "/tmp/messages"}, extras={"token": "s3cret"})

    def without(variable: str) -> dict[str, str]:
        spoilt = {} if how == "missing" else {variable: "x"}
        return {**{name: whole[name] for name in whole if name != variable}, **spoilt}

    shown, err = told(here, without("DAGSTER_PIPES_CONTEXT"))
    assert shown == {
        "context": None, "context_params": None, "messages": {"path": "/tmp/messages"},
    }  # fmt: skip
    assert err.startswith("asyncpipes: environment variable DAGSTER_PIPES_CONTEXT is ")
    shown, err = told(here, without("DAGSTER_PIPES_MESSAGES"))
    assert shown["context"]["asset_keys"] == ["orders"]
    assert shown["context"]["extras"] == {"token": "(str, hidden: --show-extras shows it)"}
    assert shown["context_params"] == {"data": "(above)"}
    assert shown["messages"] is None
    assert err.startswith("asyncpipes: environment variable DAGSTER_PIPES_MESSAGES is ")
    if how == "spoilt":
        both = dict.fromkeys(whole, "x")
        shown, err = told(here, both)
        assert set(shown.values()) == {None}
        assert len(err.splitlines()) == 2


def test_context_that_is_in_a_bucket(here: Path) -> None:
    from asyncpipes.protocol.bootstrap import encode_param

    params = {"bucket": "b", "key": "k"}
    env = bootstrap({"path": "/tmp/messages"})
    env["DAGSTER_PIPES_CONTEXT"] = encode_param(params)
    shown, err = told(here, env)
    assert shown == {
        "context": None, "context_params": params, "messages": {"path": "/tmp/messages"},
    }  # fmt: skip
    assert "neither `data` nor `path`" in err


def test_context_data_that_is_none(here: Path) -> None:
    env = bootstrap({}, retry_number="s3cret")
    shown, err = told(here, env)
    assert shown["context"] is None
    assert shown["context_params"] == {"data": "(hidden: --show-extras shows it)"}
    assert "retry_number must be an int, not str" in err
    shown, err = told(here, env, "--show-extras")
    assert shown["context_params"]["data"]["retry_number"] == "s3cret"


def test_context_from_a_file(here: Path) -> None:
    from asyncpipes.protocol.bootstrap import encode_param

    (here / "context.json").write_text('{"run_id": "of the file"}')
    env = bootstrap({})
    env["DAGSTER_PIPES_CONTEXT"] = encode_param({"path": "context.json"})
    shown = json.loads(asyncpipes("context", cwd=here, env=env).stdout)
    assert shown["context"]["run_id"] == "of the file"
    env["DAGSTER_PIPES_CONTEXT"] = encode_param({"path": "none.json"})
    shown, err = told(here, env)
    assert (shown["context"], shown["context_params"]) == (None, {"path": "none.json"})
    assert "cannot read the context file none.json" in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_shell(here: Path, shell: str) -> None:
    done = asyncpipes("completion", shell, cwd=here)
    assert done.returncode == 0
    assert f"_ASYNCPIPES_COMPLETE={shell}_complete" in done.stdout
    assert "asyncpipes" in done.stdout


@pytest.mark.parametrize(
    ("shell", "words", "index", "found"),
    [
        ("bash", "asyncpipes re", "1", "plain,replay"),
        ("bash", "asyncpipes run --par", "2", "plain,--partition-range"),
        ("zsh", "asyncpipes val", "1", "validate"),
        ("fish", "asyncpipes comp", "comp", "plain,completion"),
        ("bash", "asyncpipes run --log-level WA", "3", "plain,WARNING"),
        ("bash", "asyncpipes run -- python ext", "4", "file,"),
    ],
)
def test_each_shell_is_answered(here: Path, shell: str, words: str, index: str, found: str) -> None:
    """What the scripts of the three shells ask, and the lines that they take apart."""
    env = {"_ASYNCPIPES_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": index}
    done = asyncpipes(cwd=here, env=env)
    # Each with its help behind it in some shells; levels as they were typed, or not.
    lines = [re.split(r"\t", line)[0].lower() for line in done.stdout.splitlines()]
    assert found.lower() in lines, done


def test_bash_really_completes(here: Path) -> None:
    source = asyncpipes("completion", "bash", cwd=here).stdout
    bin_ = here / "bin"
    bin_.mkdir()
    command = bin_ / "asyncpipes"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m asyncpipes "$@"\n')
    command.chmod(0o755)
    function = re.search(r"complete .*-F (\w+) asyncpipes", source)
    assert function, source
    ask = f"""{source}
COMP_WORDS=(asyncpipes run --as); COMP_CWORD=2
{function[1]} asyncpipes; echo "${{COMPREPLY[@]}}"
COMPREPLY=(); COMP_WORDS=(asyncpipes comp); COMP_CWORD=1
{function[1]} asyncpipes; echo "${{COMPREPLY[@]}}"
"""
    env = environment(PATH=f"{bin_}:{os.environ['PATH']}")
    done = subprocess.run(
        ["bash", "--norc", "-c", ask], capture_output=True, text=True, env=env, timeout=PATIENCE
    )
    assert done.stdout.split() == ["--asset", "completion"], done.stderr


COMMANDS: list[list[str]] = [[], ["run"], ["replay"], ["validate"], ["context"], ["completion"]]


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(here: Path, command: list[str], flag: str) -> None:
    done = asyncpipes(*command, flag, cwd=here)
    assert done.returncode == 0
    assert "Examples:\n" in done.stdout
    assert "asyncpipes" in done.stdout


def test_version(here: Path) -> None:
    assert asyncpipes("--version", cwd=here).stdout == f"asyncpipes {__version__}\n"


def test_every_option_of_every_command_has_a_test() -> None:
    from asyncpipes.cli.commands import cli

    sources = [path.read_text() for path in sorted(Path(__file__).parent.glob("test_*.py"))]
    tested = set().union(*(given(cli, source) for source in sources))
    assert len(walked(cli)) > 30
    assert {"run", "replay", "validate", "context", "completion"} == set(cli.commands)
    assert walked(cli) - tested == set()


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ('asyncpipes("run", "--a")', "--a"),
        ('asyncpipes("run", "--a", "--b", "1")', "--a --b"),
        ('asyncpipes("other", "--a")', ""),
        ('asyncpipes("run")\n    asyncpipes("other", "--b")', ""),
        ('asyncpipes("run", "--b")', ""),
        ('asyncpipes("run", "--a", "--none")', ""),
        ('asyncpipes("run", "--b", "--a")', "--b"),
        ('asyncpipes("run", "--", "--a")', ""),
        ('asyncpipes("run", "python", "--a")', ""),
        ('print("run", "--a")', ""),
        ('seen(here, "--a")', "--a"),
        ('Terminal("run", f"--{x}", "--a")', ""),
        ('options = ["--a"]\n    Terminal("run", *options)', "--a"),
        ('options = [*OF_ALL, "--a"]\n    seen(here, *options)', "--a --b"),
        ('option = "--a"\n    seen(here, option)', "--a"),
        ('options: list[str] = ["--b", path()]\n    seen(here, *options)', "--b"),
        ('seen(here, *(["--a"] if x else ["--b", "1"]))', "--a --b"),
        ('seen(here, *OF_ALL)', "--b"),
        ('seen(here, "--b", *who_knows())', "--b"),
        ('seen(here, first)', "--a"),
        ('seen(here, *second)', "--b"),
        ('seen(here, *third)', "--a"),
        ('seen(here, *fourth, *fifth)', ""),
        ('done = asyncpipes("run", "--a")\n    assert done.returncode == 2', ""),
    ],
)  # fmt: skip
def test_what_counts_as_a_test_of_an_option(body: str, options: str) -> None:
    run = click.Command("run", params=[click.Option(["--a"], is_flag=True), click.Option(["--b"])])
    run.context_settings = {"allow_interspersed_args": False}
    other = click.Command("other", params=[])
    group = click.Group("group", commands={"run": run, "other": other})
    source = f"""
OF_ALL = ["--b", "1"]
ROWS = [["--a"]]
@pytest.mark.parametrize(("first", "second"), [("--a", []), (1, ["--b", "1"])])
@pytest.mark.parametrize("third", ROWS)
@pytest.mark.parametrize("fourth", NOWHERE)
@pytest.mark.parametrize("fifth", rows())
def test_it(here, first, second, third):
    {body}
"""
    assert given(group, source) == {("run", option) for option in options.split()}
    assert walked(group) == {
        ("--help",), ("run", "--help"), ("run", "--a"), ("run", "--b"), ("other", "--help"),
    }  # fmt: skip
