"""The plugin that lets loops and worker threads come late does so, and repeats itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CODE = """
import asyncio, json, time
from concurrent.futures import ThreadPoolExecutor
waits = []
time.sleep = waits.append
from tests import late
asyncio.run(asyncio.sleep(0))
of_loop = len(waits)
with ThreadPoolExecutor() as pool:
    pool.submit(int).result()
of_thread = len(waits) - of_loop
print(json.dumps([of_loop, of_thread, waits, late.pytest_report_header()]))
"""


def late(share: str) -> list[Any]:
    """How often a loop and a worker were kept waiting, for how long, and what pytest says."""
    options = {"LATE_SHARE": share, "LATE_SECONDS": "3", "LATE_SEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, env={**os.environ, **options},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)  # type: ignore[no-any-return]  # as CODE has it


def test_loops_and_workers_are_kept_waiting() -> None:
    of_loop, of_thread, waits, header = late("1")
    assert of_loop > 0
    assert of_thread == 1
    assert all(0 <= seconds <= 3 for seconds in waits)
    assert header == "late: LATE_SEED=7 LATE_SHARE=1 LATE_SECONDS=3"
    assert late("1")[2][0] == waits[0], "the seed repeats it"


def test_no_more_often_than_asked_for() -> None:
    assert late("0")[:3] == [0, 0, []]
