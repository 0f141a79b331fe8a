"""Every loop and worker thread now and then comes late: ``pytest -p tests.late``.

What a test takes for granted of a moment, a busy machine does not grant: that a message is
read before the script which wrote it has ended, say, or that one thread gets to its line
before another. Here each turn of an asyncio loop, and each call in a worker thread, is kept
waiting with a probability of ``LATE_SHARE`` (0.05), for up to ``LATE_SECONDS`` (0.2), by
random numbers that begin with ``LATE_SEED``; it is printed. uvloop is left alone.
"""

from __future__ import annotations

import os
import random
import time
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Callable
from concurrent.futures import thread
from typing import Any

from anyio import to_thread

_SHARE = float(os.environ.get("LATE_SHARE", "0.05"))
_SECONDS = float(os.environ.get("LATE_SECONDS", "0.2"))
# In the environment, so that all processes that share the tests have the same.
_SEED = os.environ.setdefault("LATE_SEED", str(random.SystemRandom().randrange(1_000_000)))

_random = random.Random(_SEED + os.environ.get("PYTEST_XDIST_WORKER", ""))
_sleep = time.sleep  # before blockbuster puts its own there


def _come_late() -> None:
    if _random.random() < _SHARE:
        _sleep(_random.uniform(0, _SECONDS))


def _late(call: Callable[..., Any]) -> Callable[..., Any]:
    def late(*args: Any) -> Any:
        _come_late()
        return call(*args)

    return late


_run_sync = to_thread.run_sync


async def _run_sync_late(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return await _run_sync(_late(call), *args, **options)


# What is not public, and the one way to anyio's own worker threads.
BaseSelectorEventLoop._process_events = _late(BaseSelectorEventLoop._process_events)  # type: ignore[attr-defined]
thread._WorkItem.run = _late(thread._WorkItem.run)  # type: ignore[method-assign]
to_thread.run_sync = _run_sync_late  # type: ignore[assignment]  # the same but for its types


def pytest_report_header() -> str:
    """What repeats this run, as far as anything does."""
    return f"late: LATE_SEED={_SEED} LATE_SHARE={_SHARE:g} LATE_SECONDS={_SECONDS:g}"
