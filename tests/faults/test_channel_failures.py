"""A channel that is slow, fails or is full: the script goes on, and nobody is told a lie.

The contract: ``report_*`` go silent after one line on stderr; ``flush()`` and a clean exit
raise ``ChannelError`` with the count of what was not delivered; an exception of the body is
never replaced; leaving takes ``close_timeout`` at most; the event loop is never blocked.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from asyncpipes import open_pipes
from asyncpipes.errors import BufferFullError, ChannelError, ClosedError
from asyncpipes.external import waiting
from asyncpipes.external.connection import PipesContext
from asyncpipes.external.waiting import Done
from tests.faults.channels import (
    AlwaysFails,
    FailsOnce,
    FaultyWriter,
    Full,
    Slow,
    Stuck,
)
from tests.support import (
    OURS,
    PATIENCE,
    bootstrap,
    in_thread,
    methods,
    wait_until,
)

TICKS = 100
#: Of those who report, and of the assets that they report on.
NAMES = ("a", "b", "p", "q", "r", "s")


@pytest.fixture(autouse=True)
def _give_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "RETRY_SECONDS", 0.15)


def launched(
    writer: FaultyWriter, keys: Sequence[str] = ("orders",), **options: Any
) -> PipesContext:
    variables = bootstrap(OURS, asset_keys=list(keys))
    return open_pipes(params_loader=variables, message_writer=writer, **options)


# What a script does, and in which surroundings.


@dataclass
class Script:
    """A script that reports, and what came of it.

    Attributes:
        error: raised by the body in the end, if any.
        reported: how many reports the library took.
        flush_error: what ``flush()`` raised.
        left_with: what leaving the block raised.
    """

    error: BaseException | None = None
    reported: int = 0
    flush_error: ChannelError | None = None
    left_with: BaseException | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def report(self, pipes: PipesContext, name: str) -> Any:
        """Report once in each way that there is; return what is to be awaited."""
        pipes.log.info("%s", name)
        pipes.log_external_stream("stdout", name)
        pipes.report_asset_check(name, True, asset_key=name)
        pipes.report_asset_materialization({"n": 1}, asset_key=name)
        room = pipes.report_custom_message(name)
        with self.lock:
            self.reported += 5
        return room

    async def body(self, pipes: PipesContext) -> None:
        await self.report(pipes, "a")
        await self.flush(pipes)
        await self.report(pipes, "b")
        self.end()

    def plain_body(self, pipes: PipesContext) -> None:
        self.report(pipes, "a")
        try:
            pipes.flush()
        except ChannelError as error:
            self.flush_error = error
        self.report(pipes, "b")
        self.end()

    async def flush(self, pipes: PipesContext) -> None:
        try:
            await pipes.flush()
        except ChannelError as error:
            self.flush_error = error

    def end(self) -> None:
        if self.error is not None:
            raise self.error


async def in_async_with(pipes: PipesContext, script: Script) -> None:
    async with pipes:
        await script.body(pipes)


async def in_tasks(pipes: PipesContext, script: Script) -> None:
    async def report(name: str) -> None:
        await script.report(pipes, name)

    async with pipes:
        await asyncio.gather(*map(report, "pqrs"))
        await script.body(pipes)


async def in_with_on_a_loop(pipes: PipesContext, script: Script) -> None:
    with pipes:
        await script.body(pipes)


async def in_with(pipes: PipesContext, script: Script) -> None:
    def use() -> None:
        with pipes:
            script.plain_body(pipes)

    await asyncio.to_thread(use)


async def in_threads(pipes: PipesContext, script: Script) -> None:
    async with pipes:
        await asyncio.gather(*(asyncio.to_thread(script.report, pipes, name) for name in "pqrs"))
        await script.body(pipes)


WAYS = (in_async_with, in_tasks, in_with_on_a_loop, in_with, in_threads)


async def use(way: Callable[..., Any], writer: FaultyWriter, script: Script) -> None:
    """Run the script to its end in a task of its own, so that nothing of it stays here."""

    async def main() -> None:
        try:
            await way(launched(writer, NAMES), script)
        except BaseException as error:
            script.left_with = error

    await asyncio.create_task(main())


# The faults.


@dataclass(frozen=True)
class Fault:
    make: Callable[[], FaultyWriter]
    text: str = ""  # of the error; none where all is delivered in the end
    flush_fails: bool = True


def key_error() -> Exception:
    return KeyError("bucket")


FAULTS = {
    "slow": Fault(Slow),  # a second for each of three or four writes
    "fails once": Fault(FailsOnce),
    "fails once, immediate": Fault(lambda: FailsOnce(immediate=True)),
    "fails always": Fault(AlwaysFails, "the cable is cut"),
    "fails always, immediate": Fault(lambda: AlwaysFails(immediate=True), "the cable is cut"),
    "fails later": Fault(lambda: AlwaysFails(since=b'"b"'), "the cable is cut", False),
    "fails later, immediate": Fault(
        lambda: AlwaysFails(since=b'"b"', immediate=True), "the cable is cut", False
    ),
    "fails once for good": Fault(
        lambda: FailsOnce(ChannelError("the bucket is gone")), "the bucket is gone"
    ),
    "raises what is no ChannelError": Fault(lambda: AlwaysFails(key_error()), "KeyError('bucket')"),
    "raises that once": Fault(lambda: FailsOnce(key_error()), "KeyError('bucket')"),
    "full": Fault(Full, "No space left on device"),
    "full, immediate": Fault(lambda: Full(immediate=True), "No space left on device"),
}
FAILING = [name for name, fault in FAULTS.items() if fault.text]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FAULTS)
async def test_the_contract(
    name: str, way: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    fault, done = FAULTS[name], Script()
    writer = fault.make()
    await use(way, writer, done)

    assert done.reported == (10 if way not in (in_tasks, in_threads) else 30), "its work goes on"
    undelivered = done.reported - len(writer.delivered)
    assert [m["seq"] for m in writer.messages] == list(range(1, len(writer.messages) + 1))
    assert writer.closed == 1
    # Where a loop runs, its thread calls none of what may block.
    if way is not in_with_on_a_loop:
        assert threading.get_ident() not in writer.threads
    stderr = capsys.readouterr().err
    if not fault.text:
        assert (done.flush_error, done.left_with, stderr) == (None, None, "")
        assert undelivered == 0
        assert methods(writer.messages)[-1] == "closed"
        return
    assert undelivered > 0
    assert "closed" not in methods(writer.messages), "the host must not take it for complete"
    assert fault.text in stderr
    assert stderr.count("\n") == 1, "one line"
    errors = [(done.left_with, 0)]
    if fault.flush_fails:
        errors.append((done.flush_error, 5))
    else:
        assert done.flush_error is None
        assert undelivered == 5
    for error, later in errors:
        assert isinstance(error, ChannelError)
        assert error.undelivered == undelivered - later
        assert f"{error.undelivered} messages were not delivered: " in str(error)
        assert fault.text in str(error)
        assert isinstance(error.__cause__, ChannelError)


@pytest.mark.parametrize("way", [in_async_with, in_with, in_with_on_a_loop])
@pytest.mark.parametrize("kind", [ValueError, ChannelError, SystemExit, asyncio.CancelledError])
@pytest.mark.parametrize("name", ["fails always", "full", "fails later, immediate"])
async def test_an_exception_of_the_body_is_never_replaced(
    name: str, kind: type[BaseException], way: Callable[..., Any]
) -> None:
    mine = kind("mine")
    done = Script(error=mine)
    writer = FAULTS[name].make()
    if kind is SystemExit and way is not in_with:
        mine = done.error = asyncio.CancelledError("SystemExit would end the loop's task at once")
    await use(way, writer, done)
    assert done.left_with is mine
    assert mine.__cause__ is None
    assert mine.__context__ is None
    assert isinstance(done.flush_error, ChannelError) is FAULTS[name].flush_fails
    assert writer.closed == 1


@pytest.mark.parametrize("name", FAILING)
async def test_a_cancellation_of_the_body_goes_on(name: str) -> None:
    writer = FAULTS[name].make()
    reported = asyncio.Event()

    async def main() -> None:
        async with launched(writer) as pipes:
            pipes.report_custom_message(1)
            reported.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(main())
    await reported.wait()
    task.cancel("mine")
    with pytest.raises(asyncio.CancelledError) as info:
        await task
    if sys.version_info >= (3, 11):  # before, a task's message is not passed on
        assert info.value.args == ("mine",)
    assert writer.closed == 1


async def test_a_cancellation_that_comes_while_leaving_is_raised_when_all_is_done() -> None:
    writer = Stuck()

    async def main() -> None:
        async with launched(writer) as pipes:
            pipes.report_custom_message(1)

    task = asyncio.create_task(main())
    await asyncio.to_thread(writer.entered.wait, PATIENCE)
    task.cancel()
    for _ in range(TICKS):
        await asyncio.sleep(0)
    assert not task.done(), "it is still with the channel"
    writer.hurry.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert methods(writer.messages) == ["opened", "report_custom_message", "closed"]


# Leaving takes close_timeout, and no longer.


@pytest.mark.parametrize("way", WAYS)
async def test_leaving_does_not_wait_for_a_write_that_does_not_return(
    way: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    writer = Stuck()
    done = Script()
    pipes = launched(writer, NAMES, close_timeout=0.05)

    async def no_flush(pipes: PipesContext) -> None:
        done.flush_error = None

    done.flush = no_flush  # type: ignore[method-assign]  # it would wait for ever, as it should
    pipes.flush = Done  # type: ignore[method-assign]  # likewise
    with pytest.raises(ChannelError, match=r"close_timeout=0\.05 seconds") as info:
        await way(pipes, done)
    assert writer.messages == [], "the write has not returned"
    assert info.value.undelivered == done.reported
    assert pipes.is_closed
    writer.hurry.set()
    await asyncio.to_thread(wait_until, lambda: writer.closed == 1, "the writer is released")
    if "closed" in methods(writer.messages):  # the write that did not return had it
        assert len(writer.delivered) == done.reported
    assert capsys.readouterr().err == "", "the exception says it"


async def test_a_cancelled_body_does_not_wait_longer_either() -> None:
    writer = Stuck()
    inside = asyncio.Event()

    async def main() -> None:
        async with launched(writer, close_timeout=0.05) as pipes:
            pipes.report_custom_message(1)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(main())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert writer.messages == [], "the write has not returned"
    writer.hurry.set()
    await asyncio.to_thread(wait_until, lambda: writer.closed == 1, "the writer is released")


# The loop goes on.


class Ticker:
    """A task that counts the turns that the loop gives it."""

    def __init__(self) -> None:
        self.turns = 0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0)

    async def some(self) -> None:
        """Wait until the ticker has had its turns."""
        enough = self.turns + TICKS
        while self.turns < enough:
            await asyncio.sleep(0)

    def stop(self) -> None:
        self._task.cancel()


async def test_the_loop_turns_while_a_write_does_not_return(any_loop: None) -> None:
    writers = [Stuck(), Stuck()]
    ticker = Ticker()
    states: list[str] = []

    async def main() -> None:
        async with launched(writers[0]) as pipes:
            await Script().report(pipes, "orders")
            states.append("reported")
            await pipes.flush()
            states.append("flushed")
        async with launched(writers[1]) as pipes:
            await Script().report(pipes, "orders")
            states.append("leaving")
        states.append("left")

    task = asyncio.create_task(main())
    for writer, state in zip(writers, ("reported", "leaving"), strict=True):
        await asyncio.to_thread(writer.entered.wait, PATIENCE)
        await ticker.some()
        assert states[-1] == state, "what waits for the channel waits, and nothing else does"
        writer.hurry.set()
    await task
    ticker.stop()
    assert states == ["reported", "flushed", "leaving", "left"]
    assert [len(writer.delivered) for writer in writers] == [5, 5]


@pytest.mark.parametrize("name", FAULTS)
async def test_the_loop_turns_while_a_channel_is_tried(name: str, any_loop: None) -> None:
    """Whatever the channel does meanwhile, waiting for it is waiting for a future."""
    writer = FAULTS[name].make()
    done = Script()
    ticker = Ticker()
    before = ticker.turns
    await use(in_async_with, writer, done)
    assert ticker.turns > before
    assert threading.get_ident() not in writer.threads
    ticker.stop()


# Above the limit.


async def test_above_the_limit_on_the_loop() -> None:
    writer = Stuck()
    pipes = launched(writer, max_buffered_bytes=1000)
    async with pipes:
        await asyncio.to_thread(writer.entered.wait, PATIENCE)
        pipes.report_custom_message("x" * 1001)
        for number in range(50):
            pipes.report_asset_check(f"check {number}", True)
        for _ in range(3):
            pipes.log.info("dropped")
            pipes.log_external_stream("stderr", "dropped")
        with pytest.raises(BufferFullError, match="the limit is 1000"):
            pipes.report_custom_message("one too many")
        room = asyncio.ensure_future(_awaited(pipes.report_asset_check("last", True)))
        for _ in range(TICKS):
            await asyncio.sleep(0)
        assert not room.done(), "the await is the brake"
        writer.hurry.set()
        await asyncio.wait_for(room, PATIENCE)
    checks = [m["params"]["check_name"] for m in writer.delivered if "check_name" in m["params"]]
    assert checks == [f"check {number}" for number in range(50)] + ["last"]
    assert len(writer.delivered) == 52
    assert writer.messages[-1]["dropped"] == 6


async def _awaited(room: Any) -> None:
    await room


@pytest.mark.parametrize("end", ["goes on", "is given up", "is closed"])
def test_above_the_limit_in_threads(end: str) -> None:
    """They block: until there is room, the channel fails, or the context closes."""
    writer = Full() if end == "is given up" else Stuck()
    taken: list[str] = []
    refused: list[ClosedError] = []

    def report(pipes: PipesContext, kind: str) -> None:
        try:
            if kind == "custom":
                pipes.report_custom_message(kind)
            elif kind == "stream":
                pipes.log_external_stream("stdout", kind)
            else:
                pipes.log.info(kind)
            taken.append(kind)
        except ClosedError as error:
            refused.append(error)

    pipes = launched(writer, max_buffered_bytes=1000, close_timeout=0.1 if "closed" in end else 30)

    def main() -> None:
        with pipes:
            assert writer.entered.wait(PATIENCE)
            in_thread(lambda: pipes.report_custom_message("x" * 1001))
            kinds = ("custom", "stream", "log")
            threads = [threading.Thread(target=report, args=(pipes, kind)) for kind in kinds]
            for thread in threads:
                thread.start()
            started.extend(threads)
            if isinstance(writer, Stuck) and end == "goes on":
                assert taken == []
                writer.hurry.set()
            if end != "is closed":
                for thread in threads:
                    thread.join(PATIENCE)
                assert sorted(taken) == ["custom", "log", "stream"]
                pipes.report_asset_check("accepted all the same", True)

    started: list[threading.Thread] = []
    if end == "goes on":
        in_thread(main)
        assert len(writer.delivered) == 5
        return
    with pytest.raises(ChannelError) as info:
        in_thread(main)
    if isinstance(writer, Stuck):
        writer.hurry.set()
    for thread in started:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    if end == "is given up":
        assert (info.value.undelivered, writer.delivered) == (5, [])
    else:
        assert len(refused) == 2, "the log line goes nowhere without a word"
        assert info.value.undelivered == 1


async def test_a_failed_channel_holds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """However much is reported: it is counted, and let go."""
    writer = AlwaysFails()
    with pytest.raises(ChannelError) as info:
        pipes = launched(writer, max_buffered_bytes=1000)
        async with pipes:
            for _ in range(5000):
                pipes.report_custom_message("x" * 100)
                pipes.log.info("y")
                await pipes.log_external_stream("stdout", "z")
            with pytest.raises(ChannelError):
                await pipes.flush()
            outbox = pipes._outbox
            assert outbox is not None
            lines = outbox._lines
            await asyncio.to_thread(wait_until, lambda: not lines, "nothing is kept")
            dropped = outbox._dropped
    # What was dropped before the channel had failed is counted as that.
    assert info.value.undelivered + dropped == 15_000
    assert capsys.readouterr().err.count("\n") == 1


async def test_a_channel_that_has_room_again_gets_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "RETRY_SECONDS", PATIENCE)  # it is not given up meanwhile
    writer = Full()
    async with launched(writer) as pipes:
        await Script().report(pipes, "orders")
        flushed = asyncio.ensure_future(_awaited(pipes.flush()))
        await asyncio.to_thread(writer.entered.wait, PATIENCE)
        assert not flushed.done()
        writer.room.set()
        await flushed
        assert len(writer.delivered) == 5
    assert [m["seq"] for m in writer.messages] == list(range(1, 8))


@pytest.mark.parametrize("way", [in_async_with, in_with])
async def test_a_channel_that_cannot_be_opened_is_told_at_once(way: Callable[..., Any]) -> None:
    class Unopenable(AlwaysFails):
        def open(self) -> None:
            super().open()
            raise self.error

    writer, done = Unopenable(), Script()
    await use(way, writer, done)
    assert done.left_with is writer.error
    assert done.reported == 0, "the body has not run"
    assert threading.get_ident() not in writer.threads
