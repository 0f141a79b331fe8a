"""The async client: results while the script runs, failures, strictness, several at once."""

# Without postponed annotations: Dagster looks at the one of an asset's ``context``.
import asyncio
import datetime
import math
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from asyncpipes.channels.file import FileChannel
from asyncpipes.dagster import (
    AsyncPipesSubprocessClient,
    PipesChannelMessageReader,
    PipesFailure,
    PipesSubprocessClient,
)
from asyncpipes.errors import InvalidParameterError
from tests.dagster.steps import REPORTS, materialize, running, script, streaming
from tests.interop.scripts import write_script
from tests.support_host import until

CHECK = "no_empty_order_check"

AWAITING = pytest.mark.parametrize("asset", [streaming, running])


@AWAITING
def test_what_a_script_reports_is_the_steps(asset: Callable[..., Any], tmp_path: Path) -> None:
    run = materialize(asset(script(tmp_path, REPORTS), checks=[CHECK]))
    assert run.ok
    (made,) = run.materializations
    assert made.metadata["total_orders"].value == 2
    (check,) = run.checks
    assert (check.check_name, check.passed, check.severity) == (
        CHECK,
        False,
        dg.AssetCheckSeverity.WARN,
    )


def test_the_client_is_a_parameter_of_an_asset(tmp_path: Path) -> None:
    command = script(tmp_path, REPORTS)

    @dg.asset(check_specs=[dg.AssetCheckSpec(CHECK, asset="orders")])
    async def orders(context: dg.AssetExecutionContext, pipes: AsyncPipesSubprocessClient):  # type: ignore[no-untyped-def]  # Dagster takes no hint of an async generator
        invocation = await pipes.run(context=context, command=command)
        assert invocation.result.outcome.ok
        return invocation.get_materialize_result()

    assert materialize(orders, resources={"pipes": AsyncPipesSubprocessClient()}).ok


def test_results_come_while_the_script_runs_and_each_once(tmp_path: Path) -> None:
    """The script goes on only when its result has been seen: it would wait for ever."""
    command = script(
        tmp_path,
        f"""
        with open_pipes() as pipes:
            for number in range(3):
                pipes.report_asset_materialization({{"n": number}}, asset_key=f"a{{number}}")
                wait_for(f"{tmp_path}/seen{{number}}")
        """,
    )
    seen: list[Any] = []

    @dg.multi_asset(specs=[dg.AssetSpec(f"a{number}") for number in range(3)])
    async def three(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]  # Dagster takes no hint of an async generator
        async for result in AsyncPipesSubprocessClient().stream(context=context, command=command):
            seen.append(result)
            yield result
            Path(tmp_path, f"seen{len(seen) - 1}").touch()

    assert materialize(three).ok
    assert [result.asset_key.path for result in seen] == [["a0"], ["a1"], ["a2"]]


def test_several_at_once(tmp_path: Path) -> None:
    """Each waits for the others: one after the other they would wait for ever."""
    body = f"""
        number = sys.argv[1]
        Path(f"{tmp_path}/here{{number}}").touch()
        for other in range(4):
            wait_for(f"{tmp_path}/here{{other}}")
        with open_pipes() as pipes:
            pipes.log.info("all are here")
            pipes.report_asset_materialization({{"n": number}}, asset_key="a" + number)
            pipes.report_custom_message(number)
        """
    command = script(tmp_path, body)
    pipes = AsyncPipesSubprocessClient()
    custom: list[Any] = []

    @dg.multi_asset(specs=[dg.AssetSpec(f"a{number}") for number in range(4)])
    async def four(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]  # Dagster takes no hint of an async generator
        invocations = await asyncio.gather(
            *(pipes.run(context=context, command=[*command, str(number)]) for number in range(4))
        )
        for invocation in invocations:
            custom.extend(invocation.get_custom_messages())
            for result in invocation.get_results():
                yield result

    run = materialize(four)
    assert run.ok
    assert len(run.materializations) == 4
    assert custom == ["0", "1", "2", "3"]
    assert run.texts == ["all are here"] * 4


