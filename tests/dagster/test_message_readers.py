"""Any channel of ours as a message reader of Dagster's own clients."""

# Without postponed annotations: Dagster looks at the one of an asset's ``context``.
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from asyncpipes.channels.file import FileChannel
from asyncpipes.channels.memory import MemoryChannel
from asyncpipes.dagster import PipesChannelMessageReader, PipesFailure
from asyncpipes.errors import ChannelError, InvalidParameterError
from tests.dagster.steps import REPORTS, StepRun, materialize, script
from tests.interop.scripts import write_script
from tests.support_host import FailingChannel, join_all_but, raw_child

CHECK = "no_empty_order_check"
STOCK = """
with open_pipes() as pipes:
    pipes.log.info("as ever")
    pipes.report_asset_materialization({"total_orders": 2})
    pipes.report_asset_check("no_empty_order_check", False, severity="WARN")
"""


def under_dagsters_client(
    command: list[str], reader: PipesChannelMessageReader | None = None
) -> StepRun:
    client = dg.PipesSubprocessClient(message_reader=reader or PipesChannelMessageReader())

    @dg.asset(check_specs=[dg.AssetCheckSpec(CHECK, asset="orders")])
    def orders(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from client.run(context=context, command=command).get_results()

    return materialize(orders)


def test_our_script_under_dagsters_client(tmp_path: Path) -> None:
    run = under_dagsters_client(script(tmp_path, REPORTS))
    assert run.ok
    assert run.materializations[0].metadata["total_orders"].value == 2
    assert [check.passed for check in run.checks] == [False]


def test_a_stock_script_under_dagsters_client(tmp_path: Path) -> None:
    path = write_script(tmp_path, "dagster_pipes", STOCK)
    run = under_dagsters_client([*script(tmp_path, "")[:1], str(path)])
    assert run.ok
    assert run.texts == ["as ever"]
    assert len(run.materializations) == len(run.checks) == 1


def test_half_lines_and_bad_ones_cost_themselves_alone() -> None:
    """Dagster's own reader dies of either, and the run is a success without a result."""
    body = f"""
        opened()
        whole = message("report_asset_materialization", asset_key="orders",
            metadata={{"n": {{"type": "int", "raw_value": 7}}}}, data_version=None)
        raw(whole[:20]); time.sleep(0.05); raw(whole[20:])
        raw(b"garbage\\n")
        emit("report_asset_check", asset_key="orders", check_name="{CHECK}", passed=True,
            severity="ERROR", metadata={{}})
        closed()
    """
    reader = PipesChannelMessageReader(strict=False)
    run = under_dagsters_client(raw_child(body), reader)
    assert run.ok
    assert run.materializations[0].metadata["n"].value == 7
    assert [check.passed for check in run.checks] == [True]
    assert any("garbage" in text for text in run.texts)

    run = under_dagsters_client(raw_child(body))
    assert not run.ok
    assert "1 line could not be read" in run.failure.user_failure_data.description


def test_a_script_that_opens_nothing_fails_the_step() -> None:
    run = under_dagsters_client(raw_child("pass"))
    assert not run.ok
    assert "never opened pipes" in run.failure.user_failure_data.description


def test_the_clients_own_error_goes_first(tmp_path: Path) -> None:
    run = under_dagsters_client(script(tmp_path, f"{REPORTS}sys.exit(3)\n"))
    assert not run.ok
    assert "failed with code 3" in run.failure.error.to_string()


def test_a_reader_is_used_again_and_at_once(tmp_path: Path) -> None:
    reader = PipesChannelMessageReader()
    command = script(tmp_path, REPORTS)
    for _ in range(2):
        assert under_dagsters_client(command, reader).ok

    @dg.op
    def launch(context: dg.OpExecutionContext) -> None:
        with (
            dg.open_pipes_session(context, dg.PipesEnvContextInjector(), reader) as first,
            dg.open_pipes_session(context, dg.PipesEnvContextInjector(), reader) as second,
        ):
            for session in (first, second):
                environment = dict(session.get_bootstrap_env_vars())
                body = "opened(); custom(os.getpid()); closed()"
                subprocess.run(raw_child(body), env=environment, check=True)
        assert len(first.get_custom_messages()) == len(second.get_custom_messages()) == 1

    @dg.job
    def job() -> None:
        launch()

    assert job.execute_in_process().success


def test_a_script_that_comes_after_another_has_closed() -> None:
    """As a launcher that tries again would have it: all of it is read."""
    reader = PipesChannelMessageReader(strict=False)
    told: list[Any] = []

    @dg.op
    def launch(context: dg.OpExecutionContext) -> None:
        with dg.open_pipes_session(context, dg.PipesEnvContextInjector(), reader) as session:
            environment = dict(session.get_bootstrap_env_vars())
            for number in range(2):
                body = f"opened(); custom({number}); closed()"
                subprocess.run(raw_child(body), env=environment, check=True)
        told.extend(session.get_custom_messages())

    @dg.job
    def job() -> None:
        launch()

    assert job.execute_in_process().success
    assert told == [0, 1]


def test_a_channel_that_cannot_be_opened(tmp_path: Path) -> None:
    reader = PipesChannelMessageReader(FileChannel(tmp_path / "missing" / "messages"))
    run = under_dagsters_client(raw_child("pass"), reader)
    assert not run.ok
    assert "cannot create the messages file" in run.failure.error.to_string()


@pytest.mark.parametrize("gives", [0, 1])
def test_a_channel_that_fails_while_it_is_read(gives: int) -> None:
    before = threading.enumerate()
    channel = FailingChannel(ChannelError("the disk is gone"), gives=gives)
    body = "opened(); custom(1); closed()"
    run = under_dagsters_client(raw_child(body), PipesChannelMessageReader(channel))
    assert not run.ok
    assert "the disk is gone" in run.failure.user_failure_data.description
    join_all_but(before)


def test_no_thread_is_left() -> None:
    before = threading.enumerate()
    under_dagsters_client(raw_child("opened(); closed()"))
    join_all_but(before)


def test_what_is_no_channel_is_named() -> None:
    with pytest.raises(InvalidParameterError, match="channel"):
        PipesChannelMessageReader("messages.jsonl")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(InvalidParameterError, match="strict"):
        PipesChannelMessageReader(strict="yes")  # type: ignore[arg-type]  # what is tested


def test_errors_of_the_channel_and_of_the_run_are_told_apart() -> None:
    assert not issubclass(PipesFailure, ChannelError)
    assert PipesChannelMessageReader(MemoryChannel()).expected_writer_count == 1
