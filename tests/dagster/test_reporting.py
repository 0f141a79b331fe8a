"""Logs, engine events and output of a step; the lanes that keep them off the loop."""

# Without postponed annotations: Dagster looks at the one of an asset's ``context``.
import asyncio
import re
import threading
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from asyncpipes.channels.file import FileChannel
from asyncpipes.dagster import AsyncPipesSubprocessClient, PipesChannelMessageReader, reporting
from asyncpipes.dagster.lanes import Lane
from tests.dagster.steps import Line, materialize, script, streaming
from tests.support import PATIENCE

MADE = "    pipes.report_asset_materialization({'n': 1})\n"


def test_levels_and_order(tmp_path: Path) -> None:
    levels = ["debug", "info", "warning", "error", "critical"]
    body = "with open_pipes() as pipes:\n" + MADE
    body += f"    for n in range(20):\n        for level in {levels}:\n"
    body += "            getattr(pipes.log, level)('%s %d', level, n)\n"
    run = materialize(streaming(script(tmp_path, body)))
    assert run.lines == [
        Line(level.upper(), f"{level} {number}") for number in range(20) for level in levels
    ]


def test_the_fields_of_a_line_are_shown(tmp_path: Path) -> None:
    body = "import logging\nwith open_pipes() as pipes:\n" + MADE
    body += "    from asyncpipes import PipesHandler\n"
    body += "    logging.getLogger('my.library').addHandler(PipesHandler())\n"
    body += "    try: 1 / 0\n    except ZeroDivisionError: pipes.log.exception('it failed')\n"
    body += "    logging.getLogger('my.library').warning('seen too')\n"
    failed, seen = materialize(streaming(script(tmp_path, body))).lines
    assert failed.level == "ERROR"
    assert failed.text.startswith("it failed\nTraceback (most recent call last):\n")
    assert failed.text.endswith("ZeroDivisionError: division by zero")
    assert seen == Line("WARNING", "my.library: seen too")


def test_start_and_end_are_engine_events(tmp_path: Path) -> None:
    body = "with open_pipes() as pipes:\n" + MADE + "    print(os.getpid())\nsys.exit(3)\n"
    command = script(tmp_path, body)
    started, ended = materialize(streaming(command)).engine_events
    pid = started.engine_event_data.metadata["pid"].value
    assert started.message == f"[pipes] started process {pid}"
    assert started.engine_event_data.metadata["command"].value == " ".join(command)
    assert ended.message == f"[pipes] process {pid} ended with exit code 3"
    assert ended.engine_event_data.metadata["exit_code"].value == 3


def test_captured_output_is_the_steps(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    body = "with open_pipes() as pipes:\n" + MADE
    body += "    print('captured')\n    print('too', file=sys.stderr)\n"
    channel = FileChannel(include_stdio_in_messages=True)
    client = AsyncPipesSubprocessClient(
        message_reader=PipesChannelMessageReader(channel), forward_stdio=False
    )
    assert materialize(streaming(script(tmp_path, body), client)).ok
    shown = capfd.readouterr()
    assert "captured\n" in shown.out
    assert "too\n" in shown.err


def test_a_result_does_not_wait_for_log_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Dagster's log takes no line at all until the result is there; the excess is counted."""
    monkeypatch.setattr(reporting, "MAX_LOG_LINES", 50)
    seen = threading.Event()

    body = "with open_pipes() as pipes:\n"
    body += "    for n in range(1000): pipes.log.info('line %d', n)\n"
    body += MADE + f"    wait_for({str(tmp_path / 'seen')!r})\n    pipes.log.info('the last one')\n"
    command = script(tmp_path, body)
    original = dg.PipesMessageHandler.handle_message

    def held(self: Any, message: Any) -> None:
        if message["method"] == "log":
            assert seen.wait(PATIENCE)
        original(self, message)

    monkeypatch.setattr(dg.PipesMessageHandler, "handle_message", held)

    @dg.asset
    async def orders(context: dg.AssetExecutionContext) -> Any:
        async for result in AsyncPipesSubprocessClient().stream(context=context, command=command):
            yield result
            seen.set()
            (tmp_path / "seen").touch()

    run = materialize(orders)
    assert run.ok
    (counted,) = [line for line in run.lines if "came faster" in line.text]
    assert counted.level == "WARNING"
    logged = [int(text.split()[1]) for text in run.texts if text.startswith("line ")]
    spilled = re.findall(r"^INFO: line (\d+)$", capfd.readouterr().err, re.MULTILINE)
    assert logged == sorted(logged)
    assert 50 <= len(logged) < 1000
    assert sorted([*logged, *map(int, spilled)]) == list(range(1000))
    assert f"{len(spilled):,} log lines" in counted.text


def test_log_lines_hold_the_end_of_a_step_up_for_so_long_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reporting, "LOG_SECONDS", 0.1)
    release = threading.Event()
    taken = tmp_path / "taken"
    original = dg.PipesMessageHandler.handle_message

    def held(self: Any, message: Any) -> None:
        if message["method"] == "log" and message["params"]["message"].startswith("line"):
            taken.touch()
            assert release.wait(PATIENCE)
        original(self, message)

    monkeypatch.setattr(dg.PipesMessageHandler, "handle_message", held)
    cut = Lane.cut

    def cutting(self: Any) -> Any:
        rest = cut(self)
        release.set()  # or the lane, and with it the step, would not end
        return rest

    monkeypatch.setattr(Lane, "cut", cutting)
    body = "with open_pipes() as pipes:\n" + MADE
    body += "    for n in range(5): pipes.log.info('line %d', n)\n"
    body += f"    wait_for({str(taken)!r})\n"  # or the first line might be cut too
    run = materialize(streaming(script(tmp_path, body)))
    assert run.ok
    assert [text for text in run.texts if text.startswith("line")] == ["line 0"]
    assert (run.engine_events[-1].message or "").endswith("exit code 0"), "which is no line"
    assert any("4 log lines" in text for text in run.texts)
    assert len(re.findall(r"^INFO: line [1-4]$", capfd.readouterr().err, re.MULTILINE)) == 4


