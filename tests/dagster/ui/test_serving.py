"""``make dagster-demo``: what Ctrl-C ends, and how."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support import wait_until
from tests.support_host import group_members, is_alive

from .server import serving

OWN = Path(__file__).with_name("definitions.py")


def test_ctrl_c_ends_the_server_its_runs_and_their_scripts(tmp_path: Path) -> None:
    with serving(tmp_path, [OWN]) as server:
        run = server.launch(OWN.name, "endless")
        line = server.wait_for_message(run, "running as")
        script, other = map(int, re.findall(r"\d+", line))
        assert is_alive(script)
        assert is_alive(other)

        assert server.interrupt() == 0
        # The server waits for its own child alone: others may still be dying.
        wait_until(lambda: group_members(script) == [], "the script's group is gone")
        wait_until(lambda: not is_alive(script), "the script is gone")
        wait_until(lambda: not is_alive(other), "what it started is gone")
        wait_until(lambda: server.processes() == [], "all of the server is gone")
    log = (tmp_path / "server.log").read_text()
    assert "Execution was interrupted unexpectedly" in log, "the run was told, not killed"
