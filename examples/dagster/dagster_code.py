"""The tutorial's asset and its check, and the flights by monthly partitions.

The work is done by scripts in processes of their own; what they report is yielded to
Dagster while they run.
"""

# Dagster takes ``AsyncIterator[...]`` for the type of the asset's value: no annotation here.
# mypy: disable-error-code=no-untyped-def

import sys
from pathlib import Path

import dagster as dg

from asyncpipes.dagster import AsyncPipesSubprocessClient

HERE = Path(__file__).parent
ORDERS_CODE = HERE / "external_code.py"
FLIGHTS_CODE = HERE.parent / "flights" / "external_code.py"


@dg.asset(check_specs=[dg.AssetCheckSpec("no_empty_order_check", asset="orders")])
async def orders(context: dg.AssetExecutionContext, pipes: AsyncPipesSubprocessClient):
    async for result in pipes.stream(context=context, command=[sys.executable, ORDERS_CODE]):
        yield result


@dg.asset(
    partitions_def=dg.MonthlyPartitionsDefinition("2013-01", end_date="2014-01", fmt="%Y-%m"),
    check_specs=[
        dg.AssetCheckSpec(name, asset="flights")
        for name in (
            "departure_times_complete",
            "every_day_present",
            "distances_positive",
            "no_duplicate_flights",
        )
    ],
)
async def flights(context: dg.AssetExecutionContext, pipes: AsyncPipesSubprocessClient):
    async for result in pipes.stream(context=context, command=[sys.executable, FLIGHTS_CODE]):
        yield result


defs = dg.Definitions(
    assets=[orders, flights],
    resources={"pipes": AsyncPipesSubprocessClient()},
)
