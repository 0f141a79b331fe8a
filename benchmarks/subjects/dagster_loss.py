"""Loss inside Dagster: our clients and its own in turn, each with both kinds of script.

A script reports messages of 20 KB through a file, and each run is an asset that Dagster
materializes. What counts is what the client gives to the asset.

Dagster reads annotations when an asset is defined, so they must not be postponed, and
``dagster`` must be imported by the module.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError

from asyncpipes.dagster import AsyncPipesSubprocessClient, PipesSubprocessClient

from ..launching import environment
from ..patterns import pattern

_PATTERN = pattern("20KB")
_DIRECTORY = Path(__file__).parents[1] / "scripts"
_SCRIPTS = {"dagster_pipes": "pattern_stock.py", "asyncpipes": "pattern.py"}
_CLIENTS = {
    "stock": dg.PipesSubprocessClient,
    "async": AsyncPipesSubprocessClient,
    "sync": PipesSubprocessClient,
}


def one_round(divisor: int) -> dict[str, list[dict[str, Any]]]:
    """Both scripts under every client; only every ``divisor``-th message."""
    return {"runs": list(_runs(divisor))}


def _runs(divisor: int) -> Iterator[dict[str, Any]]:
    expected = [payload["index"] for payload in _PATTERN.payloads(divisor)]
    for script in _SCRIPTS:
        for client in _CLIENTS:
            indices, failure = _run(client, script, divisor)
            if indices != expected[: len(indices)]:
                failure = "messages came twice or out of order"
            yield {
                "client": client,
                "script": script,
                "messages": len(expected),
                "lost": len(expected) - len(indices),
                "failure": failure,
            }


def _run(client: str, script: str, divisor: int) -> tuple[list[int], str]:
    make = _CLIENTS[client]
    command = [sys.executable, str(_DIRECTORY / _SCRIPTS[script]), _PATTERN.name, "burst"]
    received: list[Any] = []
    failures: list[str] = []

    def start(context: dg.AssetExecutionContext) -> Any:
        return make(env=environment()).run(context=context, command=[*command, str(divisor)])

    @dg.asset
    def sync_asset(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        try:
            received.extend(start(context).get_custom_messages())
        except (dg.Failure, DagsterPipesExecutionError) as error:
            failures.append(str(error))
        return dg.MaterializeResult()

    @dg.asset
    async def async_asset(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        try:
            received.extend((await start(context)).get_custom_messages())
        except dg.Failure as error:
            failures.append(str(error))
        return dg.MaterializeResult()

    dg.materialize([async_asset if client == "async" else sync_asset])
    return [payload["index"] for payload in received], "; ".join(failures)