def test_environment_directory_and_extras(tmp_path: Path) -> None:
    command = script(
        tmp_path,
        """
        with open_pipes() as pipes:
            found = [os.environ.get(name) for name in ("A", "B", "C")]
            pipes.report_custom_message([found, os.getcwd(), dict(pipes.extras)])
        """,
    )
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    client = AsyncPipesSubprocessClient(env={"A": "1", "B": "1"}, cwd=str(here))
    told: list[Any] = []

    @dg.asset
    async def orders(context: dg.AssetExecutionContext) -> Any:
        first = await client.run(context=context, command=command, extras={"day": 1})
        second = await client.run(
            context=context, command=command, env={"B": "2", "C": "2"}, cwd=str(there)
        )
        told.extend([*first.get_custom_messages(), *second.get_custom_messages()])
        return second.get_results(implicit_materializations=True)

    assert materialize(orders).ok
    assert told == [
        [["1", "1", None], str(here), {"day": 1}],
        [["1", "2", "2"], str(there), {}],
    ]


def test_a_command_may_be_a_text_for_the_shell(tmp_path: Path) -> None:
    python, path = script(tmp_path, REPORTS)
    assert materialize(streaming(f"true && {python} {path}", checks=[CHECK])).ok


# Failures.


@AWAITING
@pytest.mark.parametrize(
    ("end", "said", "name", "value"),
    [
        ("sys.exit(3)", "exit code 3", "exit_code", 3),
        ("os.kill(os.getpid(), 9)", "signal 9", "signal", "SIGKILL (9)"),
    ],
)
def test_results_before_a_failure_are_kept(
    asset: Callable[..., Any], end: str, said: str, name: str, value: Any, tmp_path: Path
) -> None:
    body = f"{REPORTS}print('this went wrong', file=sys.stderr, flush=True)\n{end}\n"
    run = materialize(asset(script(tmp_path, body), checks=[CHECK]))
    assert not run.ok
    assert [m.metadata["total_orders"].value for m in run.materializations] == [2]
    assert [(check.check_name, check.passed) for check in run.checks] == [(CHECK, False)]
    assert said in run.failure.user_failure_data.description
    assert run.failure_metadata[name] == value
    assert "this went wrong" in run.failure_metadata["stderr"]


def test_data_version_and_partition_of_what_is_kept(tmp_path: Path) -> None:
    command = script(
        tmp_path,
        """
        with open_pipes() as pipes:
            pipes.report_asset_materialization({"n": 1}, data_version="v7")
        sys.exit(1)
        """,
    )
    pipes = AsyncPipesSubprocessClient()

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["north", "south"]))
    async def orders(context: dg.AssetExecutionContext) -> Any:
        return (await pipes.run(context=context, command=command)).get_results()

    run = materialize(orders, partition_key="south")
    (made,) = run.materializations
    assert made.partition == "south"
    # Those of a step that yields it.
    passing = script(
        tmp_path, Path(command[1]).read_text().replace("sys.exit(1)", ""), "passing.py"
    )
    partitions = dg.StaticPartitionsDefinition(["north", "south"])
    (yielded,) = materialize(
        streaming(passing, partitions=partitions), partition_key="south"
    ).materializations

    def tags(materialization: dg.AssetMaterialization) -> dict[str, str]:
        every = materialization.tags or {}
        return {name: tag for name, tag in every.items() if "data_version" in name}

    assert tags(made) == tags(yielded)
    assert len(tags(made)) == 2


