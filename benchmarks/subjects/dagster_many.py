"""Many scripts awaited at once in one step: by our client, and as bare asyncio subprocesses.

Both run in an async asset that Dagster materializes, and the clock is around the
``asyncio.gather``: what Dagster does before and after it is in neither. The scripts and what
they report are the same. The bare ones write it into a file of their own, as if a host of ours
were there; it is read, and counted, when the clock has stopped, and until then nobody watches
them but asyncio, for their end. A ticker that sleeps 1 ms at a time on the same loop tells how
late it wakes up.

Dagster's event log is in memory, or in SQLite: there each log line is a commit to the disk,
and :func:`lines` is how long those take by themselves. The scripts load parts of one asset, or
an asset each, all of the one step: then every script is told of every asset.

Dagster reads annotations when an asset is defined, so they must not be postponed, and
``dagster`` must be imported by the module.
"""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from subprocess import DEVNULL
from typing import Any, NamedTuple, cast

import dagster as dg
import orjson

from asyncpipes.dagster import AsyncPipesSubprocessClient, PipesInvocation

from ..launching import bootstrap, environment, script
from ..message import LostMessageError

Numbers = dict[str, float]

_TICK = 0.001
_CHECK = "has_rows"
#: The messages of a script.
_METHODS = {
    "opened": 1,
    "log": 4,
    "report_custom_message": 1,
    "report_asset_check": 1,
    "report_asset_materialization": 1,
    "closed": 1,
}
#: What of a script is written into the event log while it runs: its log lines, that it opened
#: and closed, the start and the end of its process.
_LOG_LINES = 8


class Part(NamedTuple):
    """What one script loads."""

    number: int
    asset: str

    @property
    def extras(self) -> dict[str, Any]:
        """What it is told."""
        return {"part": self.number, "asset": self.asset}


def bare(scripts: int) -> Numbers:
    """``asyncio.create_subprocess_exec()`` and ``wait()``, for one asset."""
    return _measure(_run_bare, scripts)


def ours(scripts: int) -> Numbers:
    """``AsyncPipesSubprocessClient.run()``, for one asset."""
    return _measure(_run_ours, scripts)


def ours_each(scripts: int) -> Numbers:
    """The same, for an asset each."""
    return _measure(_run_ours, scripts, assets=scripts)


def ours_sqlite(scripts: int) -> Numbers:
    """For one asset, with the event log in SQLite."""
    return _measure(_run_ours, scripts, sqlite=True)


def lines(scripts: int) -> Numbers:
    """No scripts: what their log lines and events alone take, in SQLite, one after the other."""
    return _measure(_log_alone, scripts, sqlite=True)


#: Runs a script for each part; returns the seconds that took, and the rows of each.
Run = Callable[[dg.AssetExecutionContext, list[Part]], Awaitable[tuple[float, list[int]]]]


async def _run_ours(
    context: dg.AssetExecutionContext, parts: list[Part]
) -> tuple[float, list[int]]:
    client = AsyncPipesSubprocessClient(env=environment())
    command = script("one_part", len(parts))
    started = time.perf_counter()
    done = await asyncio.gather(
        *(client.run(context=context, command=command, extras=part.extras) for part in parts)
    )
    seconds = time.perf_counter() - started
    return seconds, [_rows_of_run(each) for each in done]


def _rows_of_run(done: PipesInvocation) -> int:
    if len(done.get_custom_messages()) != 1 or len(done.get_results()) != 2:
        raise LostMessageError("not all that a script reported has arrived")
    metadata = done.get_materialize_result().metadata or {}
    return cast("int", cast("dg.IntMetadataValue", metadata["rows"]).value)


async def _run_bare(
    context: dg.AssetExecutionContext, parts: list[Part]
) -> tuple[float, list[int]]:
    keys = sorted({part.asset for part in parts})
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        paths = _files(directory, len(parts))
        started = time.perf_counter()
        await asyncio.gather(
            *(_wait_for_bare(*each, keys) for each in zip(parts, paths, strict=True))
        )
        seconds = time.perf_counter() - started
        return seconds, [_rows_of_file(path) for path in paths]


