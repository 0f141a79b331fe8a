"""What a step is about reaches the script; what the script says of it reaches Dagster."""

# Without postponed annotations: Dagster looks at the one of an asset's ``context``.
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from asyncpipes.dagster import (
    AsyncPipesSubprocessClient,
    PipesInvocation,
    PipesSubprocessClient,
)
from tests.dagster.steps import materialize, script

#: Tells all of its context, and materializes what it was asked for.
ASKED = """
with open_pipes() as pipes:
    window = pipes.partition_time_window if pipes.extras.get("window") else None
    pipes.report_custom_message({
        "partition_key": pipes.partition_key if pipes.extras.get("key") else None,
        "range": dict(pipes.partition_key_range) if pipes.is_partition_step else None,
        "window": dict(window) if window else None,
        "retry_number": pipes.retry_number,
        "run_id": pipes.run_id,
        "asset_keys": list(pipes.asset_keys),
        "code_versions": dict(pipes.code_version_by_asset_key),
        "provenance": {k: bool(v) for k, v in pipes.provenance_by_asset_key.items()},
    })
    for key in pipes.asset_keys:
        pipes.report_asset_materialization({"n": 1}, data_version="v1", asset_key=key)
"""
DAILY = dg.DailyPartitionsDefinition(start_date="2026-01-01", end_date="2026-02-01")
LETTERS = dg.StaticPartitionsDefinition(["a", "b", "c"])
BOTH = dg.MultiPartitionsDefinition({"day": DAILY, "letter": LETTERS})
RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")

BETA = pytest.mark.filterwarnings("ignore:Parameter `backfill_policy` of function")
CLIENTS = pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])


@dataclass
class Asking:
    """An asset that runs a script which tells what it was asked for."""

    command: Sequence[str]
    extras: Mapping[str, Any] | None = None
    sync: bool = False
    partitions: dg.PartitionsDefinition[Any] | None = None
    one_run: bool = False
    retries: dg.RetryPolicy | None = None
    code_version: str | None = None
    told: list[Any] = field(default_factory=list)

    def asset(self) -> dg.AssetsDefinition:
        async def orders(context: dg.AssetExecutionContext) -> Any:
            pipes = AsyncPipesSubprocessClient()
            return self._take(
                await pipes.run(context=context, command=self.command, extras=self.extras)
            )

        def sync_orders(context: dg.AssetExecutionContext) -> Any:
            pipes = PipesSubprocessClient()
            return self._take(pipes.run(context=context, command=self.command, extras=self.extras))

        return dg.asset(
            name="orders",
            partitions_def=self.partitions,
            backfill_policy=dg.BackfillPolicy.single_run() if self.one_run else None,
            retry_policy=self.retries,
            code_version=self.code_version,
        )(sync_orders if self.sync else orders)

    def _take(self, done: PipesInvocation) -> Any:
        self.told += done.get_custom_messages()
        return done.get_results()


@CLIENTS
def test_a_day(sync: bool, tmp_path: Path) -> None:
    extras = {"window": True, "key": True}
    asking = Asking(script(tmp_path, ASKED), extras, sync, partitions=DAILY)
    run = materialize(asking.asset(), partition_key="2026-01-03")
    assert [made.partition for made in run.materializations] == ["2026-01-03"]
    (told,) = asking.told
    assert told["partition_key"] == "2026-01-03"
    assert told["range"] == {"start": "2026-01-03", "end": "2026-01-03"}
    assert told["window"]["start"].startswith("2026-01-03")
    assert told["window"]["end"].startswith("2026-01-04")


@BETA
@CLIENTS
def test_days_in_one_run(sync: bool, tmp_path: Path) -> None:
    """A backfill of one run. Dagster's own clients send neither range nor window then."""
    asking = Asking(script(tmp_path, ASKED), {"window": True}, sync, DAILY, one_run=True)
    tags = dict(zip(RANGE, ("2026-01-03", "2026-01-05"), strict=True))
    run = materialize(asking.asset(), tags=tags)
    assert run.ok
    days = ["2026-01-03", "2026-01-04", "2026-01-05"]
    assert [made.partition for made in run.materializations] == days
    (told,) = asking.told
    assert told["range"] == {"start": "2026-01-03", "end": "2026-01-05"}
    assert told["window"]["start"].startswith("2026-01-03")
    assert told["window"]["end"].startswith("2026-01-06")


