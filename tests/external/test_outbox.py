"""asyncpipes.external.outbox: order, the limit, failures, closing."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import pytest

from asyncpipes.channels.base import ChannelWriter
from asyncpipes.errors import BufferFullError, ChannelError
from asyncpipes.external import outbox as outbox_module
from asyncpipes.external import waiting
from asyncpipes.external import writing as writing_module
from asyncpipes.external.outbox import Kind, Outbox
from asyncpipes.external.writing import Line
from asyncpipes.protocol.messages import encode_custom_head, encode_head, encode_log_head
from tests.support import (
    OURS,
    PATIENCE,
    FailingWriter,
    GatedWriter,
    RecordingWriter,
    bootstrap,
    broken,
    busy,
    in_thread,
    logged,
    methods,
    parsed,
    started_script,
    wait_until,
)

LIMIT = 1000


@pytest.fixture
def make() -> Iterator[Callable[..., Outbox]]:
    made: list[Outbox] = []

    def make(writer: ChannelWriter, limit: int = LIMIT, name: str | None = "w") -> Outbox:
        outbox = Outbox(writer, name, limit)
        outbox.start()
        made.append(outbox)
        return outbox

    yield make
    for outbox in made:
        if isinstance(outbox._writer, GatedWriter):
            outbox._writer.open_for_good()
        if outbox._last is None:
            finish(outbox)


def finish(outbox: Outbox) -> None:
    assert waiting.block(lambda done: outbox.close(encode_head("closed", {}), done), PATIENCE)


def held(outbox: Outbox) -> int:
    """The bytes in the buffer."""
    return outbox._bytes_in - outbox._bytes_out


def log(text: str) -> bytes:
    return encode_log_head(text, "INFO")


def fill(writer: GatedWriter, outbox: Outbox, size: int = LIMIT + 1) -> None:
    """Put one line that makes the buffer hold more than ``size`` bytes, and stays there."""
    outbox.put(log("x" * size), Kind.RECORD)
    writer.wait_entered()


def test_lines_arrive_in_order_with_their_numbers(make: Callable[..., Outbox]) -> None:
    writer = RecordingWriter()
    outbox = make(writer, limit=10**6)
    for number in range(100):
        assert outbox.put(log(str(number)), Kind.RECORD)
    finish(outbox)
    assert logged(writer.messages) == [str(number) for number in range(100)]
    assert [m["seq"] for m in writer.messages] == list(range(1, 102))
    assert {m["writer"] for m in writer.messages} == {"w"}
    assert methods(writer.messages)[-1] == "closed"
    assert writer.closed == 1


def test_towards_a_stock_host_the_lines_are_bare(make: Callable[..., Outbox]) -> None:
    writer = RecordingWriter()
    outbox = make(writer, name=None)
    outbox.put(log("hi"), Kind.RECORD)
    finish(outbox)
    assert all(m.keys() == {"__dagster_pipes_version", "method", "params"} for m in writer.messages)


@pytest.mark.parametrize("immediate", [True, False])
async def test_order_over_threads_and_tasks(make: Callable[..., Outbox], immediate: bool) -> None:
    writer = RecordingWriter(immediate=immediate)
    outbox = make(writer, limit=200_000)
    kinds = (Kind.CUSTOM, Kind.RECORD, Kind.RESULT)  # in a thread, where records block

    def report(name: str) -> None:
        for number in range(300):
            head = encode_custom_head([name, number])
            assert outbox.put(head, kinds[number % 3])

    async def report_awaiting(name: str) -> None:
        for number in range(300):
            assert outbox.put(encode_custom_head([name, number]), kinds[number % 2 * 2])
            await outbox.room

    names = [f"thread {n}" for n in range(8)] + [f"task {n}" for n in range(4)]
    await asyncio.gather(
        *(asyncio.to_thread(report, name) for name in names[:8]),
        *(report_awaiting(name) for name in names[8:]),
    )
    await asyncio.to_thread(finish, outbox)
    payloads = [m["params"]["payload"] for m in writer.messages[:-1]]
    assert len(payloads) == 12 * 300
    for name in names:
        assert [number for who, number in payloads if who == name] == list(range(300))
    assert [m["seq"] for m in writer.messages] == list(range(1, 12 * 300 + 2))


# The table of Kind.


@pytest.mark.parametrize("on_loop", [True, False])
def test_a_result_is_accepted_above_any_limit(make: Callable[..., Outbox], on_loop: bool) -> None:
    writer = GatedWriter()
    outbox = make(writer)
    fill(writer, outbox, 5 * LIMIT)
    call = lambda: outbox.put(log("result"), Kind.RESULT)  # noqa: E731
    assert (asyncio.run(_on_loop(call)) if on_loop else in_thread(call)) is True
    writer.open_for_good()
    finish(outbox)
    assert logged(writer.messages)[-1] == "result"


async def _on_loop(call: Callable[[], Any]) -> Any:
    return call()


@pytest.mark.parametrize("kind", [Kind.CUSTOM, Kind.RECORD])
def test_other_threads_block_until_half_of_the_buffer_is_free(
    make: Callable[..., Outbox], kind: Kind
) -> None:
    writer = GatedWriter()
    writer.batch_bytes = 1  # a line a write
    outbox = make(writer)
    for _ in range(4):  # 400, 400, 400 and the one that crosses no limit any more
        if not outbox.is_over_limit:
            outbox.put(log("x" * 400), Kind.RECORD)
    writer.wait_entered()
    assert outbox.is_over_limit
    waiter = threading.Thread(target=outbox.put, args=(log("waited"), kind))
    waiting_for_room = threading.Event()
    subscribe = outbox.on_room

    def on_room(callback: Callable[[], None]) -> None:
        subscribe(callback)
        waiting_for_room.set()

    outbox.on_room = on_room  # type: ignore[method-assign]  # to see it wait
    waiter.start()
    assert waiting_for_room.wait(PATIENCE)
    writer.let_through()
    writer.wait_entered()  # two long lines are left, more than half
    assert waiter.is_alive()
    assert not any(b"waited" in line[0] for line in outbox._lines)
    writer.let_through()
    waiter.join(PATIENCE)
    assert not waiter.is_alive()
    writer.open_for_good()
    finish(outbox)
    assert logged(writer.messages)[-1] == "waited"


async def test_a_record_on_the_loop_is_dropped_and_counted(make: Callable[..., Outbox]) -> None:
    writer = GatedWriter()
    outbox = make(writer)
    fill(writer, outbox)
    assert [outbox.put(log("dropped"), Kind.RECORD) for _ in range(3)] == [False] * 3
    writer.open_for_good()
    await waiting.loop_future(outbox.on_delivered)
    assert outbox.put(log("kept"), Kind.RECORD)
    await asyncio.to_thread(finish, outbox)
    assert "dropped" not in logged(writer.messages)
    assert [m.get("dropped") for m in writer.messages] == [None, 3, 3]


async def test_a_stock_host_is_told_of_drops_in_its_log(make: Callable[..., Outbox]) -> None:
    writer = GatedWriter()
    outbox = make(writer, name=None)
    fill(writer, outbox)
    outbox.put(log("dropped"), Kind.RECORD)
    outbox.put(log("dropped"), Kind.CAPTURE)
    writer.open_for_good()
    await asyncio.to_thread(finish, outbox)
    warning = writer.messages[1]["params"]
    assert warning["level"] == "WARNING"
    assert "2 log or stream records were dropped" in warning["message"]
    assert methods(writer.messages) == ["log", "log", "closed"]


@pytest.mark.parametrize("on_loop", [True, False])
def test_captured_output_never_blocks(make: Callable[..., Outbox], on_loop: bool) -> None:
    writer = GatedWriter()
    outbox = make(writer)
    fill(writer, outbox)
    call = lambda: outbox.put(log("captured"), Kind.CAPTURE)  # noqa: E731
    assert (asyncio.run(_on_loop(call)) if on_loop else in_thread(call)) is False
    writer.open_for_good()
    finish(outbox)
    assert writer.messages[-1]["dropped"] == 1


async def test_a_custom_message_on_the_loop_raises_above_twice_the_limit(
    make: Callable[..., Outbox],
) -> None:
    writer = GatedWriter()
    outbox = make(writer)
    fill(writer, outbox)
    taken = 0
    with pytest.raises(BufferFullError, match=f"the limit is {LIMIT}: await what"):
        while True:
            outbox.put(encode_custom_head("y" * 50), Kind.CUSTOM)
            taken += 1
    assert held(outbox) > 2 * LIMIT
    assert held(outbox) < 2 * LIMIT + 200
    assert taken > 2
    writer.open_for_good()
    await asyncio.to_thread(finish, outbox)
    assert methods(writer.messages).count("report_custom_message") == taken


@pytest.mark.parametrize("kind", list(Kind))
async def test_an_empty_buffer_takes_any_one_line(make: Callable[..., Outbox], kind: Kind) -> None:
    writer = RecordingWriter()
    outbox = make(writer, limit=1)
    assert outbox.put(log("z" * 5000), kind)
    await asyncio.to_thread(finish, outbox)
    assert logged(writer.messages) == ["z" * 5000]


@pytest.mark.parametrize("end", ["failure", "close"])
def test_blocking_ends_when_the_channel_fails_or_closes(
    make: Callable[..., Outbox], end: str
) -> None:
    writer = GatedWriter()
    outbox = make(writer)
    fill(writer, outbox)
    result: list[bool] = []
    waits = threading.Event()
    subscribe = outbox.on_room

    def on_room(callback: Callable[[], None]) -> None:
        subscribe(callback)
        waits.set()

    outbox.on_room = on_room  # type: ignore[method-assign]  # to see it wait
    thread = threading.Thread(target=lambda: result.append(outbox.put(log("w"), Kind.CUSTOM)))
    thread.start()
    assert waits.wait(PATIENCE)
    if end == "failure":
        outbox.abandon(broken())
    else:
        outbox.close(encode_head("closed", {}), lambda: None)
    thread.join(PATIENCE)
    # A failed channel takes all and counts it; a closed one takes nothing.
    assert result == [end == "failure"]


# Awaiting.


async def test_awaiting_waits_until_half_of_the_buffer_is_free(make: Callable[..., Outbox]) -> None:
    writer = GatedWriter()
    writer.batch_bytes = 1
    outbox = make(writer)
    while not outbox.is_over_limit:
        outbox.put(log("x" * 400), Kind.RECORD)
    writer.wait_entered()

    async def wait() -> None:
        await outbox.room

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    writer.let_through()
    await asyncio.to_thread(writer.wait_entered)
    assert LIMIT // 2 < held(outbox) <= LIMIT
    early: list[bool] = []
    outbox.on_room(lambda: early.append(True))
    assert not early
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    writer.let_through()
    await asyncio.wait_for(task, PATIENCE)
    assert held(outbox) <= LIMIT // 2


async def test_a_script_that_awaits_loses_no_record(make: Callable[..., Outbox]) -> None:
    writer = RecordingWriter()
    outbox = make(writer, limit=300)
    for number in range(500):
        outbox.put(log(f"{number:0100}"), Kind.RECORD)
        await outbox.room
    await asyncio.to_thread(finish, outbox)
    assert [int(text) for text in logged(writer.messages)] == list(range(500))
    assert outbox._dropped == 0


async def test_cancelling_the_wait_takes_nothing_back(make: Callable[..., Outbox]) -> None:
    writer = GatedWriter()
    outbox = make(writer)
    fill(writer, outbox)

    async def report() -> None:
        outbox.put(encode_custom_head("mine"), Kind.CUSTOM)
        await outbox.room

    task = asyncio.create_task(report())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    writer.open_for_good()
    await asyncio.to_thread(finish, outbox)
    assert "report_custom_message" in methods(writer.messages)


@pytest.mark.host
@pytest.mark.usefixtures("any_loop")
async def test_50_000_awaited_reports_give_the_loop_its_turns(make: Callable[..., Outbox]) -> None:
    """On a channel that takes only one write for all of the time, as one of 1 s a write does."""
    writer = GatedWriter()
    outbox = make(writer, limit=100_000_000)
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    ticker = asyncio.create_task(tick())
    longest = last = 0
    for number in range(50_000):
        outbox.put(encode_custom_head(number), Kind.CUSTOM)
        before = turns
        await outbox.room
        if turns != before:
            longest, last = max(longest, number - last), number
    ticker.cancel()
    # A turn comes each millisecond, in which far fewer than 5,000 reports fit.
    assert turns > 10
    assert longest < 5_000
    writer.open_for_good()
    await asyncio.to_thread(finish, outbox)
    assert len(writer.messages) == 50_001


def test_room_of_nothing_still_gives_turns() -> None:
    room = waiting.Room(None)
    assert list(room.__await__()) == [None]


# Failures.


def test_a_failed_channel_is_silent_after_one_line(
    make: Callable[..., Outbox], capsys: pytest.CaptureFixture[str]
) -> None:
    writer = FailingWriter(broken())
    outbox = make(writer)
    for _ in range(5):
        assert outbox.put(log("lost"), Kind.RECORD)
        assert waiting.block(outbox.on_delivered, PATIENCE)
    assert outbox.failure is writer.error
    assert outbox.undelivered == 5
    assert outbox.put(log("lost"), Kind.RESULT)
    # The thread moves it to what is lost, and in between it is nowhere.
    assert waiting.block(outbox.on_delivered, PATIENCE)
    assert outbox.undelivered == 6
    finish(outbox)
    assert writer.closed == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the cable is cut" in error


def test_any_exception_of_a_writer_is_a_failed_channel(make: Callable[..., Outbox]) -> None:
    outbox = make(FailingWriter(KeyError("bucket")))
    outbox.put(log("lost"), Kind.RECORD)
    assert waiting.block(outbox.on_delivered, PATIENCE)
    assert isinstance(outbox.failure, ChannelError)
    assert "KeyError('bucket')" in str(outbox.failure)
    assert isinstance(outbox.failure.__cause__, KeyError)


@pytest.mark.parametrize("immediate", [True, False])
@pytest.mark.parametrize("kind", [Kind.RECORD, Kind.RESULT])
def test_a_transient_fault_is_tried_again(
    make: Callable[..., Outbox], immediate: bool, kind: Kind
) -> None:
    writer = FailingWriter(busy(), times=2, immediate=immediate)
    outbox = make(writer)
    outbox.put(log("late"), kind)
    assert waiting.block(outbox.on_delivered, PATIENCE)
    assert outbox.failure is None
    finish(outbox)
    assert logged(writer.messages) == ["late"]


def test_a_fault_that_stays_is_given_up(
    make: Callable[..., Outbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "RETRY_SECONDS", 0.1)
    writer = FailingWriter(busy())
    outbox = make(writer)
    outbox.put(log("lost"), Kind.RECORD)
    assert waiting.block(outbox.on_delivered, PATIENCE)
    assert outbox.failure is writer.error
    assert outbox.undelivered == 1


def test_an_error_of_closing_is_a_failure(make: Callable[..., Outbox]) -> None:
    class Unclosable(RecordingWriter):
        def close(self) -> None:
            raise OSError("still in use")

    outbox = make(Unclosable())
    finish(outbox)
    assert outbox.is_closed
    assert "still in use" in str(outbox.failure)


def test_after_closing_nothing_is_taken(make: Callable[..., Outbox]) -> None:
    writer = RecordingWriter(immediate=True)
    outbox = make(writer)
    finish(outbox)
    assert [outbox.put(log("late"), kind) for kind in Kind] == [False] * 4
    assert methods(writer.messages) == ["closed"]


def test_an_abandoned_outbox_ends_when_its_write_returns(make: Callable[..., Outbox]) -> None:
    writer = GatedWriter()
    outbox = make(writer)
    fill(writer, outbox)
    outbox.put(log("never"), Kind.RESULT)
    closed = threading.Event()
    outbox.close(encode_head("closed", {}), closed.set)
    outbox.abandon(ChannelError("too slow"))
    assert not closed.is_set()
    writer.let_through()
    assert closed.wait(PATIENCE)
    assert writer.closed == 1
    assert len(writer.batches) == 1
    assert outbox.undelivered == 2, "its own `closed` is not the user's"


# Inline writing.


def test_a_result_is_written_before_the_call_returns(make: Callable[..., Outbox]) -> None:
    writer = RecordingWriter(immediate=True)
    outbox = Outbox(writer, "w", LIMIT)  # no thread at all
    outbox.put(log("before"), Kind.RECORD)
    assert writer.batches == []
    outbox.put(log("result"), Kind.RESULT)
    assert logged(writer.messages) == ["before", "result"]


FIRST = encode_head("opened", {"extras": {}})


class Slow(RecordingWriter):
    """Each write takes a moment."""

    def write(self, lines: bytes) -> None:
        time.sleep(0.05)
        super().write(lines)


@pytest.mark.parametrize("kind", [Kind.RECORD, Kind.CUSTOM])
def test_the_first_message_of_a_fork_is_written_before_the_call_returns(kind: Kind) -> None:
    writer = Slow(immediate=True)
    outbox = Outbox(writer, "w", LIMIT, opening=FIRST)
    outbox.put(log("first"), kind)
    assert methods(writer.messages) == ["opened", "log"]
    finish(outbox)


@pytest.mark.parametrize(
    ("immediate", "opening"),
    [(True, b""), (False, FIRST)],
    ids=["towards a stock host", "on a channel that is not immediate"],
)
def test_elsewhere_the_first_message_of_a_fork_waits_for_nothing(
    immediate: bool, opening: bytes
) -> None:
    writer = GatedWriter(immediate=immediate)
    outbox = Outbox(writer, "w", LIMIT, opening=opening)
    in_thread(lambda: outbox.put(log("first"), Kind.RECORD))
    writer.wait_entered()
    assert writer.messages == []
    writer.open_for_good()
    finish(outbox)


async def test_the_limit_holds_for_a_fork_whose_channel_is_busy() -> None:
    """And its logs wait for the first try alone."""
    writer = FailingWriter(busy(), immediate=True)
    outbox = Outbox(writer, "w", LIMIT, opening=FIRST)
    with pytest.raises(BufferFullError):
        for _ in range(LIMIT):
            outbox.put(log("x" * 100), Kind.CUSTOM)
    assert not outbox.put(log("dropped"), Kind.RECORD)
    writer.left = 0
    await asyncio.to_thread(finish, outbox)
    assert methods(writer.messages)[:2] == ["opened", "log"]
    assert writer.messages[-1]["dropped"] == 1


def test_an_inline_write_ends_with_its_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the caller would write for all others, as long as they report."""

    class Chatty(RecordingWriter):
        def write(self, lines: bytes) -> None:
            super().write(lines)
            outbox.put(log("and another"), Kind.RECORD)

    writer = Chatty(immediate=True)
    outbox = Outbox(writer, "w", LIMIT)
    monkeypatch.setattr(outbox._thread, "start", out_of_threads)
    in_thread(lambda: outbox.put(log("result"), Kind.RESULT))
    assert len(writer.batches) == 1