def test_the_scripts_exception_is_in_the_failure_with_its_group(tmp_path: Path) -> None:
    command = script(
        tmp_path,
        """
        import asyncio
        if sys.version_info < (3, 11):
            from exceptiongroup import ExceptionGroup

        async def main():
            async with open_pipes():
                try:
                    raise ExceptionGroup("both", [ValueError("one"), KeyError("two")])
                except ExceptionGroup as group:
                    raise RuntimeError("in all") from group

        asyncio.run(main())
        """,
    )
    run = materialize(streaming(command))
    shown = run.failure_metadata["exception"]
    for part in ("ValueError: one", "KeyError: 'two'", "RuntimeError: in all", "line "):
        assert part in shown
    assert run.failure_metadata["exit_code"] == 1
    # And as an engine event, as Dagster's own handler tells it.
    (event,) = [e for e in run.engine_events if e.engine_event_data.error is not None]
    told = event.engine_event_data.error
    assert told is not None
    assert "RuntimeError: in all" in told.message
    assert "ValueError: one" in told.to_string()


def test_a_command_that_cannot_be_started(tmp_path: Path) -> None:
    run = materialize(streaming([str(tmp_path / "missing")]))
    assert not run.ok
    assert "no such program" in run.failure.error.to_string()


@pytest.mark.parametrize("client", [AsyncPipesSubprocessClient, PipesSubprocessClient])
def test_extras_that_json_cannot_hold(client: Any, tmp_path: Path) -> None:
    command = script(tmp_path, f"Path('{tmp_path}/ran').touch()")
    extras = {"since": datetime.date(2026, 1, 1)}

    @dg.asset
    def orders(context: dg.AssetExecutionContext) -> Any:
        call = client().run(context=context, command=command, extras=extras)
        return asyncio.run(call) if client is AsyncPipesSubprocessClient else call

    run = materialize(orders)
    assert "`extras` hold what JSON cannot" in run.failure.error.to_string()
    assert "InvalidParameterError" in run.failure.error.to_string()
    assert not (tmp_path / "ran").exists()


def test_dagsters_warning_names_what_the_user_chose(tmp_path: Path) -> None:
    class Mine(dg.PipesEnvContextInjector):
        pass

    client = AsyncPipesSubprocessClient(context_injector=Mine(), strict=False)
    run = materialize(running(script(tmp_path, "pass"), client))
    (text,) = [text for text in run.texts if "did not receive any messages" in text]
    assert "\nMine:" in text
    assert "\nPipesChannelMessageReader:" in text


def test_a_failure_has_the_result_and_the_results(tmp_path: Path) -> None:
    command = script(tmp_path, f"{REPORTS}sys.exit(3)\n")
    raised: list[PipesFailure] = []

    @dg.asset
    async def orders(context: dg.AssetExecutionContext) -> None:
        try:
            await AsyncPipesSubprocessClient().run(context=context, command=command)
        except PipesFailure as failure:
            raised.append(failure)
            raise

    materialize(orders)
    (failure,) = raised
    assert failure.result.outcome.exit_code == 3
    assert [type(result).__name__ for result in failure.results] == [
        "MaterializeResult",
        "AssetCheckResult",
    ]
    assert "exit code 3" in str(failure)


# Strictness.

