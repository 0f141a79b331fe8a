"""Steps that launch scripts through our clients, and what Dagster remembers of them."""

# Without postponed annotations: Dagster looks at the one of an asset's ``context``.
import logging
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from asyncpipes.dagster import AsyncPipesSubprocessClient

#: What a script begins with. ``CONTEXT`` is its context as the host sent it.
PRELUDE = """
import os, sys, time
from pathlib import Path
from asyncpipes import PipesContext, open_pipes

def messages_file():
    from asyncpipes.protocol.bootstrap import decode_param
    return decode_param(os.environ["DAGSTER_PIPES_MESSAGES"], name="params")["path"]

def wait_for(path):
    while not Path(path).exists():
        time.sleep(0.005)

"""


def script(folder: Path, body: str, name: str = "script.py") -> list[str]:
    """The command that runs ``body`` after :data:`PRELUDE`."""
    path = folder / name
    path.write_text(PRELUDE + textwrap.dedent(body), encoding="utf-8")
    return [sys.executable, str(path)]


@dataclass(frozen=True)
class Line:
    """A log line on the run page."""

    level: str
    text: str


@dataclass(frozen=True)
class StepRun:
    """A run, as Dagster's instance remembers it."""

    ok: bool
    entries: Sequence[dg.EventLogEntry]

    @property
    def materializations(self) -> list[dg.AssetMaterialization]:
        return [e.asset_materialization for e in self.entries if e.asset_materialization]

    @property
    def checks(self) -> list[dg.AssetCheckEvaluation]:
        return [
            event.asset_check_evaluation_data
            for event in self.events
            if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
        ]

    @property
    def events(self) -> list[dg.DagsterEvent]:
        return [e.dagster_event for e in self.entries if e.dagster_event is not None]

    @property
    def engine_events(self) -> list[dg.DagsterEvent]:
        """Those of the adapter."""
        return [
            event
            for event in self.events
            if event.event_type == dg.DagsterEventType.ENGINE_EVENT
            and (event.message or "").startswith("[pipes]")
        ]

    @property
    def lines(self) -> list[Line]:
        """Log lines, but for those that Dagster's own handler writes."""
        return [
            Line(logging.getLevelName(e.level), e.user_message)
            for e in self.entries
            if e.dagster_event is None and "opened dagster pipes" not in e.user_message
        ]

    @property
    def texts(self) -> list[str]:
        return [line.text for line in self.lines]

    @property
    def failure(self) -> Any:
        """The step's failure: an object of Dagster's with ``error`` and ``user_failure_data``."""
        (event,) = [e for e in self.events if e.is_step_failure]
        return event.step_failure_data

    @property
    def failure_metadata(self) -> Mapping[str, Any]:
        return {name: m.value for name, m in self.failure.user_failure_data.metadata.items()}


def materialize(
    *assets: dg.AssetsDefinition, instance: dg.DagsterInstance | None = None, **options: Any
) -> StepRun:
    """Materialize, and look at the event log."""
    with ExitStack() as stack:
        if instance is None:
            instance = stack.enter_context(dg.DagsterInstance.ephemeral())
        result = dg.materialize(assets, instance=instance, raise_on_error=False, **options)
        return StepRun(result.success, instance.all_logs(result.run_id))


def streaming(
    command: Sequence[str],
    client: AsyncPipesSubprocessClient | None = None,
    *,
    checks: Sequence[str] = (),
    partitions: dg.PartitionsDefinition[Any] | None = None,
    retries: dg.RetryPolicy | None = None,
    **options: Any,
) -> dg.AssetsDefinition:
    """The asset ``orders`` that streams what ``command`` reports."""
    pipes = client or AsyncPipesSubprocessClient()

    specs = [dg.AssetCheckSpec(name, asset="orders") for name in checks]

    @dg.asset(check_specs=specs, partitions_def=partitions, retry_policy=retries)
    async def orders(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]  # Dagster takes no hint of an async generator
        async for result in pipes.stream(context=context, command=command, **options):
            yield result

    return orders


def running(
    command: Sequence[str],
    client: AsyncPipesSubprocessClient | None = None,
    *,
    checks: Sequence[str] = (),
    **options: Any,
) -> dg.AssetsDefinition:
    """The asset ``orders`` that awaits ``command`` and yields what it reported."""
    pipes = client or AsyncPipesSubprocessClient()

    @dg.asset(check_specs=[dg.AssetCheckSpec(name, asset="orders") for name in checks])
    async def orders(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]  # Dagster takes no hint of an async generator
        for result in (await pipes.run(context=context, command=command)).get_results(**options):
            yield result

    return orders


REPORTS = """
with open_pipes() as pipes:
    pipes.report_asset_materialization({"total_orders": 2})
    pipes.report_asset_check("no_empty_order_check", False, severity="WARN")
"""
