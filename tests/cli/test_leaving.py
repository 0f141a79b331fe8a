"""Signals that come when the scripts have ended, and only the last words are left to be said."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import PATIENCE

from .terminal import environment

pytestmark = pytest.mark.host

#: Signals come when the scripts have ended: while the loop ends, or once it is closed. The
#: others are a second later.
COMMAND = """
import asyncio, importlib, os, signal, sys, time
from asyncpipes.cli.main import main

module = importlib.import_module(sys.argv.pop(1))
moment, number, times = sys.argv.pop(1), int(sys.argv.pop(1)), int(sys.argv.pop(1))

def signalled():
    for count in range(times):
        if count:
            time.sleep(1)
        os.kill(os.getpid(), number)

def before(call):
    def late(*args):
        signalled()
        return call(*args)
    return late

if moment == "ends":
    loop = asyncio.BaseEventLoop
    loop.shutdown_asyncgens = before(loop.shutdown_asyncgens)
else:
    module._tell_and_leave = before(module._tell_and_leave)
main()
"""

SCRIPT = """
import sys
from asyncpipes import open_pipes
with open_pipes() as pipes:
    pipes.report_custom_message(1)
sys.exit(3)
"""


def ended(
    here: Path, module: str, moment: str, number: signal.Signals, times: int
) -> subprocess.CompletedProcess[str]:
    (here / "script.py").write_text(SCRIPT)
    jobs = [{"name": "one", "command": [sys.executable, "script.py"]}]
    (here / "jobs.json").write_text(json.dumps({"job": jobs}))
    what = ["--file", "jobs.json"] if module == "jobs" else ["--", sys.executable, "script.py"]
    command = [sys.executable, "-c", COMMAND, f"asyncpipes.cli.{module}", moment]
    return subprocess.run(
        [*command, str(int(number)), str(times), "run", *what],
        cwd=here, env=environment(), capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["ends", "is closed"])
@pytest.mark.parametrize("module", ["run", "jobs"])
def test_a_signal_after_the_end_changes_nothing(
    tmp_path: Path, module: str, moment: str, number: signal.Signals
) -> None:
    done = ended(tmp_path, module, moment, number, 1)
    assert done.returncode == 3
    assert "asyncpipes: NOT OK" in done.stdout
    assert "exit code 3" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("module", ["run", "jobs"])
def test_a_second_one_is_of_somebody_in_a_hurry(tmp_path: Path, module: str) -> None:
    done = ended(tmp_path, module, "is closed", signal.SIGTERM, 2)
    assert done.returncode == 128 + signal.SIGTERM
    assert "asyncpipes: NOT OK" not in done.stdout + done.stderr