def out_of_threads() -> None:
    raise RuntimeError("can't start new thread")


def test_where_no_thread_can_be_started_all_is_written_when_it_closes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As at the end of an interpreter; results do not wait for that."""
    writer = RecordingWriter(immediate=True)
    outbox = Outbox(writer, "w", LIMIT)
    monkeypatch.setattr(outbox._thread, "start", out_of_threads)
    outbox.start()
    outbox.put(log("one"), Kind.RECORD)
    assert writer.batches == []
    outbox.put(log("two"), Kind.RESULT)
    assert logged(writer.messages) == ["one", "two"]
    outbox.put(log("three"), Kind.RECORD)
    finish(outbox)
    assert logged(writer.messages) == ["one", "two", "three"]
    assert outbox.is_closed
    assert writer.closed == 1
    assert capsys.readouterr().err == (
        "asyncpipes: can't start new thread; what is reported waits until the context is left\n"
    )


@pytest.mark.parametrize("immediate", [True, False])
def test_a_writer_that_reports_waits_for_nobody(
    make: Callable[..., Outbox], immediate: bool
) -> None:
    """A library below the writer that logs, where a handler sends that to the host."""

    class Logging(RecordingWriter):
        def write(self, lines: bytes) -> None:
            super().write(lines)
            if len(self.batches) == 1:
                taken.extend(outbox.put(log("from within"), kind) for kind in kinds)

    kinds = (Kind.RESULT, Kind.RECORD, Kind.CAPTURE)
    taken: list[bool] = []
    writer = Logging(immediate=immediate)
    outbox = make(writer, limit=10)
    in_thread(lambda: outbox.put(log("x" * 50), Kind.RESULT))
    assert waiting.block(outbox.on_delivered, PATIENCE)
    assert taken == [True, False, False]
    finish(outbox)
    assert logged(writer.messages).count("from within") == 1


def test_a_report_from_inside_the_lock_is_taken(
    make: Callable[..., Outbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a ``__del__`` that the garbage collector runs just then."""

    def time_and_report() -> float:
        if not inside:
            inside.append(True)  # so that it happens once
            inside.append(outbox.put(log("from a __del__"), Kind.RECORD))
            inside.append(outbox.put(log("from another"), Kind.RESULT))
        return 1.0

    inside: list[bool] = []
    writer = RecordingWriter(immediate=True)
    outbox = make(writer)
    monkeypatch.setattr(outbox_module, "time", time_and_report)
    assert in_thread(lambda: outbox.put(log("first"), Kind.RECORD))
    assert inside == [True, True, True]
    monkeypatch.undo()
    finish(outbox)
    assert logged(writer.messages) == ["from a __del__", "from another", "first"]
    assert [m["seq"] for m in writer.messages] == [1, 2, 3, 4]


