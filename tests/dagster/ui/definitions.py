"""A second code location beside the example's: what the tutorial has no use for."""

# mypy: disable-error-code=no-untyped-def

import sys
from pathlib import Path

import dagster as dg

from asyncpipes.dagster import AsyncPipesSubprocessClient

SCRIPTS = Path(__file__).with_name("scripts")


@dg.asset
async def levels(context: dg.AssetExecutionContext, pipes: AsyncPipesSubprocessClient):
    """Its script logs on all five levels."""
    command = [sys.executable, str(SCRIPTS / "levels.py")]
    async for result in pipes.stream(context=context, command=command):
        yield result


@dg.asset
async def endless(context: dg.AssetExecutionContext, pipes: AsyncPipesSubprocessClient):
    """Its script never ends by itself, and neither does the process that it starts."""
    command = [sys.executable, str(SCRIPTS / "endless.py")]
    async for result in pipes.stream(context=context, command=command):
        yield result


defs = dg.Definitions(
    assets=[levels, endless],
    resources={"pipes": AsyncPipesSubprocessClient()},
)
