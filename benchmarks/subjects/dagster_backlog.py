"""Backlog: a result that is reported after many log lines, and when the asset has it.

Dagster writes a log line into SQLite in some milliseconds, far slower than a script logs.
The clock runs from the report, in the script, to the moment when ``stream()`` yields it, in
the asset; both read the same system-wide monotonic clock. The script waits until then, so it
is alive when its result comes. Afterwards each line is in the run's log, or is counted by the
WARNING there as one that went to the step's stderr.

Dagster reads annotations when an asset is defined, so they must not be postponed, and
``dagster`` must be imported by the module.
"""

import asyncio
import re
import tempfile
import time
from pathlib import Path
from typing import cast

import dagster as dg

from asyncpipes.dagster import AsyncPipesSubprocessClient

from ..launching import environment, script
from ..message import LostMessageError

Numbers = dict[str, float]

_LINE = re.compile(r"line \d+ of a script")
_EXCESS = re.compile(r"([\d,]+) log lines? came faster")


def ours(lines: int) -> Numbers:
    """``AsyncPipesSubprocessClient.stream()``."""
    times: dict[str, float] = {}

    @dg.asset
    async def load(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]  # none that Dagster takes
        with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
            seen = Path(directory, "seen")
            client = AsyncPipesSubprocessClient(env=environment())
            command = [*script("backlog", lines), str(seen)]
            async for result in client.stream(context=context, command=command):
                times["yielded"] = time.monotonic()
                await asyncio.to_thread(seen.touch)
                yield result
            times["over"] = time.monotonic()

    with (
        tempfile.TemporaryDirectory(prefix="benchmark-") as home,
        dg.DagsterInstance.local_temp(home) as instance,
    ):
        done = dg.materialize([load], instance=instance)
        logged = [entry.user_message for entry in instance.all_logs(done.run_id)]
    [event] = done.asset_materializations_for_node("load")
    reported = cast("float", event.metadata["reported"].value)
    in_log = sum(1 for text in logged if _LINE.search(text))
    counted = [found[1] for found in map(_EXCESS.search, logged) if found]
    in_stderr = sum(int(count.replace(",", "")) for count in counted)
    if in_log + in_stderr != lines:
        raise LostMessageError(f"of {lines} lines {in_log} are in the log, {in_stderr} in stderr")
    return {
        "lines": lines,
        "late_ms": (times["yielded"] - reported) * 1e3,
        "rest_seconds": times["over"] - times["yielded"],
        "in_log": in_log,
        "in_stderr": in_stderr,
    }
