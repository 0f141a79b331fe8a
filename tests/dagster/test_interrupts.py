"""Termination: the scripts are gone, ``finally`` blocks have run, the step was interrupted."""

# Without postponed annotations: Dagster looks at the one of an asset's ``context``.
import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._utils.interrupts import capture_interrupts

from asyncpipes.dagster import AsyncPipesSubprocessClient
from asyncpipes.dagster.signals import Signals
from tests.support import PATIENCE

PROGRAM = Path(__file__).with_name("interrupted.py")
ROOT = Path(__file__).parents[2]


class Terminated:
    """The program of ``interrupted.py`` on its way, in a process group of its own."""

    def __init__(self, folder: Path, mode: str, words: str, command: list[str]) -> None:
        self.folder = folder
        self.count = 4 if mode in ("gather", "group") or mode.startswith("streams") else 1
        home = folder / "home"
        home.mkdir()
        (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        environment = {
            **os.environ,
            "MODE": mode,
            "WORDS": words,
            "FOLDER": str(folder),
            "DAGSTER_HOME": str(home),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        self.process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_until_launched(self) -> None:
        names = [f"pid-{number + 1}" for number in range(self.count)]
        self.wait(lambda: all((self.folder / name).exists() for name in names))

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "it never came to that"
            time.sleep(0.01)

    def end(self) -> tuple[str, str]:
        return self.process.communicate(timeout=PATIENCE)

    @property
    def pids(self) -> list[int]:
        return [int(path.read_text()) for path in self.folder.glob("pid-*")]

    @property
    def told(self) -> int:
        """How many scripts got a SIGINT that they do not ignore."""
        return len(list(self.folder.glob("interrupted-*")))

    @property
    def left(self) -> bool:
        """Whether the asset's ``finally`` block came to its end."""
        return (self.folder / "left").exists()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Terminated]]:
    started: list[Terminated] = []

    def start(mode: str, words: str = "", command: list[str] | None = None) -> Terminated:
        command = command or [sys.executable, str(PROGRAM)]
        started.append(Terminated(tmp_path, mode, words, command))
        return started[-1]

    yield start
    for each in started:
        (each.folder / "end").touch()
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
        each.process.communicate()
        for pid in each.pids:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


MODES = ["before", "between", "during", "blocked", "run", "gather", "background", "sync", "nested"]
MODES += ["streams", "streams, between"]
if sys.version_info >= (3, 11):
    MODES.append("group")


@pytest.mark.parametrize("mode", MODES)
def test_scripts_end_and_finally_blocks_run(mode: str, start: Callable[..., Terminated]) -> None:
    """SIGTERM and SIGINT by turns; the scripts end as soon as they are told."""
    number = [signal.SIGTERM, signal.SIGINT][MODES.index(mode) % 2]
    program = start(mode)
    program.wait_until_launched()
    if mode in ("between", "blocked", "streams, between"):
        program.wait((program.folder / "suspended").exists)
    program.process.send_signal(number)
    out, err = program.end()
    told = json.loads(out.splitlines()[-1])
    assert told["error"] == "DagsterExecutionInterruptedError", err
    assert told["source"] == "ErrorSource.INTERRUPT"
    assert told["raised"] == "DagsterExecutionInterruptedError"
    assert told["threads"] == []
    assert program.told == program.count
    assert not any(map(is_alive, program.pids))
    assert program.left
    assert "never awaited" not in err
    assert "was destroyed" not in err


@pytest.mark.parametrize("mode", ["run", "sync", "late"])
def test_what_was_reported_by_then_is_kept(mode: str, start: Callable[..., Terminated]) -> None:
    """Even what the script reports because it is interrupted."""
    program = start(mode, "" if mode == "late" else "reporting")
    program.wait_until_launched()
    program.process.send_signal(signal.SIGINT)
    out, err = program.end()
    assert json.loads(out.splitlines()[-1])["materializations"] == 1, err