SWALLOWED = """
try:
    with open_pipes() as pipes:
        pipes.report_asset_materialization({"n": 1})
        raise ValueError("swallowed")
except ValueError:
    pass
"""
GARBAGE = """
with open_pipes() as pipes:
    pipes.report_asset_materialization({"n": 1})
    with open(messages_file(), "ab") as file:
        file.write(b"garbage\\n")
    pipes.log.info("went on")
"""
NEVER_OPENED = "print('done')\n"
NEVER_CLOSED = """
pipes = open_pipes().__enter__()
pipes.report_asset_materialization({"n": 1})
os._exit(0)
"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (SWALLOWED, "ValueError: swallowed"),
        (GARBAGE, "1 line could not be read"),
        (NEVER_OPENED, "never opened pipes"),
        (NEVER_CLOSED, "never closed"),
    ],
)
def test_strict_fails_what_only_looks_well(body: str, said: str, tmp_path: Path) -> None:
    command = script(tmp_path, body)
    run = materialize(streaming(command))
    assert not run.ok
    description = run.failure.user_failure_data.description
    assert said in description
    assert "strict=False" in description
    assert run.failure_metadata["exit_code"] == 0

    lenient = AsyncPipesSubprocessClient(strict=False)
    run = materialize(streaming(command, lenient, implicit_materializations=True))
    assert run.ok
    (line,) = [line for line in run.lines if "strict=False" in line.text]
    assert line.level == "WARNING"
    assert said in line.text


def test_a_bad_line_is_told_and_what_follows_it_is_read(tmp_path: Path) -> None:
    run = materialize(streaming(script(tmp_path, GARBAGE)))
    assert "went on" in run.texts
    (line,) = [line for line in run.lines if "garbage" in line.text]
    assert line.level == "ERROR"


def test_lenient_or_not_a_process_that_fails_fails_the_step(tmp_path: Path) -> None:
    command = script(tmp_path, f"{REPORTS}sys.exit(3)\n")
    client = AsyncPipesSubprocessClient(strict=False)
    assert not materialize(streaming(command, client, checks=[CHECK])).ok


def test_what_dagster_does_not_take_fails_the_step(tmp_path: Path) -> None:
    command = script(
        tmp_path,
        """
        with open_pipes() as pipes:
            pipes.report_asset_materialization({"n": 1})
            message = b'{"__dagster_pipes_version":"0.1","method":"report_asset_check","params":'
            message += b'{"asset_key":"orders","check_name":"c","passed":true,"severity":"ERROR",'
            message += b'"metadata":{"n":{"type":"int","raw_value":"no number"}}}}\\n'
            with open(messages_file(), "ab") as file:
                file.write(message)
        """,
    )
    run = materialize(streaming(command))
    assert not run.ok
    assert "Dagster did not take the check c" in run.failure_metadata["reasons"]
    assert len(run.materializations) == 1


@AWAITING
def test_nothing_is_materialized_that_was_not_reported(
    asset: Callable[..., Any], tmp_path: Path
) -> None:
    command = script(tmp_path, "with open_pipes() as pipes: pipes.log.info('all is well')\n")
    run = materialize(asset(command))
    assert not run.ok
    assert run.materializations == []
    assert "implicit_materializations=True" in run.failure.error.to_string()

    run = materialize(asset(command, implicit_materializations=True))
    assert run.ok
    assert len(run.materializations) == 1


def test_an_asset_that_was_reported_is_not_materialized_again(tmp_path: Path) -> None:
    asset = streaming(script(tmp_path, REPORTS), checks=[CHECK], implicit_materializations=True)
    assert len(materialize(asset).materializations) == 1


def test_a_single_check_result_in_an_asset_check(tmp_path: Path) -> None:
    command = script(
        tmp_path,
        "with open_pipes() as p: p.report_asset_check('sound', True, asset_key='orders')\n",
    )

    @dg.asset_check(asset="orders")  # type: ignore[arg-type]  # its hint knows no async check
    async def sound(context: dg.AssetCheckExecutionContext) -> Any:
        invocation = await AsyncPipesSubprocessClient().run(context=context, command=command)
        return invocation.get_asset_check_result()

    job = dg.define_asset_job("check", selection=dg.AssetSelection.all_asset_checks())
    definitions = dg.Definitions(asset_checks=[sound], jobs=[job])
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def("check").execute_in_process(instance=instance)
    assert [check.passed for check in result.get_asset_check_evaluations()] == [True]


# Leaving early.


def test_leaving_the_stream_ends_the_process(tmp_path: Path) -> None:
    command = script(
        tmp_path,
        """
        with open_pipes() as pipes:
            pipes.report_asset_materialization({"pid": os.getpid()})
            time.sleep(60)
        """,
    )
    pids: list[int] = []

    @dg.asset
    async def orders(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]  # Dagster takes no hint of an async generator
        stream = AsyncPipesSubprocessClient().stream(context=context, command=command)
        async with aclosing(stream):
            async for result in stream:
                assert isinstance(result, dg.MaterializeResult)
                assert result.metadata is not None
                pid: Any = result.metadata["pid"]
                pids.append(pid.value)
                break
        assert not Path(f"/proc/{pids[0]}").exists()
        yield result

    assert materialize(orders).ok


# Readers and injectors.

READERS: list[Callable[[Path], dg.PipesMessageReader | None]] = [
    lambda folder: None,
    lambda folder: PipesChannelMessageReader(FileChannel(folder / "channel")),
    lambda folder: dg.PipesTempFileMessageReader(),
    lambda folder: dg.PipesFileMessageReader(str(folder / "messages")),
]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "injector", [None, dg.PipesEnvContextInjector(), dg.PipesTempFileContextInjector()]
)
def test_any_reader_and_injector(
    reader: Callable[[Path], dg.PipesMessageReader | None],
    injector: dg.PipesContextInjector | None,
    tmp_path: Path,
) -> None:
    client = AsyncPipesSubprocessClient(context_injector=injector, message_reader=reader(tmp_path))
    command = script(tmp_path, REPORTS.replace("2", "pipes.extras['n']", 1))
    run = materialize(streaming(command, client, checks=[CHECK], extras={"n": 5}))
    assert run.ok, run.failure
    assert run.materializations[0].metadata["total_orders"].value == 5
    assert [e.message for e in run.engine_events][-1].endswith("exit code 0")  # type: ignore[union-attr]  # it has one


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_reader_of_dagsters_that_dies_fails_the_step(tmp_path: Path) -> None:
    """Its run would have been a success, without what came after the bad line."""
    client = AsyncPipesSubprocessClient(message_reader=dg.PipesTempFileMessageReader())
    run = materialize(streaming(script(tmp_path, GARBAGE), client))
    assert not run.ok
    assert "reader thread failed" in run.failure_metadata["reasons"]


def test_a_reader_of_dagsters_is_read_to_its_end(tmp_path: Path) -> None:
    """What it delivers after the process has ended counts."""
    command = script(
        tmp_path,
        """
        with open_pipes() as pipes:
            for number in range(5000):
                pipes.report_custom_message(number)
            pipes.report_asset_materialization({"n": 1})
        """,
    )
    pipes = AsyncPipesSubprocessClient(message_reader=dg.PipesTempFileMessageReader())
    custom: list[Any] = []

    @dg.asset
    async def orders(context: dg.AssetExecutionContext) -> Any:
        invocation = await pipes.run(context=context, command=command)
        custom.extend(invocation.get_custom_messages())
        return invocation.get_results()

    assert materialize(orders).ok
    assert custom == list(range(5000))


def test_numbers_that_json_has_not_come_through_a_reader_of_dagsters(tmp_path: Path) -> None:
    """Stock scripts send them."""
    body = """