def test_a_result_is_not_kept_waiting_by_threads_that_report_all_the_time(
    make: Callable[..., Outbox],
) -> None:
    """The thread that writes must let a caller in between two batches."""

    class Feeding(RecordingWriter):
        def write(self, lines: bytes) -> None:
            super().write(lines)
            started.set()
            if not enough.is_set():
                outbox.put(log("x"), Kind.RECORD)  # so that it never runs dry

    started, enough = threading.Event(), threading.Event()
    outbox = make(Feeding(immediate=True))
    outbox.put(log("x"), Kind.RECORD)
    assert started.wait(PATIENCE)
    try:
        assert in_thread(lambda: outbox.put(log("result"), Kind.RESULT))
    finally:
        enough.set()


# Signals, and reports from inside.


LOOP = """
import os, random, signal, sys, threading
from asyncpipes import open_pipes
with open_pipes(close_timeout=20) as pipes:
    pipes.flush()
    moment = threading.Timer(random.random() * 0.05, os.kill, (os.getpid(), signal.%s))
    moment.daemon = True
    moment.start()
    while True:
        %s
"""
REPORTS = (
    "pipes.report_asset_check('fresh', True)",
    "pipes.log.info('x')",
    "pipes.report_custom_message(1)",
)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.usefixtures("unmeasured_scripts")
def test_a_signal_at_any_moment_leaves_a_whole_session(tmp_path: Path, name: str) -> None:
    """Its handler raises wherever the main thread is just then."""
    number = getattr(signal, name)
    with ExitStack() as stack:
        runs = []
        for index, report in enumerate(REPORTS * 4):
            file = tmp_path / str(index)
            file.touch()
            environment = bootstrap({"path": str(file), **OURS})
            code = LOOP % (name, report)
            runs.append((file, stack.enter_context(started_script(code, environment))))
        for file, process in runs:
            process.communicate(timeout=PATIENCE)
            assert process.returncode == -number
            messages = parsed(file.read_bytes())
            assert [m["seq"] for m in messages] == list(range(1, len(messages) + 1))
            assert methods(messages).count("closed") == 1
            assert methods(messages)[-1] == "closed"
            assert "exception" in messages[-1]["params"]


