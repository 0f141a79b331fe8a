"""A stock ``open_dagster_pipes`` script under our host, beside ours with the same body."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from asyncpipes import (
    AssetCheckEvent,
    ClosedEvent,
    CustomMessageEvent,
    Event,
    ExternalError,
    ExternalStreamEvent,
    HealthEvent,
    IncompleteError,
    LogEvent,
    MalformedEvent,
    MaterializationEvent,
    MetadataValue,
    OpenedEvent,
    PipesSession,
    ProcessFailedError,
    RunResult,
    open_pipes_session,
    run,
)
from asyncpipes.channels import FileChannel
from asyncpipes.host.context_injectors import (
    ContextInjector,
    EnvContextInjector,
    TempFileContextInjector,
)
from tests.interop import scripts
from tests.interop.scripts import Package, write_script

# What a host of ours agrees on with a script of ours, beyond protocol 0.1.
EXTENSION = {"sequence", "sent_at", "received_at", "writer", "position"}


async def run_script(folder: Path, package: Package, body: str, **options: Any) -> RunResult:
    options = {"asset_keys": ["orders"], "collect": "all", "forward_stdio": False, **options}
    return await run([sys.executable, str(write_script(folder, package, body))], **options)


async def run_stock(folder: Path, body: str, **options: Any) -> RunResult:
    return await run_script(folder, "dagster_pipes", body, **options)


def comparable(event: Event) -> tuple[type[Event], dict[str, Any]]:
    """All that protocol 0.1 has of an event."""
    # The fields of a log event are what its script had to say beyond the protocol.
    left_out = EXTENSION | ({"fields"} if isinstance(event, LogEvent) else set())
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    return type(event), {name: value for name, value in values.items() if name not in left_out}


@pytest.mark.parametrize("injector", [EnvContextInjector(), TempFileContextInjector()])
async def test_all_that_is_reported_arrives_as_from_ours(
    injector: ContextInjector, tmp_path: Path
) -> None:
    options = {"asset_keys": scripts.REPORT_KEYS, "context_injector": injector}
    stock = await run_script(tmp_path, "dagster_pipes", scripts.REPORT, **options)
    ours = await run_script(tmp_path, "asyncpipes", scripts.REPORT, **options)
    for result in (stock, ours):
        assert result.outcome.ok, result.outcome.reasons
        assert (result.outcome.opened, result.outcome.closed) == (True, True)
    assert [comparable(event) for event in stock.events] == [
        comparable(event) for event in ours.events
    ]
    assert {type(event) for event in stock.events} == {
        OpenedEvent,
        ClosedEvent,
        LogEvent,
        MaterializationEvent,
        AssetCheckEvent,
        CustomMessageEvent,
        ExternalStreamEvent,
    }
    for event in stock.events:
        assert (event.sequence, event.sent_at, event.writer) == (None, None, None)
        assert event.received_at is not None
    assert [event.sequence for event in ours.events] == list(range(1, len(ours.events) + 1))
    assert len({event.writer for event in ours.events}) == 1

    typed, inferred, bare = stock.materializations
    assert typed.data_version == "version 1"
    assert typed.metadata == {
        kind: MetadataValue(kind, value) for kind, value in scripts.TYPED.items()
    }
    assert inferred.asset_key == "shop/it\\/em"
    assert inferred.metadata["int of 70 bits"] == MetadataValue("__infer__", 2**70)
    assert bare.metadata == {}
    assert [(check.severity, check.passed) for check in stock.checks] == [
        ("WARN", True),
        ("WARN", False),
        ("ERROR", True),
        ("ERROR", False),
        ("ERROR", True),
    ]
    assert [event.level for event in stock.events if isinstance(event, LogEvent)] == [
        "DEBUG",
        "INFO",
        "WARNING",
        "ERROR",
        "CRITICAL",
        "INFO",
    ]


PROVENANCE = {"code_version": "6", "input_data_versions": {"up": "x"}, "is_user_provided": False}
CONTEXTS: dict[str, dict[str, Any]] = {
    "no asset": {"asset_keys": None},
    "one asset": {
        "code_version_by_asset_key": {"orders": "7"},
        "provenance_by_asset_key": {"orders": PROVENANCE},
        "run_id": "run",
        "job_name": "job",
        "retry_number": 2,
        "extras": {"day": "2026-01-01", "large integer": 2**70, "nested": [{"a": None}]},
    },
    "several assets": {"asset_keys": ["a", "b/c"]},
    "partition": {"partition_key": "2026-01-01"},
    "range of partitions": {
        "partition_key_range": {"start": "2026-01-01", "end": "2026-01-03"},
        "partition_time_window": {"start": "2026-01-01T00:00", "end": "2026-01-04T00:00"},
    },
    "extras beyond what an environment holds": {"extras": {"day": "x", "large": "ä" * 300_000}},
}


@pytest.mark.parametrize("context", CONTEXTS)
async def test_a_stock_context_is_told_what_ours_is(context: str, tmp_path: Path) -> None:
    options = {"run_id": "the same in both", **CONTEXTS[context]}
    stock = await run_script(tmp_path, "dagster_pipes", scripts.ASK, **options)
    ours = await run_script(tmp_path, "asyncpipes", scripts.ASK, **options)
    (expected,), (answers,) = stock.custom_messages, ours.custom_messages
    assert answers.payload == expected.payload
    assert answers.payload["get"] is True
    match context:
        case "no asset":
            assert answers.payload["asset_keys"] == "refused"
        case "one asset":
            assert answers.payload["provenance"] == PROVENANCE
            assert answers.payload["retry_number"] == 2
            assert answers.payload["extras"]["large integer"] == 2**70
        case "range of partitions":
            assert answers.payload["partition_key"] == "refused"
            assert answers.payload["partition_key_range"]["end"] == "2026-01-03"


async def start(session: PipesSession, script: Path, *words: str, stdin: bytes = b"") -> None:
    """Launch a script as other launchers do, and tell the session of its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), *words, stdin=asyncio.subprocess.PIPE
    )
    await process.communicate(stdin)
    session.finish(process.returncode)