async def _log_alone(
    context: dg.AssetExecutionContext, parts: list[Part]
) -> tuple[float, list[int]]:
    started = time.perf_counter()
    await asyncio.to_thread(_log, context, _LOG_LINES * len(parts))
    return time.perf_counter() - started, [100 + part.number for part in parts]


def _log(context: dg.AssetExecutionContext, count: int) -> None:
    for number in range(count):
        context.log.info(f"line {number}")


def _files(directory: str, count: int) -> list[Path]:
    paths = [Path(directory, str(number)) for number in range(count)]
    for path in paths:
        path.touch()  # a script appends to a file that is there
    return paths


async def _wait_for_bare(part: Part, path: Path, keys: list[str]) -> None:
    handed_over = bootstrap(str(path), ours=True, asset_keys=keys, extras=part.extras)
    process = await asyncio.create_subprocess_exec(
        *script("one_part", part.number),
        stdin=DEVNULL,
        env={**environment(), **handed_over},
        # As those of our client are. Linux may give each session the same share of the CPUs
        # (sched_autogroup_enabled): fifty in one get far less, where others run, than in fifty.
        start_new_session=True,
    )
    if await process.wait():
        raise RuntimeError(f"a script ended with exit code {process.returncode}")


def _rows_of_file(path: Path) -> int:
    messages = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    if Counter(message["method"] for message in messages) != _METHODS:
        raise LostMessageError("not all that a script reported is in its file")
    [reported] = (m for m in messages if m["method"] == "report_asset_materialization")
    return cast("int", reported["params"]["metadata"]["rows"]["raw_value"])


def _measure(run: Run, scripts: int, *, assets: int = 1, sqlite: bool = False) -> Numbers:
    parts = [Part(number, f"table_{number % assets}") for number in range(scripts)]
    keys = sorted({part.asset for part in parts})
    numbers: Numbers = {}

    @dg.multi_asset(
        specs=[dg.AssetSpec(key) for key in keys],
        check_specs=[dg.AssetCheckSpec(_CHECK, asset=key) for key in keys],
    )
    async def load(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]  # Dagster takes none
        late: list[float] = []
        ticker = asyncio.create_task(_tick(late))
        cpu = time.process_time()
        seconds, rows = await run(context, parts)
        cpu = time.process_time() - cpu
        ticker.cancel()
        numbers.update(
            scripts=scripts,
            seconds=seconds,
            cpu_seconds=cpu,
            lag_median_ms=median(late) * 1e3,
            lag_max_ms=max(late) * 1e3,
        )
        for result in _results(parts, rows):
            yield result

    with _instance(sqlite=sqlite) as instance:
        done = dg.materialize([load], instance=instance)
        events = done.asset_materializations_for_node("load")
    rows = [cast("int", event.metadata["rows"].value) for event in events]
    if len(rows) != assets or sum(rows) != sum(100 + part.number for part in parts):
        raise LostMessageError(f"Dagster has {rows} rows in {len(rows)} materializations")
    return numbers


@contextmanager
def _instance(*, sqlite: bool) -> Iterator[dg.DagsterInstance]:
    if not sqlite:
        with dg.DagsterInstance.ephemeral() as instance:
            yield instance
        return
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-") as home,
        dg.DagsterInstance.local_temp(home) as instance,
    ):
        yield instance


def _results(parts: list[Part], rows: list[int]) -> Iterator[dg.MaterializeResult[Any]]:
    loaded = Counter[str]()
    for part, count in zip(parts, rows, strict=True):
        loaded[part.asset] += count
    for key, count in loaded.items():
        check = dg.AssetCheckResult(passed=count > 0, asset_key=key, check_name=_CHECK)
        yield dg.MaterializeResult(asset_key=key, metadata={"rows": count}, check_results=[check])


async def _tick(late: list[float]) -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(_TICK)
        late.append(time.perf_counter() - before - _TICK)