class Interrupted(BaseException):
    """As a signal's handler raises it."""


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, after whose first call in the main thread a handler raises."""
    calls: list[bool] = []

    def call(*args: Any) -> Any:
        value = function(*args)
        if not calls and threading.current_thread() is threading.main_thread():
            calls.append(True)
            raise Interrupted
        return value

    return call


class Stand:
    """What ``inner`` can, but for the calls that are given."""

    def __init__(self, inner: Any, **calls: Callable[..., Any]) -> None:
        self._inner = inner
        self.__dict__.update(calls)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class InterruptedLines(deque[Line]):
    def __init__(self, lines: Iterable[Line] = ()) -> None:
        super().__init__(lines)
        self.append = once(super().append)  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", [Kind.RESULT, Kind.CUSTOM, Kind.RECORD])
@pytest.mark.parametrize("call", ["time", "append", "wake", "get"])
def test_put_may_be_interrupted_after_each_call(
    monkeypatch: pytest.MonkeyPatch, call: str, kind: Kind
) -> None:
    writer = RecordingWriter(immediate=True)
    outbox = Outbox(writer, "w", LIMIT)
    if call == "time":
        monkeypatch.setattr(outbox_module, "time", once(time.time))
    elif call == "append":
        outbox._lines = InterruptedLines()
    elif call == "wake":
        queue: Any = outbox._wake
        outbox._wake = cast("Any", Stand(queue, put=once(queue.put)))
    else:

        def make_queue() -> Any:
            queue: Any = SimpleQueue()
            return Stand(queue, get=once(queue.get))

        monkeypatch.setattr(outbox_module, "SimpleQueue", make_queue)
    outbox.start()
    wait_until(lambda: outbox._idle, "the thread sleeps")
    interrupted = False
    try:
        outbox.put(log("first"), kind)
    except Interrupted:
        interrupted = True
    assert interrupted or (call == "get" and kind is not Kind.RESULT)
    assert waiting.block(outbox.on_delivered, PATIENCE)
    assert logged(writer.messages) == ([] if call == "time" else ["first"])
    assert held(outbox) <= 0, "or a script that is often interrupted would end up blocked"
    assert in_thread(lambda: outbox.put(log("second"), Kind.RESULT)), "no lock is left held"
    finish(outbox)
    assert [m["seq"] for m in writer.messages] == list(range(1, len(writer.messages) + 1))
    assert logged(writer.messages)[-1] == "second"


def test_a_handler_may_report_while_its_thread_waits_for_a_result(
    make: Callable[..., Outbox],
) -> None:
    writer = GatedWriter(immediate=True)
    outbox = make(writer)
    handled: list[bool] = []

    started = threading.Event()

    def handle(*_: object) -> None:
        if not started.is_set():
            started.set()
            helper.start()
            handled.append(outbox.put(log("from the handler"), Kind.RESULT))

    main = threading.get_ident()
    helper = threading.Thread(target=writer.open_for_good)

    def interrupt() -> None:
        writer.wait_entered()
        # Again and again: one that comes just before the wait begins does not end it.
        while not started.is_set():
            signal.pthread_kill(main, signal.SIGUSR1)
            started.wait(0.05)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        assert outbox.put(log("first"), Kind.RESULT)
        interrupter.join(PATIENCE)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert handled == [True]
    helper.join(PATIENCE)
    assert logged(writer.messages) == ["first", "from the handler"]


def test_a_report_from_inside_may_wait_for_room(
    make: Callable[..., Outbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that makes room needs no lock that the waiting one holds."""
    writer = GatedWriter()
    outbox = make(writer)
    fill(writer, outbox)
    inside: list[bool] = []

    def time_and_report() -> float:
        if not inside:
            inside.append(True)
            writer.open_for_good()
            inside.append(outbox.put(log("inside"), Kind.RECORD))
        return 1.0

    monkeypatch.setattr(outbox_module, "time", time_and_report)
    assert in_thread(lambda: outbox.put(log("outside"), Kind.RECORD))
    assert inside == [True, True]
    monkeypatch.undo()
    finish(outbox)
    assert logged(writer.messages)[1:] == ["inside", "outside"]


