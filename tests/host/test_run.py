"""run() and open_pipes_session(), from the launch of a real script to its outcome."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import pytest

from asyncpipes import (
    AssetCheckEvent,
    ClosedEvent,
    CustomMessageEvent,
    Event,
    LaunchError,
    LogEvent,
    MaterializationEvent,
    OpenedEvent,
    ProcessFailedError,
    Subscriber,
    UsageError,
    open_pipes_session,
    run,
)
from tests.support import PATIENCE
from tests.support_host import raw_child, script

OURS = """
import asyncio
from asyncpipes import open_pipes

async def main():
    async with open_pipes() as pipes:
        pipes.log.warning("hello %s", pipes.asset_key)
        await pipes.report_custom_message({"day": pipes.get_extra("day")})
        pipes.report_asset_materialization(metadata={"total": 2}, data_version="v1")
        pipes.report_asset_check("not_empty", passed=False, severity="WARN")

asyncio.run(main())
"""
STOCK = """
from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    pipes.log.warning("hello %s", pipes.asset_key)
    pipes.report_custom_message({"day": pipes.get_extra("day")})
    pipes.report_asset_materialization(metadata={"total": 2}, data_version="v1")
    pipes.report_asset_check("not_empty", passed=False, severity="WARN")
"""


@pytest.mark.parametrize("source", [OURS, STOCK], ids=["ours", "stock"])
async def test_a_script_from_launch_to_result(any_loop: None, tmp_path: Path, source: str) -> None:
    seen: list[Event] = []
    result = await run(
        script(tmp_path, source),
        asset_keys=["orders"],
        extras={"day": "2026-01-01"},
        subscribers=[seen.append],
        collect="all",
    )
    assert result.outcome.ok
    assert (result.outcome.exit_code, result.outcome.closed) == (0, True)
    (materialization,) = result.materializations
    assert (materialization.asset_key, materialization.data_version) == ("orders", "v1")
    assert materialization.metadata["total"].raw_value == 2
    (check,) = result.checks
    assert (check.check_name, check.passed, check.severity) == ("not_empty", False, "WARN")
    (custom,) = result.custom_messages
    assert custom.payload == {"day": "2026-01-01"}
    assert [type(event) for event in seen] == [
        OpenedEvent,
        LogEvent,
        CustomMessageEvent,
        MaterializationEvent,
        AssetCheckEvent,
        ClosedEvent,
    ]
    assert list(result.events) == seen
    log = seen[1]
    assert isinstance(log, LogEvent)
    assert (log.message, log.level) == ("hello orders", "WARNING")
    assert result.stats.events == 6
    assert result.stats.drops == {"list.append": 0}
    assert (result.stats.lag is None) == (source is STOCK)


async def test_a_session_from_launch_to_outcome(any_loop: None, tmp_path: Path) -> None:
    stored: list[Event] = []
    async with open_pipes_session(asset_keys=["orders"], extras={"day": "d"}) as session:

        @session.on(MaterializationEvent, AssetCheckEvent)
        async def store(event: Event) -> None:
            await asyncio.sleep(0)
            stored.append(event)

        process = await session.launch(script(tmp_path, OURS))
        assert process.pid > 0
        received = [event async for event in session.events()]
        assert await process.wait() == 0
        assert process.returncode == 0
    assert session.outcome.ok
    assert [type(event) for event in stored] == [MaterializationEvent, AssetCheckEvent]
    assert [event for event in received if event in stored] == stored
    assert len(received) == 6
    assert session.stats.events == 6
    assert session.health.state == "drained"


async def test_what_the_command_and_the_environment_may_be(tmp_path: Path) -> None:
    body = 'opened(); custom(os.getcwd(), os.environ["MINE"], sys.argv[1:]); closed()'
    (tmp_path / "there").mkdir()
    program, *arguments = raw_child(body)
    command: list[str | Path] = [Path(program), *arguments, tmp_path / "argument"]
    result = await run(command, env={"MINE": "yes"}, cwd=tmp_path / "there")
    assert [event.payload for event in result.custom_messages] == [
        str(tmp_path / "there"),
        "yes",
        [str(tmp_path / "argument")],
    ]


async def test_a_single_text_is_run_by_the_shell(tmp_path: Path) -> None:
    command = script(tmp_path, raw_child("opened(); closed()")[-1])
    result = await run(f"true && '{command[0]}' -S '{command[1]}'")
    assert result.outcome.ok


async def test_a_script_has_no_stdin(capfd: pytest.CaptureFixture[str]) -> None:
    result = await run(raw_child("opened(); custom(sys.stdin.read()); closed()"))
    assert [event.payload for event in result.custom_messages] == [""]


async def test_two_sessions_one_after_the_other_in_one_task(tmp_path: Path) -> None:
    for number in range(2):
        result = await run(raw_child(f"opened(); custom({number}); closed()"))
        assert [event.payload for event in result.custom_messages] == [number]


async def test_a_second_launch_is_refused_and_the_first_goes_on() -> None:
    async with open_pipes_session() as session:
        await session.launch(raw_child("opened(); closed()"))
        with pytest.raises(UsageError, match="launched a process"):
            await session.launch(raw_child("opened(); closed()"))
    assert session.outcome.ok


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("not found", "cannot start '/no/such/program': no such program"),
        ("not executable", "not_executable': it is not executable"),
        ("a directory", "it is a directory; name a program in it"),
        ("bad cwd", "its working directory /no/such/directory does not exist"),
        ("too big", "arguments and environment are too large; pass large values as extras"),
    ],
)
async def test_what_cannot_be_launched_is_named(
    any_loop: None, tmp_path: Path, case: str, message: str
) -> None:
    (tmp_path / "not_executable").write_text("#!/bin/sh\n")
    command = {
        "not found": ["/no/such/program"],
        "not executable": [str(tmp_path / "not_executable")],
        "a directory": [str(tmp_path)],
        "bad cwd": [sys.executable],
        "too big": [sys.executable, "-c", "pass", "x" * 200_000],
    }[case]
    session = open_pipes_session()
    with pytest.raises(LaunchError, match=message) as info:
        async with session:
            await session.launch(command, cwd="/no/such/directory" if case == "bad cwd" else None)
    assert any(str(info.value) in reason for reason in session.outcome.reasons)
    assert session.outcome.exit_code is None


async def test_a_launch_error_that_the_body_takes_still_makes_the_outcome_bad() -> None:
    async with open_pipes_session(strict=False) as session:
        with pytest.raises(LaunchError):
            await session.launch(["/no/such/program"])
    assert not session.outcome.ok
    assert any("/no/such/program" in reason for reason in session.outcome.reasons)


async def test_run_raises_with_the_result_and_the_end_of_stderr() -> None:
    body = 'opened(); custom(1); print("boom", file=sys.stderr); sys.exit(3)'
    with pytest.raises(ProcessFailedError, match="exit code 3") as info:
        await run(raw_child(body), forward_stdio=False, drain_timeout=0.1)
    assert [event.payload for event in info.value.result.custom_messages] == [1]
    assert info.value.result.stderr == "boom\n"
    assert "  boom" in str(info.value)


@pytest.mark.parametrize("collect", ["results", "all", "none"])
async def test_what_is_collected(collect: str) -> None:
    body = """
        opened(); log("x"); custom(1)
        emit("report_asset_materialization", asset_key="a", data_version=None, metadata={})
        emit("report_asset_check", asset_key="a", check_name="c", passed=True,
             severity="ERROR", metadata={})
        closed()
    """
    result = await run(raw_child(body), collect=collect)
    counts = tuple(
        map(len, (result.materializations, result.checks, result.custom_messages, result.events))
    )
    assert counts == {"results": (1, 1, 1, 0), "all": (1, 1, 1, 6), "none": (0, 0, 0, 0)}[collect]
    assert result.stats.events == 6


async def test_run_subscribers_are_callbacks_or_tuples_with_types() -> None:
    everything: list[Event] = []
    logs: list[Event] = []
    await run(
        raw_child("opened(); log('x'); closed()"),
        subscribers=[everything.append, (logs.append, LogEvent)],
    )
    assert [type(event) for event in everything] == [OpenedEvent, LogEvent, ClosedEvent]
    assert [type(event) for event in logs] == [LogEvent]


@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_timeout_is_for_what_is_left_to_deliver_as_well(in_thread: bool) -> None:
    """The script ends at once; a subscriber that never returns would hold the run for ever."""
    stuck = threading.Event()

    async def waits(event: LogEvent) -> None:
        await asyncio.Event().wait()

    def blocks(event: LogEvent) -> None:
        stuck.wait(PATIENCE)

    subscriber = Subscriber(blocks if in_thread else waits, LogEvent, in_thread=in_thread)
    try:
        for timeout in (0.5, 4, 32):  # of which the script, on a busy machine, takes its part
            result = await asyncio.wait_for(
                run(
                    raw_child("opened(); log('x'); closed()"),
                    subscribers=[subscriber],
                    timeout=timeout,
                    drain_timeout=0.1,
                    strict=False,
                ),
                PATIENCE,
            )
            if not result.outcome.timed_out:
                break
    finally:
        stuck.set()
    assert result.outcome.undelivered == 1
    assert not result.outcome.timed_out
    assert not result.outcome.ok
