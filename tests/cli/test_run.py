"""The command, as a process of its own, the way a shell starts it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import PATIENCE

pytestmark = pytest.mark.host

REPORTING = """
import sys
from asyncpipes import open_pipes
with open_pipes() as pipes:
    pipes.log.info("total %s", pipes.extras.get("limit"))
    pipes.log.error("two\\nlines \\x1b[31mred")
    print("from stdout")
    print("from stderr", file=sys.stderr)
    partition = pipes.partition_key if pipes.is_partition_step else None
    pipes.report_custom_message({"asset": pipes.asset_key, "partition": partition})
    rows = {"records": [{"a": 1}], "schema": [{"name": "a", "type": "int"}]}
    table = {"type": "table", "raw_value": rows}
    pipes.report_asset_materialization(metadata={"rows": 2, "list": table, "text": "one\\ntwo"})
    pipes.report_asset_check("sound", passed=False, severity="WARN", metadata={"bad": 1})
sys.exit(int(pipes.extras.get("code", 0)))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(REPORTING)
    return path


def asyncpipes(
    *arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "asyncpipes", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env=env, cwd=cwd
    )


def test_lines_for_a_person(script: Path) -> None:
    done = asyncpipes(
        "run", "--asset", "orders", "--partition", "2026-01", "--extra", "limit=10",
        "--", sys.executable, script,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in done.stdout.splitlines()]
    lines.remove("from stdout")
    assert lines[:-1] == [
        "OPENED",
        "INFO     total 10",
        "ERROR    two",
        r"         lines \x1b[31mred",
        'MESSAGE  {"asset":"orders","partition":"2026-01"}',
        "MATERIAL orders",
        "         rows = 2",
        "         list = table of 1 row: a",
        "         text = one … (1 more line)",
        "CHECK    orders  sound: FAILED (WARN)",
        "         bad = 1",
        "CLOSED",
    ]
    assert re.fullmatch(
        r"asyncpipes: ok after [\d.]+ s:"
        r" 1 materialization, 1 check \(1 failed\), 1 custom message",
        lines[-1],
    )
    assert "from stderr" in done.stderr


def test_json_is_one_event_a_line_and_nothing_else(script: Path) -> None:
    done = asyncpipes("run", "--json", "--asset", "a", "--asset", "b", "--extra", "x={}",
                      "--extra", "name=text", "--", sys.executable, script)  # fmt: skip
    events = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [event["event"] for event in events]
    # Two assets in scope, so asset_key raises inside the context, and that is told too.
    # The script's own output has no order with the rest.
    assert next(kind for kind in kinds if kind != "external_stream") == "opened"
    assert "closed" in kinds
    closed = events[kinds.index("closed")]
    assert "several assets" in closed["exception"]["message"] or "2 assets" in str(closed)
    assert {"stdout", "stderr"} >= {e["stream"] for e in events if e["event"] == "external_stream"}
    assert any("from stdout" in e.get("text", "") for e in events)
    assert done.returncode == 1
    assert "NOT OK" in done.stderr


@pytest.mark.parametrize("code", [0, 1, 7, 125])
def test_the_exit_code_of_the_script_is_passed_on(script: Path, code: int) -> None:
    extra = f"code={code}"
    done = asyncpipes("run", "--asset", "a", "--extra", extra, "--", sys.executable, script)
    assert done.returncode == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_a_signal_is_128_and_its_number(number: signal.Signals) -> None:
    kill = f"import os; os.kill(os.getpid(), {int(number)})"
    done = asyncpipes("run", "--", sys.executable, "-c", kill)
    assert done.returncode == 128 + number
    assert f"ended by signal {int(number)}" in done.stdout


def test_an_exit_code_of_0_does_not_hide_a_loss() -> None:
    done = asyncpipes("run", "--", sys.executable, "-c", "print('hi')")
    assert done.returncode == 76
    assert "never opened pipes" in done.stdout


def test_a_timeout_is_124() -> None:
    wait = "import signal; signal.pause()"  # which SIGINT ends at once
    done = asyncpipes("run", "--timeout", "0.5", "--", sys.executable, "-c", wait)
    assert done.returncode == 124
    assert "timeout of 0.5 seconds" in done.stdout


