"""Runs scripts under Dagster itself: real assets, its own clients, readers and event log."""

# Without postponed annotations: Dagster looks at the one of an asset's ``context``.
import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import dagster as dg

from tests.interop.scripts import write_script

FILLER = {"stream": "stdout", "text": "", "extras": {}}

# How the bootstrap gets to the script. The mapping is handed over on stdin, as JSON.
Via = Literal["environment", "arguments", "mapping"]


@dataclass(frozen=True)
class StockRun:
    """One run, as Dagster's instance remembers it.

    Attributes:
        ok: whether Dagster calls the run a success.
        materializations, checks: in the order of the event log.
        logs: what the scripts logged: name of the level and message.
        exceptions: errors with which scripts closed their contexts.
        reader_errors: errors that ended a reader of Dagster's.
        custom_messages: those of each script that did not fail.
        wire: the bytes of each script's messages file.
    """

    ok: bool
    materializations: list[dg.AssetMaterialization]
    checks: list[dg.AssetCheckEvaluation]
    logs: list[tuple[str, str]]
    exceptions: list[Any]
    reader_errors: list[Any]
    custom_messages: list[list[Any]] = field(default_factory=list)
    wire: list[bytes] = field(default_factory=list)

    def messages(self, script: int = 0) -> list[dict[str, Any]]:
        """What a script wrote, line by line, without what fills a page and says nothing."""
        messages = [json.loads(line) for line in self.wire[script].splitlines()]
        return [message for message in messages if message["params"] != FILLER]


@dataclass
class Step:
    """A step that runs scripts one after the other, each in a session of its own."""

    folder: Path
    keys: Sequence[str] = ("orders",)
    checks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    code_version: str | None = None
    partitions: dg.PartitionsDefinition[Any] | None = None
    partition_key: str | None = None
    tags: Mapping[str, str] | None = None
    extras: Mapping[str, Any] | None = None
    retries: int = 0
    include_stdio: bool = False
    via: Via = "environment"
    instance: dg.DagsterInstance | None = None

    def run(self, *scripts: Path) -> StockRun:
        """Materialize. The results of the last script become the step's."""
        custom_messages: list[list[Any]] = []
        wire = [self.folder / f"messages-{number}" for number, _ in enumerate(scripts)]

        @dg.multi_asset(
            name="step",
            # Named outputs, since Dagster makes names of keys, and a key may hold a slash.
            outs={
                f"result_{number}": dg.AssetOut(
                    key=dg.AssetKey.from_escaped_user_string(key),
                    dagster_type=dg.Nothing,
                    code_version=self.code_version,
                )
                for number, key in enumerate(self.keys)
            },
            partitions_def=self.partitions,
            check_specs=[
                dg.AssetCheckSpec(name, asset=dg.AssetKey.from_escaped_user_string(key))
                for key, names in self.checks.items()
                for name in names
            ],
            retry_policy=dg.RetryPolicy(max_retries=self.retries) if self.retries else None,
        )
        def step(context: dg.AssetExecutionContext) -> Iterator[Any]:
            results: Sequence[Any] = ()
            for script, path in zip(scripts, wire, strict=True):
                done = self._run_script(context, script, path)
                custom_messages.append(list(done.get_custom_messages()))
                results = done.get_results()
            yield from results

        run = _materialize(
            step, instance=self.instance, partition_key=self.partition_key, tags=self.tags
        )
        return replace(
            run,
            custom_messages=custom_messages,
            wire=[path.read_bytes() if path.exists() else b"" for path in wire],
        )

    def _run_script(self, context: dg.AssetExecutionContext, script: Path, messages: Path) -> Any:
        command = [sys.executable, str(script)]
        reader = dg.PipesFileMessageReader(
            str(messages), include_stdio_in_messages=self.include_stdio, cleanup_file=False
        )
        if self.via == "environment":
            client = dg.PipesSubprocessClient(message_reader=reader)
            return client.run(context=context, command=command, extras=self.extras)
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesEnvContextInjector(),
            message_reader=reader,
            extras=dict(self.extras or {}),
        ) as session:
            if self.via == "arguments":
                for words in session.get_bootstrap_cli_arguments().items():
                    command += words
                subprocess.run(command, check=True)
            else:
                bootstrap = json.dumps(dict(session.get_bootstrap_env_vars()))
                subprocess.run(command, input=bootstrap, text=True, check=True)
        return session


def run_both(folder: Path, body: str, **options: Any) -> tuple[StockRun, StockRun]:
    """A run with the stock script, and one with ours."""
    stock, ours = (
        Step(folder / package, **options).run(write_script(folder, package, body))
        for package in ("dagster_pipes", "asyncpipes")
    )
    return stock, ours


def run_ours(folder: Path, body: str, **options: Any) -> StockRun:
    return Step(folder, **options).run(write_script(folder, "asyncpipes", body))


def ask_both(folder: Path, body: str, **options: Any) -> tuple[Any, Any]:
    """The one custom message of each of two scripts that run in one step of one run."""
    paths = [write_script(folder, "dagster_pipes", body), write_script(folder, "asyncpipes", body)]
    run = Step(folder, **options).run(*paths)
    assert run.ok
    assert run.reader_errors == []
    (stock,), (ours,) = run.custom_messages
    return stock, ours


def run_tutorial(script: Path) -> StockRun:
    """The Dagster side of the tutorial: an asset, its check, and the client as a resource."""

    @dg.asset(check_specs=[dg.AssetCheckSpec("no_empty_order_check", asset="orders")])
    def orders(
        context: dg.AssetExecutionContext, pipes_subprocess_client: dg.PipesSubprocessClient
    ) -> Iterator[Any]:
        command = [sys.executable, str(script)]
        yield from pipes_subprocess_client.run(command=command, context=context).get_results()

    return _materialize(orders, resources={"pipes_subprocess_client": dg.PipesSubprocessClient()})


def _materialize(
    asset: dg.AssetsDefinition, *, instance: dg.DagsterInstance | None = None, **options: Any
) -> StockRun:
    with ExitStack() as stack:
        if instance is None:
            instance = stack.enter_context(dg.DagsterInstance.ephemeral())
        result = dg.materialize([asset], instance=instance, raise_on_error=False, **options)
        return StockRun(ok=result.success, **from_log(instance.all_logs(result.run_id)))


def from_log(entries: Sequence[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {
        name: [] for name in ("materializations", "checks", "logs", "exceptions", "reader_errors")
    }
    for entry in entries:
        event = entry.dagster_event
        if event is None:
            if not entry.user_message.startswith("[pipes]"):
                found["logs"].append((logging.getLevelName(entry.level), entry.user_message))
        elif event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION:
            found["materializations"].append(entry.asset_materialization)
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            found["checks"].append(event.asset_check_evaluation_data)
        elif event.event_type == dg.DagsterEventType.ENGINE_EVENT:
            if "closed with exception" in (event.message or ""):
                found["exceptions"].append(event.engine_event_data.error)
            elif "framework exception" in (event.message or ""):
                found["reader_errors"].append(event.engine_event_data.error)
    return found
