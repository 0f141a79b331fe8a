"""What an import costs: the external side needs orjson alone, and each extra stays out."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

HOST_SIDE = ("anyio", "aiofiles")
EXTRAS = ("click", "dagster", "dagster_pipes", "nats", "obstore", "rich")

#: Refuses the host side's packages, as a container refuses what is not installed.
BLOCKER = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HOST_SIDE + EXTRAS}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)

sys.meta_path.insert(0, Blocker())
"""

REPORT_ALL = """
import asyncio
from asyncpipes import PipesContext, open_pipes

async def main():
    async with open_pipes() as pipes:
        assert PipesContext.get() is pipes
        pipes.log.info("reading %s", pipes.get_extra("day"))
        pipes.report_asset_materialization(metadata={"total_orders": 2}, data_version="v1")
        pipes.report_asset_check("no_empty_order_check", passed=True)
        await pipes.report_custom_message({"done": 1})
        await pipes.flush()

asyncio.run(main())
"""


def run_python(program: str, **environment: str) -> str:
    """The program's stdout; its own process, so that nothing is loaded yet."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def encoded(value: Any) -> str:
    """A bootstrap value as the hosts encode it: JSON, zlib, base64."""
    return base64.b64encode(zlib.compress(json.dumps(value).encode())).decode()


def launched_by_hand(messages: Path) -> dict[str, str]:
    """The two variables that a stock host sets for a process that writes to a file."""
    data = {
        "asset_keys": ["orders"],
        "code_version_by_asset_key": {"orders": None},
        "provenance_by_asset_key": {"orders": None},
        "partition_key": None,
        "partition_key_range": None,
        "partition_time_window": None,
        "run_id": "0c3f2a",
        "job_name": None,
        "retry_number": 0,
        "extras": {"day": "2026-01-01"},
    }
    return {
        "DAGSTER_PIPES_CONTEXT": encoded({"data": data}),
        "DAGSTER_PIPES_MESSAGES": encoded({"path": str(messages)}),
    }


@pytest.mark.parametrize(
    "statement",
    [
        "import asyncpipes",
        "from asyncpipes import open_pipes, PipesContext",
        "from asyncpipes import LogEvent, PipesError",
    ],
)
def test_importing_loads_neither_the_host_side_nor_an_extra(statement: str) -> None:
    loaded = run_python(f"{statement}\nimport sys\nprint(*sys.modules)").split()
    assert "asyncpipes" in loaded
    assert set(loaded).isdisjoint(HOST_SIDE + EXTRAS)


def test_the_host_side_is_there_on_demand_and_loads_no_extra() -> None:
    loaded = run_python("from asyncpipes import run\nimport sys\nprint(*sys.modules)").split()
    assert "anyio" in loaded
    assert set(loaded).isdisjoint(EXTRAS)


def test_the_blocker_blocks() -> None:
    with pytest.raises(AssertionError, match=r"No module named 'anyio' \(blocked\)"):
        run_python(f"{BLOCKER}\nimport anyio")


def test_a_whole_run_of_the_external_side_needs_orjson_alone(tmp_path: Path) -> None:
    messages = tmp_path / "messages"
    messages.touch()
    run_python(BLOCKER + REPORT_ALL, **launched_by_hand(messages))
    received = [json.loads(line) for line in messages.read_text().splitlines()]
    # Towards a stock host a line may be a filler, which a stock host prints as nothing.
    received = [
        message
        for message in received
        if message["method"] != "log_external_stream" or message["params"]["text"]
    ]
    assert [message["method"] for message in received] == [
        "opened",
        "log",
        "report_asset_materialization",
        "report_asset_check",
        "report_custom_message",
        "closed",
    ]
    assert {message["__dagster_pipes_version"] for message in received} == {"0.1"}
    assert received[1]["params"] == {"message": "reading 2026-01-01", "level": "INFO"}
    assert received[2]["params"] == {
        "asset_key": "orders",
        "data_version": "v1",
        "metadata": {"total_orders": {"raw_value": 2, "type": "__infer__"}},
    }
    assert received[4]["params"] == {"payload": {"done": 1}}
    assert "exception" not in (received[5]["params"] or {})
