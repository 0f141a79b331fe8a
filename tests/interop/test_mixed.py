"""Code written for ``dagster_pipes`` inside our scripts, and one script under both hosts."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import dagster as dg
import pytest

from asyncpipes import LogEvent, MetadataValue, run
from tests.interop.scripts import write_script
from tests.interop.stock_host import Step, run_tutorial

ORDERS = Path(__file__).parents[2] / "examples" / "orders"


def test_a_library_finds_our_context_as_the_stock_one(tmp_path: Path) -> None:
    body = """
import asyncio
import dagster_pipes

def library(name):
    context = dagster_pipes.PipesContext.get()
    context.log.info("%s sees %s", name, context.asset_key)
    context.report_custom_message({"from": name, "day": context.get_extra("day")})

async def main():
    assert not dagster_pipes.PipesContext.is_initialized()
    async with open_pipes(register_stock=True) as pipes:
        assert dagster_pipes.PipesContext.get() is pipes
        # What a library opens by itself is the context that is open already.
        assert dagster_pipes.open_dagster_pipes() is pipes
        library("the script")
        check = dagster_pipes.PipesContext.get().report_asset_check
        check("of_the_library", passed=True, severity="WARN")
        await asyncio.to_thread(library, "a thread")
        pipes.report_asset_materialization({"n": 1})
    assert not dagster_pipes.PipesContext.is_initialized(), "put back"

asyncio.run(main())
"""
    step = Step(tmp_path, checks={"orders": ["of_the_library"]}, extras={"day": "x"})
    result = step.run(write_script(tmp_path, "asyncpipes", body))
    assert result.ok
    assert result.reader_errors == []
    assert result.logs == [("INFO", "the script sees orders"), ("INFO", "a thread sees orders")]
    assert result.custom_messages == [
        [{"from": "the script", "day": "x"}, {"from": "a thread", "day": "x"}]
    ]
    assert [(check.check_name, check.passed) for check in result.checks] == [
        ("of_the_library", True)
    ]


def test_nobody_is_registered_who_did_not_ask_for_it(tmp_path: Path) -> None:
    body = """
import dagster_pipes
with open_pipes() as pipes:
    pipes.report_custom_message(dagster_pipes.PipesContext.is_initialized())
"""
    result = Step(tmp_path).run(write_script(tmp_path, "asyncpipes", body))
    assert result.custom_messages == [[False]]


SUBCLASSES = """
import json
from contextlib import contextmanager
from dagster_pipes import (
    PipesBlobStoreMessageWriter, PipesBlobStoreMessageWriterChannel, PipesContextLoader,
    PipesDefaultContextLoader, PipesDefaultMessageWriter, PipesEnvVarParamsLoader,
    PipesMessageWriter, PipesMessageWriterChannel,
)

class Params(PipesEnvVarParamsLoader):
    calls = []
    def load_context_params(self):
        self.calls.append("context")
        return super().load_context_params()
    def load_messages_params(self):
        self.calls.append("messages")
        return super().load_messages_params()

class Context(PipesDefaultContextLoader):
    left = False
    @contextmanager
    def load_context(self, params):
        with super().load_context(params) as data:
            yield {**data, "extras": {**data["extras"], "added": "by the loader"}}
        Context.left = True

class Lines(PipesMessageWriterChannel):
    def __init__(self, file):
        self.file = file
    def write_message(self, message):
        assert set(message) == {"__dagster_pipes_version", "method", "params"}
        print(json.dumps(message), file=self.file, flush=True)

class Handwritten(PipesMessageWriter):
    @contextmanager
    def open(self, params):
        with open(params["path"], "a") as file:
            yield Lines(file)
    def get_opened_extras(self):
        return {"writer": "handwritten"}

class Chunks(PipesBlobStoreMessageWriterChannel):
    def __init__(self, path):
        super().__init__(interval=0)
        self.path = path
    def upload_messages_chunk(self, payload, index):
        with open(self.path, "a") as file:
            file.write(payload.read() + "\\n")

class Chunked(PipesBlobStoreMessageWriter):
    def make_channel(self, params):
        return Chunks(params["path"])

with open_pipes(
    params_loader=Params(), context_loader=Context(), message_writer=WRITER()
) as pipes:
    pipes.log.info("hello")
    for number in range(100):
        pipes.report_custom_message(number)
    pipes.report_custom_message(pipes.get_extra("added"))
    pipes.report_asset_materialization({"n": 2**70, "text": "ü"})
    assert not Context.left
assert Context.left
assert {"context", "messages"} <= set(Params.calls)
"""


@pytest.mark.parametrize("writer", ["PipesDefaultMessageWriter", "Handwritten", "Chunked"])
def test_stock_loaders_and_writers_serve_our_context(writer: str, tmp_path: Path) -> None:
    body = SUBCLASSES.replace("WRITER", writer)
    result = Step(tmp_path).run(write_script(tmp_path, "asyncpipes", body))
    assert result.ok
    assert result.reader_errors == []
    assert result.custom_messages == [[*range(100), "by the loader"]]
    assert result.logs == [("INFO", "hello")]
    assert result.materializations[0].metadata == {
        "n": dg.MetadataValue.int(2**70),
        "text": dg.MetadataValue.text("ü"),
    }
    opened = result.messages()[0]
    extras = {"writer": "handwritten"} if writer == "Handwritten" else {}
    assert (opened["method"], opened["params"]) == ("opened", {"extras": extras})
    assert result.messages()[-1]["method"] == "closed"


async def test_stock_subclasses_serve_our_context_under_our_host(tmp_path: Path) -> None:
    body = SUBCLASSES.replace("WRITER", "PipesDefaultMessageWriter")
    script = write_script(tmp_path, "asyncpipes", body)
    result = await run([sys.executable, str(script)], asset_keys=["orders"])
    assert result.outcome.ok, result.outcome.reasons
    assert len(result.custom_messages) == 101
    assert [event.sequence for event in result.custom_messages] == list(range(3, 104))


async def test_the_tutorial_gives_the_same_under_both_hosts() -> None:
    script = ORDERS / "external_code.py"
    # In a thread, since Dagster takes this one's event loop for its own.
    stock = await asyncio.to_thread(run_tutorial, script)
    assert stock.ok
    assert stock.reader_errors == []

    logs: list[tuple[str, str]] = []

    def note(event: LogEvent) -> None:
        logs.append((event.level, event.message))

    result = await run(
        [sys.executable, str(script)], asset_keys=["orders"], subscribers=[(note, LogEvent)]
    )
    assert result.outcome.ok, result.outcome.reasons
    assert logs == stock.logs
    assert ("INFO", "processing total 20 orders") in logs

    (materialized,), at_dagster = result.materializations, stock.materializations
    assert [each.asset_key.path for each in at_dagster] == [[materialized.asset_key]]
    assert materialized.metadata == {"total_orders": MetadataValue("__infer__", 20)}
    assert at_dagster[0].metadata == {"total_orders": dg.MetadataValue.int(20)}

    (check,), (check_at_dagster,) = result.checks, stock.checks
    assert (check.check_name, check.passed, check.severity) == (
        check_at_dagster.check_name,
        check_at_dagster.passed,
        check_at_dagster.severity.value,
    )
    assert (check.check_name, check.passed) == ("no_empty_order_check", True)