@BETA
def test_keys_in_one_run_that_are_no_times(tmp_path: Path) -> None:
    asking = Asking(script(tmp_path, ASKED), partitions=LETTERS, one_run=True)
    run = materialize(asking.asset(), tags=dict(zip(RANGE, ("a", "b"), strict=True)))
    assert run.ok
    assert sorted(made.partition or "" for made in run.materializations) == ["a", "b"]
    assert asking.told[0]["range"] == {"start": "a", "end": "b"}


@BETA
def test_what_a_run_of_days_reported_before_it_failed(tmp_path: Path) -> None:
    body = f"{ASKED}sys.exit(1)\n"
    asking = Asking(script(tmp_path, body), partitions=DAILY, one_run=True)
    tags = dict(zip(RANGE, ("2026-01-03", "2026-01-05"), strict=True))
    run = materialize(asking.asset(), tags=tags)
    assert not run.ok
    days = ["2026-01-03", "2026-01-04", "2026-01-05"]
    assert [made.partition for made in run.materializations] == days


def test_a_key_of_two_dimensions(tmp_path: Path) -> None:
    asking = Asking(script(tmp_path, ASKED), {"key": True}, partitions=BOTH)
    key = dg.MultiPartitionKey({"day": "2026-01-02", "letter": "b"})
    assert materialize(asking.asset(), partition_key=key).ok
    assert asking.told[0]["partition_key"] == "2026-01-02|b"


def test_a_retry_is_told_and_what_came_before_it_is_kept(tmp_path: Path) -> None:
    body = ASKED + "    again = pipes.retry_number == 0\nsys.exit(again)\n"
    asking = Asking(script(tmp_path, body), retries=dg.RetryPolicy(max_retries=1))
    run = materialize(asking.asset())
    assert run.ok
    assert [told["retry_number"] for told in asking.told] == [1]
    assert len(run.materializations) == 2


@CLIENTS
def test_code_version_data_version_and_provenance(sync: bool, tmp_path: Path) -> None:
    asking = Asking(script(tmp_path, ASKED), sync=sync, code_version="c7")
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(2):
            run = materialize(asking.asset(), instance=instance)
            assert run.ok
    assert [told["code_versions"] for told in asking.told] == [{"orders": "c7"}] * 2
    assert [told["provenance"] for told in asking.told] == [{"orders": False}, {"orders": True}]
    tags = run.materializations[0].tags
    assert tags is not None
    assert tags["dagster/data_version"] == "v1"
    assert tags["dagster/code_version"] == "c7"


def test_a_subset_of_a_multi_asset(tmp_path: Path) -> None:
    command = script(tmp_path, ASKED)
    told: list[Any] = []

    @dg.multi_asset(
        specs=[dg.AssetSpec(key, skippable=True) for key in ("one", "two", "three")],
        can_subset=True,
    )
    async def three(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]  # Dagster takes no hint of an async generator
        done = await AsyncPipesSubprocessClient().run(context=context, command=command)
        told.extend(done.get_custom_messages())
        for result in done.get_results():
            yield result

    run = materialize(three, selection=["one", "three"])
    assert run.ok
    assert told[0]["asset_keys"] == ["one", "three"]
    assert sorted(made.asset_key.to_user_string() for made in run.materializations) == [
        "one",
        "three",
    ]


@pytest.mark.parametrize(("passed", "downstream"), [(True, 1), (False, 0)])
def test_a_blocking_check(passed: bool, downstream: int, tmp_path: Path) -> None:
    command = script(
        tmp_path,
        f"""
        with open_pipes() as pipes:
            pipes.report_asset_materialization({{}})
            pipes.report_asset_check("sound", {passed}, severity="ERROR")
        """,
    )
    made = []

    @dg.asset(check_specs=[dg.AssetCheckSpec("sound", asset="orders", blocking=True)])
    async def orders(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]  # Dagster takes no hint of an async generator
        async for result in AsyncPipesSubprocessClient().stream(context=context, command=command):
            yield result

    @dg.asset(deps=[orders])
    def reports() -> None:
        made.append(1)

    run = materialize(orders, reports)
    assert len(made) == downstream
    assert run.ok is passed
    assert [check.severity for check in run.checks] == [dg.AssetCheckSeverity.ERROR]