with open_pipes() as pipes:
    pipes.report_asset_materialization({"ratio": float("nan"), "most": float("inf")})
"""
    command = [sys.executable, str(write_script(tmp_path, "dagster_pipes", body))]
    client = AsyncPipesSubprocessClient(message_reader=dg.PipesTempFileMessageReader())
    run = materialize(streaming(command, client))
    assert run.ok, run.failure
    metadata = run.materializations[0].metadata
    assert math.isnan(metadata["ratio"].value)  # type: ignore[arg-type]  # a float's
    assert metadata["most"].value == math.inf


@pytest.mark.parametrize("kind", [AsyncPipesSubprocessClient, PipesSubprocessClient])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("message_reader", "file"),
        ("context_injector", object()),
        ("strict", "yes"),
        ("forward_stdio", None),
        ("termination_timeout_seconds", -1),
        ("env", [1]),
        ("env", {"A": None}),
        ("cwd", 3),
    ],
)
def test_options_are_checked_and_named(kind: Any, option: str, value: Any) -> None:
    with pytest.raises(InvalidParameterError, match=f"^{kind.__name__}: `{option}`"):
        kind(**{option: value})


async def test_options_of_a_stream_are_checked() -> None:
    context: Any = dg.build_asset_context()
    stream = AsyncPipesSubprocessClient().stream(
        context=context,
        command="true",
        implicit_materializations="yes",  # type: ignore[arg-type]  # what is tested
    )
    with pytest.raises(InvalidParameterError, match="implicit_materializations"):
        await anext(stream)


# The sync client.


def test_the_sync_client_in_the_place_of_dagsters(tmp_path: Path) -> None:
    """Only the resource changes: the asset asks for Dagster's own."""
    command = script(tmp_path, REPORTS)

    @dg.asset(check_specs=[dg.AssetCheckSpec(CHECK, asset="orders")])
    def orders(context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient):  # type: ignore[no-untyped-def]  # Dagster takes no hint of an async generator
        return pipes.run(context=context, command=command).get_results()

    run = materialize(orders, resources={"pipes": PipesSubprocessClient()})
    assert run.ok
    assert len(run.materializations) == len(run.checks) == 1
    assert run.engine_events