@pytest.mark.parametrize("mode", ["during", "between"])
def test_what_a_stream_had_not_handed_over_is_kept(
    mode: str, start: Callable[..., Terminated]
) -> None:
    """Of the first result the asset awaits something, or it has yielded it."""
    program = start(mode, "checking")
    program.wait_until_launched()
    program.wait((program.folder / "suspended").exists)
    program.process.send_signal(signal.SIGINT)
    out, err = program.end()
    told = json.loads(out.splitlines()[-1])
    assert told["checks"] == 2, err
    # What was being yielded when the signal came is Dagster's, which drops it.
    assert told["materializations"] == (mode == "during")


def test_what_a_script_that_had_ended_reported_is_kept(start: Callable[..., Terminated]) -> None:
    """``gather`` forgets what it had of one when another is cancelled."""
    program = start("gather of one that has ended")
    program.wait((program.folder / "pid-1").exists)
    program.wait((program.folder / "pid-2").exists)
    program.wait(lambda: not is_alive(int((program.folder / "pid-1").read_text())))
    time.sleep(0.3)  # its run() has returned
    program.process.send_signal(signal.SIGINT)
    out, err = program.end()
    assert json.loads(out.splitlines()[-1])["materializations"] == 1, err


@pytest.mark.parametrize("mode", ["after a run", "after a stream"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_rest_of_an_asset_is_interrupted_in_order_too(
    mode: str, number: signal.Signals, start: Callable[..., Terminated]
) -> None:
    """No script runs any more. A loop that was abandoned would leave threads, and a program
    that never ends.
    """
    program = start(mode, "short")
    program.wait((program.folder / "suspended").exists)
    program.process.send_signal(number)
    out, err = program.end()
    told = json.loads(out.splitlines()[-1])
    assert told["error"] == "DagsterExecutionInterruptedError", err
    assert told["threads"] == []
    assert program.left


@pytest.mark.parametrize("mode", ["before", "run"])
def test_a_retry_of_an_interrupted_step_launches_nothing(
    mode: str, start: Callable[..., Terminated]
) -> None:
    """Dagster tries again whatever ended a step, in the same process at least."""
    program = start(mode, "retried")
    program.wait_until_launched()
    program.process.send_signal(signal.SIGINT)
    out, err = program.end()
    assert json.loads(out.splitlines()[-1])["raised"] == "DagsterMaxRetriesExceededError", err
    assert err.count("Started re-execution") == 2
    assert (program.folder / "launches").read_text().split() == ["1"]


@pytest.mark.parametrize("mode", ["run", "sync"])
def test_a_script_that_goes_on_is_heard_to_its_end(
    mode: str, start: Callable[..., Terminated]
) -> None:
    program = start(mode, "unforwarded reporting")
    program.wait_until_launched()
    program.process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        program.process.wait(0.5)
    (program.folder / "end").touch()
    out, err = program.end()
    told = json.loads(out.splitlines()[-1])
    assert told["source"] == "ErrorSource.INTERRUPT", err
    assert told["materializations"] == 1


@pytest.mark.parametrize("mode", ["between", "gather", "sync"])
def test_stubborn_scripts_are_killed(mode: str, start: Callable[..., Terminated]) -> None:
    program = start(mode, "stubborn")
    program.wait_until_launched()
    if mode == "between":
        program.wait((program.folder / "suspended").exists)
    program.process.send_signal(signal.SIGINT)
    out, err = program.end()
    assert json.loads(out.splitlines()[-1])["source"] == "ErrorSource.INTERRUPT", err
    assert not any(map(is_alive, program.pids))
    assert program.left


@pytest.mark.parametrize(
    ("mode", "number"),
    [
        ("before", signal.SIGTERM),
        ("during", signal.SIGINT),
        ("between", signal.SIGTERM),
        ("gather", signal.SIGINT),
        ("streams", signal.SIGTERM),
        ("streams, between", signal.SIGINT),
    ],
)
def test_in_a_process_of_the_steps_own(
    mode: str, number: signal.Signals, start: Callable[..., Terminated]
) -> None:
    """The multiprocess executor, as Dagster's command and web server use it."""
    dagster = Path(sys.executable).with_name("dagster")
    command = [str(dagster), "asset", "materialize", "--select", "orders", "-f", str(PROGRAM)]
    program = start(mode, command=command)
    program.wait_until_launched()
    if mode.endswith("between") or mode == "during":
        program.wait((program.folder / "suspended").exists)
    program.process.send_signal(number)
    out, err = program.end()
    assert "interrupted all active child processes" in out + err
    assert program.told == program.count
    assert not any(map(is_alive, program.pids))
    assert program.left


def test_a_script_that_is_not_to_be_interrupted(start: Callable[..., Terminated]) -> None:
    """``forward_termination=False``: it goes on to its end, and then the step ends."""
    program = start("gather", "unforwarded")
    program.wait_until_launched()
    program.process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        program.process.wait(0.5)
    assert all(map(is_alive, program.pids))
    (program.folder / "end").touch()
    out, err = program.end()
    assert json.loads(out.splitlines()[-1])["source"] == "ErrorSource.INTERRUPT", err
    assert program.told == 0


def test_nor_between_two_yields(start: Callable[..., Terminated]) -> None:
    program = start("between", "unforwarded")
    program.wait((program.folder / "suspended").exists)
    program.process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        program.process.wait(0.5)
    assert all(map(is_alive, program.pids))
    (program.folder / "end").touch()
    out, err = program.end()
    assert json.loads(out.splitlines()[-1])["source"] == "ErrorSource.INTERRUPT", err
    assert program.told == 0


# The moments in which there is no script yet, or none any more.


@pytest.mark.parametrize("mode", ["opening", "launching", "closing"])
def test_at_the_edges(mode: str, start: Callable[..., Terminated]) -> None:
    """The signal comes in exactly that moment, from the program itself."""
    program = start(mode)
    (program.folder / "end").touch()  # scripts that are not told end by themselves
    out, err = program.end()
    told = json.loads(out.splitlines()[-1])
    assert told["error"] == "DagsterExecutionInterruptedError", err
    assert told["source"] == "ErrorSource.INTERRUPT"
    assert told["threads"] == []
    assert not any(map(is_alive, program.pids))
    assert program.left
    assert "never awaited" not in err
    if mode == "opening":
        assert program.pids == [], "nothing is launched any more"


def test_a_launch_that_is_interrupted_goes_on(start: Callable[..., Terminated]) -> None:
    """With ``forward_termination=False`` this too is a script that ends by itself."""
    program = start("launching", "unforwarded reporting")
    program.wait_until_launched()
    with pytest.raises(subprocess.TimeoutExpired):
        program.process.wait(0.5)
    assert all(map(is_alive, program.pids))
    (program.folder / "end").touch()
    out, err = program.end()
    told = json.loads(out.splitlines()[-1])
    assert told["source"] == "ErrorSource.INTERRUPT", err
    assert told["materializations"] == 1
    assert program.told == 0


# Where no signal arrives: a step in a thread.

WAITING = """
import sys, time
from pathlib import Path
from asyncpipes import open_pipes
with open_pipes():
    Path(sys.argv[1]).touch()
    time.sleep(60)
"""


class InThread:
    """A step that runs in a thread, as some executors have it."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self._launched = folder / "launched"
        self._instance = instance
        self.left = False
        self.raised: BaseException | None = None
        self.thread = threading.Thread(target=self._materialize)

    def start(self) -> None:
        self.thread.start()
        deadline = time.monotonic() + PATIENCE
        while not self._launched.exists():
            assert self.thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _materialize(self) -> None:
        command = [sys.executable, "-c", WAITING, str(self._launched)]

        @dg.asset
        async def orders(context: dg.AssetExecutionContext) -> Any:
            try:
                pipes = AsyncPipesSubprocessClient()
                return (await pipes.run(context=context, command=command)).get_results()
            finally:
                self.left = True

        try:
            dg.materialize([orders], instance=self._instance)
        except BaseException as error:
            self.raised = error

    def assert_interrupted(self) -> None:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        assert isinstance(self.raised, dg.DagsterExecutionInterruptedError)
        assert self.left


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp() as instance:
        yield instance


def test_in_a_thread_by_the_runs_status(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """What Terminate in the UI does first, whoever runs the step."""
    step = InThread(tmp_path, instance)
    step.start()
    (run,) = instance.get_runs()
    instance.report_run_canceling(run)
    step.assert_interrupted()


def test_in_a_thread_by_an_interrupt_that_dagster_has_taken(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    step = InThread(tmp_path, instance)
    with capture_interrupts():
        step.start()
        os.kill(os.getpid(), signal.SIGTERM)
        step.assert_interrupted()


def test_in_a_thread_when_the_main_one_has_ended(tmp_path: Path) -> None:
    program = f"""
import threading
from pathlib import Path
import dagster as dg
from tests.dagster.test_interrupts import InThread
step = InThread(Path({str(tmp_path)!r}), dg.DagsterInstance.ephemeral())
step.start()
def tell():
    step.thread.join()
    print(step.left, type(step.raised).__name__, flush=True)
threading.Thread(target=tell).start()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        timeout=PATIENCE,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "DagsterExecutionInterruptedError"], done.stderr


# Handlers of others.


def test_handlers_are_dagsters_again_afterwards(tmp_path: Path) -> None:
    @dg.asset
    def another() -> None: ...

    assert dg.materialize([another]).success
    # Dagster puts back one handler for both.
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    seen: list[Any] = []
    program = (
        "from asyncpipes import open_pipes\n"
        "with open_pipes() as pipes: pipes.report_asset_materialization({})"
    )

    @dg.asset
    async def orders(context: dg.AssetExecutionContext) -> Any:
        seen.append(signal.getsignal(signal.SIGTERM))
        command = [sys.executable, "-c", program]
        async for _ in AsyncPipesSubprocessClient().stream(context=context, command=command):
            seen.append(signal.getsignal(signal.SIGTERM))
        seen.append(signal.getsignal(signal.SIGTERM))
        return dg.MaterializeResult()

    assert dg.materialize([orders]).success
    dagsters, during, afterwards = seen
    assert not isinstance(getattr(dagsters, "__self__", None), Signals)
    for ours in (during, afterwards):  # until the step ends, whatever else it awaits
        assert isinstance(getattr(ours, "__self__", None), Signals)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def test_without_dagsters_handlers_none_are_changed(tmp_path: Path) -> None:
    """Outside of a run, signals are asyncio's, or the program's."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    during = []

    @dg.asset
    async def orders(context: dg.AssetExecutionContext) -> Any:
        launched = tmp_path / "launched"
        command = [sys.executable, "-c", WAITING, str(launched)]
        running = asyncio.ensure_future(
            AsyncPipesSubprocessClient().run(context=context, command=command)
        )
        while not launched.exists():
            await asyncio.sleep(0.01)
        during.append((signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    called: Any = orders(dg.build_asset_context())
    await called
    assert during == [before]


# Several streams at once.


def test_streams_that_are_merged_leave_each_other_alone(tmp_path: Path) -> None:
    """Each step of them is a task of the kind that Dagster's own is."""
    program = (
        "import sys, time\nfrom asyncpipes import open_pipes\n"
        "with open_pipes() as pipes:\n"
        "    time.sleep(0.05 * int(sys.argv[1]))\n"
        "    pipes.report_asset_materialization({}, asset_key='a' + sys.argv[1])\n"
    )
    pipes = AsyncPipesSubprocessClient()

    @dg.multi_asset(specs=[dg.AssetSpec(f"a{number}") for number in range(6)])
    async def six(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]  # Dagster takes no hint of an async generator
        streams = [
            pipes.stream(context=context, command=[sys.executable, "-c", program, str(number)])
            for number in range(6)
        ]
        tasks = {asyncio.ensure_future(anext(stream)): stream for stream in streams}
        while tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                stream = tasks.pop(task)
                try:
                    yield task.result()
                except StopAsyncIteration:
                    continue
                tasks[asyncio.ensure_future(anext(stream))] = stream

    result = dg.materialize([six])
    assert result.success
    assert len(result.asset_materializations_for_node("six")) == 6
