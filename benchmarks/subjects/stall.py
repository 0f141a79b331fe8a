"""Loop stall: how long the event loop stands still while a script reports a burst.

A burst is 1,000 reports without an await. A ticker sleeps 1 ms at a time on the same
loop; the longest that one sleep took beyond its millisecond, while a burst ran, is
that burst's stall. Between bursts the loop has 20 ms of rest. The lines are parsed
again afterwards and counted.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from asyncpipes.channels import ChannelWriter, Guarantees
from asyncpipes.channels.file import FileWriter

from ..launching import bootstrap
from ..message import check_file, payload

Numbers = dict[str, float]

BURST = 1_000
_TICK = 0.001
_REST = 0.02


class SlowWriter(ChannelWriter):
    """A channel like an object store: a write takes a second."""

    guarantees = Guarantees(ordered=True, immediate=False, acknowledged=True, durable=True)

    def __init__(self, path: str) -> None:
        self._file = FileWriter(path)

    def open(self) -> None:
        """Open the file that stands for the store."""
        self._file.open()

    def write(self, lines: bytes) -> None:
        """Take a second."""
        time.sleep(1)
        self._file.write(lines)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def ours(bursts: int) -> Numbers:
    """Ours, to a file."""
    return _measure(_ours, bursts, ours=True)


def ours_slow(bursts: int) -> Numbers:
    """Ours, to a channel that takes a second for each write."""

    async def reporting(mapping: dict[str, str], path: str, bursts: int) -> list[float]:
        return await _ours(mapping, path, bursts, SlowWriter(path))

    return _measure(reporting, bursts, ours=True)


def stock(bursts: int) -> Numbers:
    """``dagster_pipes``, to a file."""
    return _measure(_stock, bursts, ours=False)


async def _ours(
    mapping: dict[str, str], path: str, bursts: int, writer: ChannelWriter | None = None
) -> list[float]:
    from asyncpipes import open_pipes

    async with open_pipes(params_loader=mapping, message_writer=writer) as pipes:
        return await _stalls(pipes.report_custom_message, bursts)


async def _stock(mapping: dict[str, str], path: str, bursts: int) -> list[float]:
    from dagster_pipes import PipesMappingParamsLoader, open_dagster_pipes

    with open_dagster_pipes(params_loader=PipesMappingParamsLoader(mapping)) as pipes:
        return await _stalls(pipes.report_custom_message, bursts)


def _measure(reporting: Callable[..., Any], bursts: int, *, ours: bool) -> Numbers:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        path = str(Path(directory, "messages"))
        Path(path).touch()
        stalls = asyncio.run(reporting(bootstrap(path, ours=ours), path, bursts))
        check_file(path, bursts * BURST)
    return {
        "messages": bursts * BURST,
        "bursts": len(stalls),
        "median_ms": median(stalls) * 1e3,
        "max_ms": max(stalls) * 1e3,
    }


async def _stalls(report: Callable[[Any], Any], bursts: int) -> list[float]:
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(_TICK)
            longest = max(longest, time.perf_counter() - before - _TICK)

    stalls = []
    ticker = asyncio.create_task(tick())
    for burst in range(bursts):
        await asyncio.sleep(_REST)
        longest = 0.0
        for index in range(burst * BURST, (burst + 1) * BURST):
            report(payload(index))
        # Two ticks: the one that the burst held up, and one that ends after it.
        await asyncio.sleep(2 * _TICK)
        stalls.append(longest)
    ticker.cancel()
    return stalls