def test_the_sync_client_fails_as_the_async_one_does(tmp_path: Path) -> None:
    command = script(tmp_path, f"{REPORTS}sys.exit(3)\n")

    @dg.asset(check_specs=[dg.AssetCheckSpec(CHECK, asset="orders")])
    def orders(context: dg.AssetExecutionContext, pipes: PipesSubprocessClient):  # type: ignore[no-untyped-def]  # Dagster takes no hint of an async generator
        return pipes.run(context=context, command=command).get_results()

    run = materialize(orders, resources={"pipes": PipesSubprocessClient()})
    assert not run.ok
    assert run.failure_metadata["exit_code"] == 3
    assert len(run.materializations) == len(run.checks) == 1


async def test_assets_that_are_called_directly(tmp_path: Path) -> None:
    """As tests call them; the sync one blocks the loop, as calling it does."""
    command = script(tmp_path, REPORTS)

    @dg.asset
    async def orders(context: dg.AssetExecutionContext) -> Any:
        return (await AsyncPipesSubprocessClient().run(context=context, command=command)).result

    @dg.asset
    def sync_orders(context: dg.AssetExecutionContext) -> Any:
        return PipesSubprocessClient().run(context=context, command=command).result

    awaited: Any = orders(dg.build_asset_context())
    assert (await awaited).outcome.ok
    blocked: Any = sync_orders(dg.build_asset_context())
    assert blocked.outcome.ok


