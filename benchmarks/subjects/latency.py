"""Latency: from the report in the script to the subscriber's call in the host.

A script reports one message in 2 ms through a file; each carries the time of its
report on the system-wide monotonic clock, and the subscriber looks at the same clock.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import quantiles
from typing import Any, cast

from ..launching import bootstrap, environment, script
from ..message import check_indices, lost_at_end

Numbers = dict[str, float]


def ours(messages: int) -> Numbers:
    """Our script under our host."""
    return asyncio.run(_ours(messages))


async def _ours(messages: int) -> Numbers:
    from asyncpipes import CustomMessageEvent, run

    seen: list[tuple[float, Any]] = []

    def subscriber(event: CustomMessageEvent) -> None:
        seen.append((time.monotonic(), event.payload))

    await run(
        script("paced", messages),
        env=environment(),
        subscribers=[(subscriber, CustomMessageEvent)],
        collect="none",
    )
    check_indices((payload["index"] for _, payload in seen), messages)
    return _numbers(seen)


def stock(messages: int) -> Numbers:
    """The stock script, and the stock file reader with its thread."""
    from dagster import PipesFileMessageReader
    from dagster._core.pipes.context import PipesMessageHandler

    seen: list[tuple[float, Any]] = []

    class Handler(PipesMessageHandler):
        """The stock handler with a subscriber, which it has no place for."""

        def _handle_extra_message(self, payload: Any) -> None:
            super()._handle_extra_message(payload)
            seen.append((time.monotonic(), payload))

    class Log:
        def info(self, text: str) -> None:
            """The reader tells that the script opened."""

    class Context:
        log = Log()

    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        path = str(Path(directory, "messages"))
        reader = PipesFileMessageReader(path)
        handler = Handler(cast("Any", Context()), reader)
        with reader.read_messages(handler):
            variables = {**environment(), **bootstrap(path, ours=False)}
            subprocess.run(script("paced_stock", messages), env=variables, check=True)
    # Where the stock host reads half a line, its reader dies.
    lost = lost_at_end([payload["index"] for _, payload in seen], messages)
    return {**_numbers(seen), "lost": lost}


def _numbers(seen: list[tuple[float, Any]]) -> Numbers:
    cuts = quantiles([at - payload["at"] for at, payload in seen], n=100, method="inclusive")
    return {"messages": len(seen), "p50_ms": cuts[49] * 1e3, "p99_ms": cuts[98] * 1e3}