@pytest.mark.parametrize("where", ["numbering", "waking", "telling"])
def test_a_report_from_inside_the_thread_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """As of a ``__del__`` that the garbage collector runs in the outbox's own thread."""
    writer = RecordingWriter(immediate=True)
    outbox = Outbox(writer, "w", LIMIT)
    inside: list[bool] = []

    def reporting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not inside and threading.current_thread() is outbox._thread:
                inside.append(True)
                inside.append(outbox.put(log("inside"), Kind.RESULT))
            return function(*args, **kwargs)

        return call

    if where == "numbering":
        tail = writing_module.__dict__["extension_tail"]
        monkeypatch.setattr(writing_module, "extension_tail", reporting(tail))
    elif where == "waking":
        queue: Any = outbox._wake
        outbox._wake = cast("Any", Stand(queue, get=reporting(queue.get)))
    else:
        monkeypatch.setattr(outbox_module, "tell", reporting(writing_module.tell))
    outbox.start()
    in_thread(lambda: outbox.put(log("outside"), Kind.RESULT))
    # The thread goes to sleep only if it is not to end yet.
    wait_until(lambda: len(inside) == 2, "the report from inside")
    finish(outbox)
    assert inside == [True, True]
    assert sorted(logged(writer.messages)) == ["inside", "outside"]
    assert [m["seq"] for m in writer.messages] == [1, 2, 3]