LOADING = """
import json, sys
from dagster_pipes import (
    PipesCliArgsParamsLoader, PipesDefaultContextLoader, PipesDefaultMessageWriter,
    PipesMappingParamsLoader,
)
with open_pipes(
    params_loader=%s,
    context_loader=PipesDefaultContextLoader(),
    message_writer=PipesDefaultMessageWriter(),
) as pipes:
    pipes.report_custom_message(pipes.get_extra("day"))
    pipes.log.info("hello")
    pipes.report_asset_materialization({"n": 1})
"""


@pytest.mark.parametrize("package", ["dagster_pipes", "asyncpipes"])
@pytest.mark.parametrize("loader", ["arguments", "mapping"])
async def test_the_stock_loaders_find_our_bootstrap(
    loader: str, package: Package, tmp_path: Path
) -> None:
    source = {
        "arguments": "PipesCliArgsParamsLoader()",
        "mapping": "PipesMappingParamsLoader(json.load(sys.stdin))",
    }
    script = write_script(tmp_path, package, LOADING % source[loader])
    async with open_pipes_session(asset_keys=["orders"], extras={"day": "x"}) as session:
        if loader == "arguments":
            await start(session, script, *session.cli_arguments)
        else:
            await start(session, script, stdin=json.dumps(dict(session.bootstrap)).encode())
    assert session.outcome.ok, session.outcome.reasons
    assert session.outcome.exit_code == 0
    assert [event.payload for event in session.result.custom_messages] == ["x"]
    assert session.result.materializations[0].metadata == {"n": MetadataValue("__infer__", 1)}


async def test_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    body = """
inf = float("inf")
with open_pipes() as pipes:
    pipes.report_asset_materialization({"nan": inf - inf, "inf": inf, "list": [-inf, 1]})
    pipes.report_custom_message({"nan": inf - inf})
    pipes.log.info("after")
"""
    result = await run_stock(tmp_path, body)
    assert result.outcome.ok, result.outcome.reasons
    metadata: Mapping[str, MetadataValue] = result.materializations[0].metadata
    assert math.isnan(metadata["nan"].raw_value)
    assert metadata["inf"].raw_value == math.inf
    assert metadata["list"].raw_value == [-math.inf, 1]
    assert math.isnan(result.custom_messages[0].payload["nan"])


