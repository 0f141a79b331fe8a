"""The rare ways through the adapter, each by itself: no process, no Dagster run."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import dagster as dg
import pytest

from asyncpipes import CustomMessageEvent, ExternalStreamEvent, GapEvent, HealthEvent, LogEvent
from asyncpipes.dagster import asset_task, failures, interrupts, reporting, signals
from asyncpipes.dagster.interrupts import Interrupts
from asyncpipes.dagster.lanes import Lane
from asyncpipes.dagster.reporting import Reporting
from asyncpipes.dagster.watched import Watched
from asyncpipes.errors import PipesError
from asyncpipes.protocol.events import MalformedEvent
from asyncpipes.protocol.exceptions import PipesException
from asyncpipes.protocol.outcome import Outcome
from tests.support import PATIENCE


class Session:
    def __init__(self) -> None:
        self.stopped: list[str] = []

    def stop(self, reason: str) -> None:
        self.stopped.append(reason)

    async def wait_over(self) -> None:
        await asyncio.sleep(0)


class Process:
    def __init__(self) -> None:
        self.done: list[str] = []

    def interrupt(self) -> None:
        self.done.append("SIGINT")

    def kill(self) -> None:
        self.done.append("SIGKILL")
        raise PipesError("it runs as another user")


def watched(*, forward: bool = True, launched: bool = True) -> Any:
    each: Any = Watched(None, forward=forward)  # type: ignore[arg-type]  # asked for in threads alone
    if launched:
        each.session, each.process = Session(), Process()
    return each


@pytest.fixture(autouse=True)
def _own_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# Interrupts.


async def test_what_was_not_launched_has_nothing_to_end() -> None:
    each = watched(launched=False)
    each.signal()
    each.interrupt()
    each.kill()
    await each.wait_over()
    assert each.interrupted


async def test_several_leave_one_by_one() -> None:
    first, second = watched(), watched()
    own = await Interrupts.watch(first)
    assert await Interrupts.watch(second) is own
    await own.leave(first)
    await own.leave(first)
    own.interrupt()
    assert not first.interrupted
    assert second.interrupted
    await own.leave(second)
    again = await Interrupts.watch(first)
    assert again is not own
    await again.leave(first)


async def test_a_further_signal_kills_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    each = watched()
    own = await Interrupts.watch(each)
    own.interrupt()
    own.interrupt()
    assert "SIGKILL" not in each.process.done, "at once it may be the same one"
    monkeypatch.setattr(interrupts, "_HASTE", -1.0)
    own.interrupt()
    assert "SIGKILL" in each.process.done
    await own.leave(each)
    own.interrupt()
    assert each.process.done.count("SIGKILL") == 1


async def test_a_signal_that_comes_too_late_is_dagsters(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    each = watched()
    own = await Interrupts.watch(each)
    own._signals._handle(signal.SIGTERM, None)
    assert each.process.done == ["SIGINT"], "in this moment"
    await own.leave(each)
    assert raised == [signal.SIGTERM]
    await asyncio.sleep(0)
    assert not each.interrupted


def test_a_signal_for_a_loop_that_is_closed_is_raised_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raised: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    loop = asyncio.new_event_loop()
    own = loop.run_until_complete(Interrupts.watch(watched()))
    loop.close()
    own._signals._handle(signal.SIGINT, None)
    assert raised == [signal.SIGINT]
    assert own._signals._pending is None, "or it would be told once more"


async def test_a_loop_that_is_blocked_gets_dagsters_handler_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[int] = []

    def handler(number: int, frame: object) -> None:
        told.append(number)

    handler.__module__ = "dagster._utils.interrupts"
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)
    each = watched()
    own = await Interrupts.watch(each)
    assert signal.getsignal(signal.SIGINT) == own._signals._handle
    own._signals._remind(signal.SIGINT)  # of nothing
    monkeypatch.setattr(own._signals, "_remind", lambda number: None)
    monkeypatch.setattr(signals, "_BLOCKED", -1.0)
    own._signals._handle(signal.SIGINT, None)
    own._signals._handle(signal.SIGINT, None)
    assert told == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is handler
    own._signals._pending, own._signals._pending_since = signal.SIGINT, 0.0
    own._signals._handle(signal.SIGINT, None)
    assert told == [signal.SIGINT], "there is none to give back"
    own._signals._pending = None
    await asyncio.sleep(0)
    assert each.interrupted
    await own.leave(each)


async def test_handlers_that_are_none_are_left() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    each = watched()
    own = await Interrupts.watch(each)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    await own.leave(each)


async def test_how_a_step_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def end(error: BaseException | None = None) -> int:
        if error is not None:
            raise error
        return 1

    async def ended(error: BaseException | None = None) -> asyncio.Task[int]:
        task = asyncio.ensure_future(end(error))
        await asyncio.wait([task])
        return task

    each = watched()
    own = await Interrupts.watch(each)
    own._step_has_ended(await ended())
    assert each.process.done == []
    own._step_has_ended(await ended(ValueError("the asset's")))
    assert each.process.done == ["SIGINT"], "its stream was left open"
    own.interrupt()
    own._step_has_ended(await ended())  # a result, for Dagster
    own._step_has_ended(await ended(ValueError("the asset's")))
    await own.leave(each)
    with pytest.raises(dg.DagsterExecutionInterruptedError):
        own._step_has_ended(await ended())


async def test_what_dagster_closes_ends_by_how_it_came_to_that() -> None:
    async def fail() -> None:
        raise ValueError("the asset's")

    each = watched()
    own = await Interrupts.watch(each)
    own._all_have_left.set()
    await own._end_all()
    assert each.session.stopped == ["Dagster interrupted the step"]
    step = asyncio.ensure_future(fail())
    await asyncio.wait([step])
    own._step_has_ended(step)
    await own._end_all()
    assert "ended before its script" in each.session.stopped[-1]
    await own.leave(each)


def test_the_step_after_an_interrupt_is_cancelled() -> None:
    each = watched()

    async def asset() -> AsyncGenerator[int, None]:
        own = await Interrupts.watch(each)
        own._interrupted_at = time.monotonic()
        yield 1
        own.resume()
        try:
            await asyncio.sleep(60)
        finally:
            await own.leave(each)

    loop = asyncio.new_event_loop()
    generator = asset()
    assert loop.run_until_complete(generator.__anext__()) == 1
    with pytest.raises(dg.DagsterExecutionInterruptedError):
        loop.run_until_complete(generator.__anext__())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def test_where_no_frame_tells_the_only_step_is_dagsters() -> None:
    """As under uvloop."""
    found: list[Any] = []

    async def asset() -> AsyncGenerator[int, None]:
        found.append(asset_task.driven_task(asyncio.get_running_loop()))
        yield 1

    loop = asyncio.new_event_loop()
    generator = asset()

    def run() -> None:
        task = loop.create_task(generator.__anext__())
        task.add_done_callback(lambda _: loop.stop())
        loop.run_forever()
        found.append(task)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found[0] is found[1]
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


# Reporting.


class Handler:
    def __init__(self) -> None:
        self.messages: list[Any] = []

    def handle_message(self, message: Any) -> None:
        if message["params"].get("payload") == "refused":
            raise ValueError("not this one")
        self.messages.append((message["method"], message["params"].get("message")))


async def test_everything_that_may_come_has_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    handler: Any = Handler()
    own = Reporting(handler)
    for event in (
        GapEvent(3, 5),
        MalformedEvent(b"x", "not JSON"),
        HealthEvent("silent", pid=7),
        HealthEvent("alive", pid=7),
        LogEvent("said", "INFO"),
        ExternalStreamEvent("stdout", "begun"),
        ExternalStreamEvent("stdout", ""),
        ExternalStreamEvent("stderr", "y" * 70_000),
    ):
        await own._pass_on(event)
    own.take(CustomMessageEvent("refused"))
    assert await own.settle(hurried=False) is None
    await own.drain(Outcome(opened=True))
    await own.close()
    texts = [text for _, text in handler.messages]
    assert any("3 to 5 never arrived" in text for text in texts)
    assert any("not JSON" in text for text in texts)
    assert sum("process 7" in text for text in texts) == 2
    assert own.faults == ["Dagster did not take a custom message: not this one"]
    shown = capfd.readouterr()
    assert shown.out == "begun"
    assert shown.err == "y" * 70_000


async def test_output_that_nobody_takes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "OUTPUT_SECONDS", 0.01)
    release = threading.Event()
    monkeypatch.setattr(reporting, "write_out", lambda *_: release.wait(PATIENCE))
    handler: Any = Handler()
    own = Reporting(handler)
    await own._pass_on(ExternalStreamEvent("stdout", "a line\n"))
    await own.drain(Outcome())
    await own.close()
    release.set()
    assert own.faults == ["not all of the output was written to the step's own"]


async def test_a_cancellation_hurries() -> None:
    release = threading.Event()
    handler: Any = Handler()
    handler.handle_message = lambda message: release.wait(PATIENCE)
    own = Reporting(handler)
    await own._pass_on(LogEvent("first", "INFO"))
    await own._pass_on(LogEvent("second", "INFO"))
    settling = asyncio.ensure_future(own.settle(hurried=False))
    await asyncio.sleep(0.05)
    settling.cancel()
    assert isinstance(await settling, asyncio.CancelledError)
    release.set()
    await own.drain(Outcome())
    await own.close()
    assert own._excess >= 1


async def test_a_lane_may_be_closed_and_cut() -> None:
    lane = Lane[int]("test", lambda items: None, limit=1)
    lane.let_go()
    lane.force(1)
    await lane.settle(PATIENCE)
    lane.let_go()
    lane.let_go()
    await lane.close()
    lane._count(0)
    assert lane.cut() == []


# Failures.


def test_what_a_failure_shows() -> None:
    assert failures._signal_name(99) == "99"
    assert failures._block("```\n````").startswith("`````\n")
    deep = PipesException("x" * 60_000 + "\n", (), "ValueError", None, None)
    assert failures._shown(deep).endswith("[the rest was left out]")


def test_one_result_that_dagster_refuses_does_not_keep_the_others_out() -> None:
    class Context:
        has_assets_def = False
        has_partition_key = False
        has_partition_key_range = False

        def __init__(self) -> None:
            self.logged: list[Any] = []

        def get_step_execution_context(self) -> None: ...

        def log_event(self, event: Any) -> None:
            if event.asset_key == dg.AssetKey("refused"):
                raise dg.DagsterInvariantViolationError("unknown")
            self.logged.append(event)

    context: Any = Context()
    results: list[Any] = [
        dg.MaterializeResult(asset_key="refused"),
        dg.MaterializeResult(asset_key="orders"),
        dg.AssetCheckResult(passed=True),
    ]
    with pytest.raises(dg.DagsterInvariantViolationError):
        failures.keep(context, results, {})
    assert [event.asset_key for event in context.logged] == [dg.AssetKey("orders")]
