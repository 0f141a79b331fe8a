"""The plugin that lets loops and worker threads come late does so, and repeats itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support import PATIENCE

ROOT = Path(__file__).parents[1]
CODE = """
import asyncio, json, threading, time
from anyio import to_thread
waits = []
time.sleep = lambda seconds: waits.append((threading.current_thread().name, seconds))
from tests import late

async def main():
    await asyncio.to_thread(int)
    await to_thread.run_sync(int)

asyncio.run(main())
print(json.dumps([waits, late.pytest_report_header()]))
"""


def late(share: str) -> list[Any]:
    """Who was kept waiting, and for how long; and what pytest says of it."""
    options = {"LATE_SHARE": share, "LATE_SECONDS": "3", "LATE_SEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, env={**os.environ, **options},
        capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    return json.loads(done.stdout)  # type: ignore[no-any-return]  # as CODE has it


def test_loops_and_workers_are_kept_waiting() -> None:
    waits, header = late("1")
    threads = {thread.split("-")[0].split("_")[0] for thread, _ in waits}
    assert threads == {"MainThread", "asyncio", "AnyIO worker thread"}
    assert all(0 <= seconds <= 3 for _, seconds in waits)
    assert header == "late: LATE_SEED=7 LATE_SHARE=1 LATE_SECONDS=3"
    assert late("1")[0][0] == waits[0], "the seed repeats it"


def test_no_more_often_than_asked_for() -> None:
    assert late("0")[0] == []