def test_a_command_that_cannot_be_started(tmp_path: Path) -> None:
    missing = asyncpipes("run", "--", "no-such-program-anywhere")
    assert missing.returncode == 127
    assert "no-such-program-anywhere" in missing.stderr
    (tmp_path / "plain").write_text("no program")
    plain = asyncpipes("run", "--", tmp_path / "plain")
    assert plain.returncode == 126
    assert str(tmp_path / "plain") in plain.stderr


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["run"], "Missing argument"),
        (["run", "--bogus", "--", "true"], "No such option"),
        (["run", "--extra", "novalue", "--", "true"], "is not KEY=VALUE"),
        (["run", "--timeout", "0", "--", "true"], "--timeout"),
        (["run", "--asset", "a", "--asset", "a", "--", "true"], "asset_keys"),
        (["nonsense"], "No such command"),
    ],
)
def test_wrong_usage_is_2_and_says_what_is_wrong(arguments: list[str], what: str) -> None:
    done = asyncpipes(*arguments)
    assert done.returncode == 2
    assert what in done.stderr
    assert "Traceback" not in done.stderr


def test_options_of_the_command_are_its_own() -> None:
    show = "import sys; print(sys.argv[1:])"
    done = asyncpipes("run", sys.executable, "-c", show, "--json", "--asset", "x")
    assert "['--json', '--asset', 'x']" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_script_first(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "endless.py"
    script.write_text(
        "import asyncio, os\n"
        "from asyncpipes import open_pipes\n"
        "async def main():\n"
        "    async with open_pipes() as pipes:\n"
        "        pipes.log.info('pid=%d', os.getpid())\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-m", "asyncpipes", "run", "--", sys.executable, str(script)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "pid=" in line)
        child = int(line.rpartition("=")[2])
        process.send_signal(number)
        _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert "the script has been ended" in stderr
    assert "asyncpipes: " in stderr
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_and_version(arguments: list[str]) -> None:
    done = asyncpipes(*arguments)
    assert done.returncode == 0
    assert "asyncpipes" in done.stdout
    if arguments == ["run", "--help"]:
        options = ("--asset", "--partition", "--extra", "--timeout", "--json", "Exit code", "76")
        for option in options:
            assert option in done.stdout


@pytest.mark.parametrize(
    ("command", "codes"),
    [
        ("run", "74 76 124 126 127 2"),
        ("replay", "2 74 130"),
        ("validate", "1 2 74 130"),
        ("context", "1 2 74"),
        ("completion", ""),
    ],
)
def test_help_tells_the_exit_codes(command: str, codes: str) -> None:
    text = asyncpipes(command, "--help").stdout.partition("Exit code: ")[2]
    assert " ".join(re.findall(r"^ +(\d+)  +\S", text, re.MULTILINE)) == codes


def test_an_os_error_of_ours_is_not_told_as_one_of_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncpipes.cli.main import main

    def validate(path: str) -> None:
        raise PermissionError(13, "not here", path)

    monkeypatch.setattr("asyncpipes.cli.validate.validate", validate)
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["asyncpipes", "validate", str(tmp_path / "file")])
    with pytest.raises(PermissionError, match="not here"):
        main()


def test_without_its_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ImportError('not here')")
    done = asyncpipes("run", "--", "true", env={**os.environ, "PYTHONPATH": str(tmp_path)},
                      cwd=Path(__file__).parents[2])  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'asyncpipes[cli]'" in done.stderr


@pytest.mark.parametrize("how", ["timeout", "SIGTERM", "SIGINT"])
@pytest.mark.parametrize("output", ["events", "stdout"])
def test_a_stalled_stdout_does_not_hold_the_command(tmp_path: Path, how: str, output: str) -> None:
    line = "pipes.log.info('x' * 1000)" if output == "events" else "print('x' * 1000)"
    script = tmp_path / "talkative.py"
    script.write_text(
        "from asyncpipes import open_pipes\nwith open_pipes() as pipes:\n"
        f"    for _ in range(1000): {line}\n"
    )
    timeout = ["--timeout", "1"] if how == "timeout" else []
    command = [sys.executable, "-m", "asyncpipes", "run", *timeout]
    command += ["--", sys.executable, str(script)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        try:
            process.stdout.read(1)  # it is at work
            if how != "timeout":
                process.send_signal(getattr(signal, how))
            process.wait(timeout=PATIENCE)
        finally:
            process.kill()
    if how == "timeout" and output == "events":
        assert process.returncode == 124
    assert process.returncode != -signal.SIGKILL


@pytest.mark.parametrize("options", ["", "--json"])
@pytest.mark.parametrize(("redirect", "why"), [(">/dev/full", "No space left"), (">&-", "closed")])
def test_a_stdout_that_takes_nothing_is_told_in_one_line(
    script: Path, options: str, redirect: str, why: str
) -> None:
    arguments = ["run", *options.split(), "--asset", "a", "--", sys.executable, str(script)]
    command = shlex.join([sys.executable, "-m", "asyncpipes", *arguments])
    done = subprocess.run(
        f"{command} {redirect}", shell=True, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 74, done.stderr
    assert "asyncpipes: cannot write to stdout: " in done.stderr
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    assert "ok after" in done.stderr