def test_output_is_the_steps_or_nobodys(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = script(
        tmp_path,
        """
        with open_pipes() as pipes:
            print("to stdout")
            print("to stderr", file=sys.stderr)
            pipes.report_asset_materialization({})
        """,
    )
    assert materialize(streaming(command)).ok
    shown = capfd.readouterr()
    assert "to stdout\n" in shown.out
    assert "to stderr\n" in shown.err
    assert materialize(streaming(command, AsyncPipesSubprocessClient(forward_stdio=False))).ok
    shown = capfd.readouterr()
    assert "to stdout" not in shown.out
    assert "to stderr" not in shown.err


def test_importing_the_package_imports_no_dagster() -> None:
    import subprocess

    check = (
        "import asyncpipes, sys; assert not {'dagster', 'asyncpipes.dagster'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


# What is kept of a step that fails.


HOLDING = """
with open_pipes(handle_signals=False) as pipes:
    for key in ("a", "b", "c"):
        pipes.report_asset_materialization({"n": 1}, asset_key=key)
    try:
        Path(sys.argv[1], "reported").touch()
        wait_for(f"{sys.argv[1]}/end")
    finally:
        time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize("seconds", [0, 1])
@pytest.mark.parametrize("cleaning", ["none", "awaits", "holds"])
def test_what_a_failing_asset_has_not_taken_is_kept(
    cleaning: str, seconds: float, tmp_path: Path
) -> None:
    """Whoever lets go of the stream, and when: what it holds may be what it fails for.

    However long the script takes to end, be it longer than its step.
    """
    command = [*script(tmp_path, HOLDING), str(tmp_path), str(seconds)]
    client = AsyncPipesSubprocessClient()

    @dg.multi_asset(specs=[dg.AssetSpec(key) for key in "abc"])
    async def three(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]  # Dagster takes no hint of an async generator
        stream = client.stream(context=context, command=command)
        holder = [stream] if cleaning == "holds" else []
        try:
            async for result in stream:
                reported = (tmp_path / "reported").exists
                await until(reported, "all three are reported, which they may never be")
                await asyncio.sleep(0.05)
                if result.asset_key == dg.AssetKey("a"):
                    raise ValueError("not this one")
                yield result
        finally:
            if cleaning != "holds":
                del stream
            if cleaning != "none":
                await asyncio.sleep(0.1)
            holder.clear()

    run = materialize(three)
    assert not run.ok
    assert "not this one" in run.failure.error.to_string()
    assert sorted(made.asset_key.to_user_string() for made in run.materializations) == ["b", "c"]


def test_what_an_asset_leaves_of_its_own_will_is_not_kept(tmp_path: Path) -> None:
    command = [*script(tmp_path, HOLDING), str(tmp_path), "0"]
    client = AsyncPipesSubprocessClient()

    @dg.multi_asset(specs=[dg.AssetSpec(key) for key in "abc"])
    async def three(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]  # Dagster takes no hint of an async generator
        async for result in client.stream(context=context, command=command):
            yield result
            break
        for key in "bc":
            yield dg.MaterializeResult(asset_key=key, metadata={"own": True})

    run = materialize(three)
    assert run.ok
    assert ["own" in made.metadata for made in run.materializations] == [False, True, True]


def test_a_fault_at_the_very_end_keeps_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log line that Dagster cannot write is known when all of them have been tried."""

    def refuse(self: Any, message: Any) -> None:
        if "last words" in str(message):
            raise OSError("disk full")
        handle(self, message)

    handle = dg.PipesMessageHandler.handle_message
    monkeypatch.setattr(dg.PipesMessageHandler, "handle_message", refuse)
    body = f"{REPORTS}    pipes.log.info('last words')\n"
    run = materialize(running(script(tmp_path, body), checks=[CHECK]))
    assert not run.ok
    assert "disk full" in run.failure.user_failure_data.description
    assert len(run.materializations) == len(run.checks) == 1


def test_what_is_kept_is_as_what_is_yielded(tmp_path: Path) -> None:
    body = """
        with open_pipes() as pipes:
            pipes.report_asset_materialization({"n": 1}, data_version="v7")
            pipes.report_asset_check("declared", True)
        """
    client = AsyncPipesSubprocessClient()

    def asset(command: list[str]) -> dg.AssetsDefinition:
        @dg.asset(
            code_version="7",
            check_specs=[dg.AssetCheckSpec("declared", asset="orders", blocking=True)],
        )
        async def orders(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]  # Dagster takes no hint here
            done = await client.run(context=context, command=command)
            return done.get_materialize_result()

        return orders

    yielded = materialize(asset(script(tmp_path, body)))
    failing = f"{body}\n        sys.exit(1)"
    kept = materialize(asset(script(tmp_path, failing, "failing.py")))
    assert yielded.ok
    assert not kept.ok
    for run in (yielded, kept):
        (made,) = run.materializations
        assert made.tags is not None
        assert made.tags["dagster/code_version"] == "7"
        assert made.tags["dagster/data_version"] == "v7"
        (check,) = run.checks
        assert check.blocking is True


def test_what_a_step_may_not_yield_is_not_kept(tmp_path: Path) -> None:
    body = """
        with open_pipes() as pipes:
            pipes.report_asset_check("undeclared", True)
            pipes.report_asset_check("declared", True)
        sys.exit(1)
        """
    run = materialize(running(script(tmp_path, body), checks=["declared"]))
    assert [check.check_name for check in run.checks] == ["declared"]
    assert any("the check undeclared of orders is not kept" in text for text in run.texts)


def test_results_that_dagster_refuses_are_told_within_bounds(tmp_path: Path) -> None:
    body = """
        with open_pipes():
            message = '{"__dagster_pipes_version":"0.1","method":"report_asset_check","params":'
            message += '{"asset_key":"orders","check_name":"c%d","passed":true,"severity":"ERROR",'
            message += '"metadata":{"n":{"type":"int","raw_value":"no number"}}}}\\n'
            with open(messages_file(), "a") as file:
                file.writelines(message % number for number in range(500))
        """
    run = materialize(running(script(tmp_path, body)))
    assert not run.ok
    description = run.failure.user_failure_data.description
    assert "Dagster did not take the check c0" in description
    assert "480 more results" in description
    assert len(description) < 20_000
    assert len([line for line in run.lines if line.level == "ERROR"]) == 20


# Siblings of a script that fails.


def test_a_retry_waits_for_what_the_first_try_left_behind(tmp_path: Path) -> None:
    """``gather`` leaves the sibling running, and Dagster's loop stands still then."""
    failing = script(
        tmp_path,
        f"""
        wait_for("{tmp_path}/sibling")
        with open_pipes() as pipes:
            again = pipes.retry_number
            if again:
                pid = int(Path("{tmp_path}/sibling").read_text())
                pipes.report_custom_message(Path(f"/proc/{{pid}}").exists())
            pipes.report_asset_materialization({{"try": again}}, asset_key="a")
        sys.exit(not again)
        """,
    )
    sibling = script(
        tmp_path,
        f"""
        import signal
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with open_pipes(handle_signals=False) as pipes:
            pipes.report_asset_materialization({{"try": pipes.retry_number}}, asset_key="b")
            if not pipes.retry_number:
                Path("{tmp_path}/part").write_text(str(os.getpid()))
                os.rename("{tmp_path}/part", "{tmp_path}/sibling")
                time.sleep(600)
        """,
        "sibling.py",
    )
    client = AsyncPipesSubprocessClient(termination_timeout_seconds=1)
    custom: list[Any] = []

    @dg.multi_asset(
        specs=[dg.AssetSpec("a"), dg.AssetSpec("b")], retry_policy=dg.RetryPolicy(max_retries=1)
    )
    async def both(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]  # Dagster takes no hint of an async generator
        done = await asyncio.gather(
            client.run(context=context, command=failing),
            client.run(context=context, command=sibling),
        )
        for invocation in done:
            custom.extend(invocation.get_custom_messages())
            for result in invocation.get_results():
                yield result

    run = materialize(both)
    assert run.ok
    assert custom == [False], "the first try's script is gone"
    tries = [
        (made.asset_key.to_user_string(), made.metadata["try"].value)
        for made in run.materializations
    ]
    assert tries.index(("b", 0)) < tries.index(("a", 1)), "what was reported last is the retry's"
    assert tries[-1] == ("b", 1)


# The rest of the program.


def test_the_sync_client_leaves_the_threads_event_loop(tmp_path: Path) -> None:
    command = script(tmp_path, REPORTS)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    seen: list[asyncio.AbstractEventLoop] = []

    @dg.asset(check_specs=[dg.AssetCheckSpec(CHECK, asset="orders")])
    def orders(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]  # Dagster takes no hint here
        results = PipesSubprocessClient().run(context=context, command=command).get_results()
        seen.append(asyncio.get_event_loop())
        return results

    try:
        assert materialize(orders).ok
        assert seen == [loop]
    finally:
        asyncio.set_event_loop(None)
        loop.close()