async def test_a_message_that_would_kill_dagsters_reader_is_flagged(tmp_path: Path) -> None:
    body = """
with open_pipes() as pipes:
    pipes.log.log(25, "a level of its own")
    pipes.report_asset_check("check", True, "INFO")
    pipes.log_external_stream("stdlog", "no such stream")
    pipes.log.warning("after")
    pipes.report_asset_materialization({"n": 1})
    pipes.report_asset_check("check", False)
"""
    with pytest.raises(IncompleteError) as caught:
        await run_stock(tmp_path, body)
    result = caught.value.result
    assert result.outcome.malformed == 3
    bad = [event for event in result.events if isinstance(event, MalformedEvent)]
    assert [event.position is not None for event in bad] == [True] * 3
    level, severity, stream = bad
    assert b"a level of its own" in level.raw
    assert "Level 25" in level.reason
    assert "INFO" in severity.reason
    assert "stdlog" in stream.reason
    assert [type(event) for event in result.events] == [
        OpenedEvent,
        *[MalformedEvent] * 3,
        LogEvent,
        MaterializationEvent,
        AssetCheckEvent,
        ClosedEvent,
    ]
    assert (result.outcome.opened, result.outcome.closed) == (True, True)


async def test_an_exception_is_told_as_ours_is(tmp_path: Path) -> None:
    failed = []
    for package in ("dagster_pipes", "asyncpipes"):
        with pytest.raises(ProcessFailedError) as caught:
            await run_script(tmp_path, package, scripts.FAIL)
        failed.append(caught.value.result)
    stock, ours = failed

    def flat(error: Any, package: str) -> Any:
        if error is None:
            return None
        stack = [entry.replace(str(tmp_path / package), "") for entry in error.stack]
        links = flat(error.cause, package), flat(error.context, package)
        return error.message, error.name, stack, error.notes, error.exceptions, *links

    for result in (stock, ours):
        assert [event.payload for event in result.custom_messages] == ["before"]
        assert result.outcome.exit_code == 1
        assert result.outcome.closed
    exception = stock.outcome.exception
    assert flat(exception, "dagster_pipes") == flat(ours.outcome.exception, "asyncpipes")
    assert exception is not None
    assert exception.cause is not None
    assert exception.cause.context is not None
    assert exception.cause.context.name == "ValueError"


async def test_an_exception_that_is_swallowed_after_the_block_is_a_failure(tmp_path: Path) -> None:
    body = """
try:
    with open_pipes() as pipes:
        raise ValueError("inside")
except ValueError:
    pass
"""
    with pytest.raises(ExternalError) as caught:
        await run_stock(tmp_path, body)
    outcome = caught.value.result.outcome
    assert outcome.exit_code == 0
    assert outcome.exception is not None
    assert outcome.exception.name == "ValueError"


async def test_a_script_that_never_closes(tmp_path: Path) -> None:
    body = """
pipes = open_pipes()
pipes.log.info("working")
pipes.report_asset_materialization({"n": 1})
"""
    with pytest.raises(IncompleteError, match="never closed") as caught:
        await run_stock(tmp_path, body, drain_timeout=0.1)
    result = caught.value.result
    assert (result.outcome.opened, result.outcome.closed) == (True, False)
    assert result.outcome.exit_code == 0
    kinds = [OpenedEvent, LogEvent, MaterializationEvent, HealthEvent]
    assert [type(event) for event in result.events] == kinds
    assert isinstance(last := result.events[-1], HealthEvent)
    assert last.status == "dead"


TWO = """
import sys
with open_pipes() as pipes:
    for number in range(100):
        pipes.report_custom_message([sys.argv[1], number])
"""


