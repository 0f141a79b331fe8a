"""``examples/dagster/serve.py`` in a process, and its GraphQL API."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

ROOT = Path(__file__).parents[3]
#: Seconds for what takes five on an idle machine: to start Dagster, to execute a run.
PATIENCE = 200.0

LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on Error { message }
  }
}
"""
STATUS = """
query Status($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }
"""
MESSAGES = """
query Messages($run: ID!) {
  logsForRun(runId: $run) {
    ... on EventConnection { events { ... on LogMessageEvent { message level } } }
  }
}
"""
CHECKS = """
query Checks($asset: AssetKeyInput!, $check: String!) {
  assetCheckExecutions(assetKey: $asset, checkName: $check, limit: 1) {
    evaluation { success severity }
  }
}
"""
ENDED = ("SUCCESS", "FAILURE", "CANCELED")


class Server:
    """A Dagster that answers.

    Attributes:
        address: of its web server.
        folder: where the examples are that it runs.
        home: its DAGSTER_HOME.
    """

    def __init__(self, process: subprocess.Popen[str], address: str, folder: Path) -> None:
        self.address = address
        self.folder = folder
        self.home = folder / "home"
        self._process = process

    def launch(self, location: str, asset: str, partition: str | None = None) -> str:
        """Have an asset of a code location materialized, and return the run's id."""
        tags = [] if partition is None else [{"key": "dagster/partition", "value": partition}]
        selector = {
            "repositoryLocationName": location,
            "repositoryName": "__repository__",
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": [asset]}],
        }
        params = {"selector": selector, "mode": "default", "executionMetadata": {"tags": tags}}
        launched = self._ask(LAUNCH, params=params)["launchPipelineExecution"]
        assert "run" in launched, launched
        run: str = launched["run"]["runId"]
        return run

    def wait(self, run: str) -> str:
        """Wait until a run has ended; its status."""
        deadline = time.monotonic() + PATIENCE
        while (status := self.status(run)) not in ENDED:
            assert time.monotonic() < deadline, f"the run {run} is still {status}"
            time.sleep(0.2)
        return status

    def status(self, run: str) -> str:
        status: str = self._ask(STATUS, run=run)["runOrError"]["status"]
        return status

    def wait_for_message(self, run: str, start: str) -> str:
        """Wait until a run has logged something that starts so; what it is."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for event in self._ask(MESSAGES, run=run)["logsForRun"]["events"]:
                message: str = event.get("message", "")
                if message.startswith(start):
                    return message
            assert time.monotonic() < deadline, f"in vain: {start!r} in the run {run}"
            time.sleep(0.2)

    def check(self, asset: str, name: str) -> tuple[bool, str]:
        """Success and severity of the latest evaluation of a check."""
        (execution,) = self._ask(CHECKS, asset={"path": [asset]}, check=name)[
            "assetCheckExecutions"
        ]
        evaluation = execution["evaluation"]
        return evaluation["success"], evaluation["severity"]

    def interrupt(self) -> int:
        """Press Ctrl-C, and wait for the end; its exit code."""
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(PATIENCE)

    def processes(self) -> list[str]:
        """The command lines of all processes that have its home in their environment."""
        mark = f"DAGSTER_HOME={self.home}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except (FileNotFoundError, PermissionError, ProcessLookupError):
                continue  # somebody else's, or gone meanwhile
        return found

    def _ask(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        headers = {"Content-Type": "application/json"}
        request = Request(f"{self.address}/graphql", body, headers)
        with urlopen(request, timeout=PATIENCE) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data


@contextmanager
def serving(folder: Path, files: Sequence[Path | str]) -> Iterator[Server]:
    """Serve code locations from a copy of the examples, ``folder/examples``.

    Args:
        folder: an empty one; ``server.log`` in it has what the server writes.
        files: the code locations, relative to the folder.
    """
    examples = folder / "examples"
    shutil.copytree(ROOT / "examples", examples, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {
        # A server is not measured: that would take it twice the time.
        **{name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "examples/dagster/serve.py", "--port", "0", "--home", "home"]
    log = folder / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, *map(str, files)],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    with process:
        try:
            yield Server(process, _wait_for_address(process, log), folder)
        finally:
            process.send_signal(signal.SIGINT)


def _wait_for_address(process: subprocess.Popen[str], log: Path) -> str:
    deadline = time.monotonic() + PATIENCE
    while (found := re.search(r"^Dagster is at (\S+)", log.read_text(), re.MULTILINE)) is None:
        assert process.poll() is None, f"the server has ended:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"the server does not answer:\n{log.read_text()}"
        time.sleep(0.1)
    return found[1]