def test_what_was_taken_while_it_closed_is_written(make: Callable[..., Outbox]) -> None:
    """Whichever came first, the last message or the others', nothing follows it."""
    writer = RecordingWriter()
    outbox = make(writer, limit=10**8)
    begun = threading.Barrier(5)
    taken: list[int] = []

    def report(kind: Kind) -> None:
        begun.wait(PATIENCE)
        count = 0
        while count < 2000 and outbox.put(log("x"), kind):
            count += 1
        taken.append(count)

    kinds = (Kind.RECORD, Kind.CUSTOM, Kind.CAPTURE, Kind.RESULT)
    threads = [threading.Thread(target=report, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    begun.wait(PATIENCE)
    finish(outbox)
    for thread in threads:
        thread.join(PATIENCE)
    assert len(taken) == 4
    assert methods(writer.messages) == ["log"] * sum(taken) + ["closed"]


def test_undelivered_counts_what_the_user_reported(make: Callable[..., Outbox]) -> None:
    writer = GatedWriter()
    outbox = make(writer, name=None)
    outbox.put(encode_head("opened", {"extras": {}}), Kind.RESULT)
    writer.wait_entered()
    outbox.put(log("y" * 2 * LIMIT), Kind.CAPTURE)
    assert not outbox.put(log("dropped"), Kind.CAPTURE)  # and a notice of that is ours
    assert outbox.undelivered == 1
    closed = threading.Event()
    outbox.close(encode_head("closed", {}), closed.set)
    assert outbox.undelivered == 1
    outbox.abandon(broken())
    writer.open_for_good()
    assert closed.wait(PATIENCE)
    assert outbox.undelivered == 1


@pytest.mark.parametrize("fault", [busy(), broken()])
def test_results_that_wait_are_let_go_by_a_fault(
    make: Callable[..., Outbox], fault: ChannelError
) -> None:
    """One of them is being written, the other is not."""

    class Slow(GatedWriter):
        def write(self, lines: bytes) -> None:
            super().write(b"")
            if not failed:
                failed.append(True)
                raise fault
            self.batches.append(lines)

    failed: list[bool] = []
    writer = Slow(immediate=True)
    outbox = make(writer)
    threads = [
        threading.Thread(target=outbox.put, args=(log(text), Kind.RESULT)) for text in ("a", "b")
    ]
    threads[0].start()
    writer.wait_entered()
    threads[1].start()
    wait_until(lambda: len(outbox._lines) == 1, "the second one waits")
    writer.let_through()  # the one write that fails; the next one is held again
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    writer.open_for_good()
    finish(outbox)
    assert outbox.undelivered == (0 if fault.transient else 2)
    assert logged(writer.messages) == (["a", "b"] if fault.transient else [])