def test_a_log_that_dagster_cannot_write_fails_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = dg.PipesMessageHandler.handle_message

    def failing(self: Any, message: Any) -> None:
        if message["method"] == "log":
            raise OSError("the disk is full")
        original(self, message)

    monkeypatch.setattr(dg.PipesMessageHandler, "handle_message", failing)
    body = "with open_pipes() as pipes:\n" + MADE + "    pipes.log.info('x')\n"
    run = materialize(streaming(script(tmp_path, body)))
    assert not run.ok
    assert "1 log lines or events could not be written" in run.failure_metadata["reasons"]
    assert "the disk is full" in run.failure_metadata["reasons"]


def test_the_loop_is_never_blocked_by_dagsters_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard of all tests sees to that; here there is much for it to see."""
    monkeypatch.setattr(reporting, "LOG_SECONDS", PATIENCE)  # however busy the disk is
    body = "with open_pipes() as pipes:\n" + MADE
    body += "    for n in range(500): pipes.log.info('line %d', n)\n"
    with dg.DagsterInstance.local_temp() as instance:
        run = materialize(streaming(script(tmp_path, body)), instance=instance)
    assert run.ok
    assert len(run.lines) == 500


# Lanes.


async def test_a_lane_does_its_work_in_order_and_in_its_own_thread() -> None:
    done: list[int] = []
    threads = set()

    def work(items: list[int]) -> None:
        threads.add(threading.get_ident())
        done.extend(items)

    lane = Lane[int]("test", work, limit=10)
    for number in range(100):
        await lane.put(number)
    await lane.close()
    assert done == list(range(100))
    assert threads != {threading.get_ident()}
    assert len(threads) == 1


async def test_a_full_lane_says_so_and_is_waited_for() -> None:
    release, taken = threading.Event(), threading.Event()
    done: list[int] = []

    def work(items: list[int]) -> None:
        taken.set()
        assert release.wait(PATIENCE)
        done.extend(items)

    lane = Lane[int]("test", work, limit=2)
    lane.force(0)
    await asyncio.to_thread(taken.wait)
    assert lane.offer(1)
    assert lane.offer(2)
    assert not lane.offer(3)
    waiting = asyncio.create_task(lane.put(4))
    await asyncio.sleep(0)
    assert not waiting.done()
    release.set()
    await waiting
    await lane.close()
    assert done == [0, 1, 2, 4]


async def test_what_waits_in_a_lane_can_be_taken_back() -> None:
    release, taken = threading.Event(), threading.Event()
    done: list[int] = []

    def work(items: list[int]) -> None:
        taken.set()
        assert release.wait(PATIENCE)
        done.extend(items)

    lane = Lane[int]("test", work, limit=10)
    lane.force(0)
    await asyncio.to_thread(taken.wait)
    lane.force(1)
    lane.force(2)
    assert lane.cut() == [1, 2]
    release.set()
    await lane.close()
    assert done == [0]


async def test_a_lane_goes_on_after_an_error() -> None:
    done: list[int] = []

    def work(items: list[int]) -> None:
        if items == [1]:
            raise ValueError("one")
        done.extend(items)

    lane = Lane[int]("test", work, limit=10)
    for number in range(3):
        lane.force(number)
    await lane.close()
    assert done == [0, 2]
    assert lane.failed == 1
    assert isinstance(lane.error, ValueError)


async def test_a_lane_takes_several_at_once_where_asked_to() -> None:
    release, taken = threading.Event(), threading.Event()
    batches: list[list[int]] = []

    def work(items: list[int]) -> None:
        taken.set()
        assert release.wait(PATIENCE)
        batches.append(items)

    lane = Lane[int]("test", work, limit=10, at_most=3)
    lane.force(0)
    await asyncio.to_thread(taken.wait)
    for number in range(1, 6):
        lane.force(number)
    release.set()
    await lane.close()
    assert batches == [[0], [1, 2, 3], [4, 5]]


async def test_closing_a_lane_goes_on_through_a_cancellation() -> None:
    release, taken = threading.Event(), threading.Event()

    def work(items: list[int]) -> None:
        taken.set()
        assert release.wait(PATIENCE)

    lane = Lane[int]("test", work, limit=10)
    lane.force(0)
    await asyncio.to_thread(taken.wait)
    closing = asyncio.create_task(lane.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.sleep(0)
    assert not closing.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await closing


async def test_a_lane_is_waited_for_so_long_at_most() -> None:
    release, taken = threading.Event(), threading.Event()

    def work(items: list[int]) -> None:
        taken.set()
        assert release.wait(PATIENCE)

    lane = Lane[int]("test", work, limit=10)
    assert await lane.settle(0), "there is nothing to do"
    lane.force(0)
    await asyncio.to_thread(taken.wait)
    lane.force(1)
    assert not await lane.settle(0.01)
    assert lane.cut() == [1]
    release.set()
    assert await lane.settle(PATIENCE)
    await lane.close()


async def test_a_lane_that_was_never_used_has_no_thread() -> None:
    before = set(threading.enumerate())
    lane = Lane[int]("test", lambda items: None, limit=1)
    await lane.close()
    assert lane.cut() == []
    assert set(threading.enumerate()) <= before