@pytest.mark.parametrize("how", ["&&", "&"])
async def test_two_stock_scripts_share_a_session(how: str, tmp_path: Path) -> None:
    script = write_script(tmp_path, "dagster_pipes", TWO)
    one, two = (f"'{sys.executable}' '{script}' {number}" for number in (1, 2))
    command = f"{one} {how} {two}" + ("; wait" if how == "&" else "")
    result = await run(command, asset_keys=["orders"], collect="all")
    assert result.outcome.ok, result.outcome.reasons
    payloads = [event.payload for event in result.custom_messages]
    for number in ("1", "2"):
        assert [each for each in payloads if each[0] == number] == [[number, n] for n in range(100)]
    assert sum(isinstance(event, OpenedEvent) for event in result.events) == 2
    assert sum(isinstance(event, ClosedEvent) for event in result.events) == 2


async def test_one_of_two_stock_scripts_fails(tmp_path: Path) -> None:
    good = write_script(tmp_path / "good", "dagster_pipes", TWO)
    bad = write_script(tmp_path / "bad", "dagster_pipes", scripts.FAIL)
    command = f"'{sys.executable}' '{bad}'; '{sys.executable}' '{good}' 2"
    with pytest.raises(ExternalError) as caught:
        await run(command, asset_keys=["orders"], forward_stdio=False)
    outcome = caught.value.result.outcome
    assert outcome.exit_code == 0
    assert outcome.closed
    assert outcome.exception is not None
    assert outcome.exception.name == "RuntimeError"
    assert len(caught.value.result.custom_messages) == 101


async def test_a_stock_script_and_ours_share_a_session(tmp_path: Path) -> None:
    stock = write_script(tmp_path, "dagster_pipes", TWO)
    ours = write_script(tmp_path, "asyncpipes", TWO)
    command = f"'{sys.executable}' '{stock}' stock & '{sys.executable}' '{ours}' ours; wait"
    result = await run(command, asset_keys=["orders"])
    assert result.outcome.ok, result.outcome.reasons
    assert len(result.custom_messages) == 200
    assert {(event.payload[0], event.writer is None) for event in result.custom_messages} == {
        ("stock", True),
        ("ours", False),
    }


async def test_captured_output_of_a_stock_script(tmp_path: Path) -> None:
    body = """
import sys
with open_pipes() as pipes:
    print("to stdout: ü")
    print("to stderr", file=sys.stderr, flush=True)
    pipes.report_asset_materialization()
"""
    channel = FileChannel(include_stdio_in_messages=True)
    result = await run_stock(tmp_path, body, channel=channel)
    assert result.outcome.ok, result.outcome.reasons
    # The stock capture goes on after `closed`, and what one of its two `tee` processes
    # prints is captured by the other, so the order and some of the text are its own.
    text = {"stdout": "", "stderr": ""}
    for event in result.events:
        if isinstance(event, ExternalStreamEvent):
            text[event.stream] += event.text
    assert "to stdout: ü\n" in text["stdout"]
    assert "to stderr\n" in text["stderr"]
    assert "to stdout" not in text["stderr"]


async def test_a_handed_out_session_ends_when_a_stock_script_has_closed(tmp_path: Path) -> None:
    script = write_script(tmp_path, "dagster_pipes", TWO)
    async with open_pipes_session(asset_keys=["orders"]) as session:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(script), "1", env=dict(session.env)
        )
        payloads = [
            event.payload
            async for event in session.events()
            if isinstance(event, CustomMessageEvent)
        ]
        assert await process.wait() == 0
    assert session.outcome.ok, session.outcome.reasons
    assert payloads == [["1", number] for number in range(100)]


@pytest.mark.parametrize(("argument", "is_clean"), [("0", True), ("", True), ("'why'", False)])
async def test_sys_exit_0_of_a_stock_script_is_a_clean_end(
    argument: str, is_clean: bool, tmp_path: Path
) -> None:
    # It sends SystemExit as an exception, whatever the code; the exit code tells them apart.
    body = f"import sys\nwith open_pipes() as pipes:\n    sys.exit({argument})\n"
    result = await run_stock(tmp_path, body, strict=False)
    assert result.outcome.ok is is_clean, result.outcome.reasons
    assert result.outcome.exception is not None
    assert result.outcome.exception.name == "SystemExit"
