"""Scripts of one step that run at once ask Dagster's storage for what they share only once."""

# Without postponed annotations: Dagster looks at the one of an asset's ``context``.
import asyncio
import sys
from collections import Counter
from pathlib import Path

import dagster as dg
import pytest

from asyncpipes.dagster import AsyncPipesSubprocessClient

#: It ends when as many have begun as are to run at once, so that all of them overlap.
SCRIPT = """
import pathlib, sys, time
from asyncpipes import open_pipes

directory, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
with open_pipes() as pipes:
    known = pipes.provenance_by_asset_key
    pipes.report_custom_message({k: v["code_version"] for k, v in known.items() if v})
    (directory / pipes.get_extra("name")).touch()
    while len(list(directory.iterdir())) < count:
        time.sleep(0.01)
"""
KEYS = ("eggs", "spam")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[dg.AssetKey]:
    """How often Dagster was asked for the provenance of each asset."""
    counts = Counter[dg.AssetKey]()
    ask = dg.OpExecutionContext.get_asset_provenance

    def counting(self: dg.OpExecutionContext, asset_key: dg.AssetKey) -> dg.DataProvenance | None:
        counts[asset_key] += 1
        return ask(self, asset_key)

    monkeypatch.setattr(dg.OpExecutionContext, "get_asset_provenance", counting)
    return counts


@pytest.mark.parametrize(("at_once", "times"), [(3, 1), (1, 3)])
def test_those_that_overlap_ask_once(
    asked: Counter[dg.AssetKey], tmp_path: Path, at_once: int, times: int
) -> None:
    """Three scripts, at once or one after the other; what they are told is right anyway."""
    client = AsyncPipesSubprocessClient()
    told: list[object] = []

    @dg.multi_asset(specs=[dg.AssetSpec(key, code_version="7") for key in KEYS])
    async def load(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]  # none that Dagster takes
        for first in range(0, 3, at_once):
            done = await asyncio.gather(
                *(
                    client.run(
                        context=context,
                        command=[sys.executable, "-c", SCRIPT, str(tmp_path), str(at_once)],
                        extras={"name": f"{context.run_id} {number}"},
                    )
                    for number in range(first, first + at_once)
                )
            )
            told.extend(message for each in done for message in each.get_custom_messages())
        for key in KEYS:
            yield dg.MaterializeResult(asset_key=key)

    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([load], instance=instance)
        assert told == [{}] * 3
        assert asked == dict.fromkeys(map(dg.AssetKey, KEYS), times)
        asked.clear()
        told.clear()
        for file in tmp_path.iterdir():
            file.unlink()
        dg.materialize([load], instance=instance)
        assert told == [dict.fromkeys(KEYS, "7")] * 3
        assert asked == dict.fromkeys(map(dg.AssetKey, KEYS), times)
