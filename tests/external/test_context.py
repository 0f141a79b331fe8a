"""asyncpipes.external.context: opening, reporting, closing, and what goes wrong in each."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import sys
import threading
import zlib
from base64 import b64encode
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from asyncpipes.errors import (
    AmbiguousContextError,
    BootstrapEncodingError,
    BootstrapError,
    BootstrapMissingError,
    BootstrapTooLargeError,
    BootstrapTruncatedError,
    BufferFullError,
    ChannelError,
    ClosedError,
    InactiveError,
    InvalidParameterError,
    NotOpenError,
    PipesError,
    UndefinedError,
    UsageError,
)
from asyncpipes.external import waiting
from asyncpipes.external.connection import PipesContext
from asyncpipes.external.context import open_pipes
from asyncpipes.external.inactive import InactiveWarning
from asyncpipes.protocol import bootstrap as bootstrap_module
from tests.support import (
    OURS,
    PATIENCE,
    FailingWriter,
    GatedWriter,
    RecordingWriter,
    bootstrap,
    broken,
    busy,
    encoded,
    in_thread,
    logged,
    methods,
    open_fds,
    parsed,
    settled_fds,
)

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


def launched(writer: Any, messages: Any = OURS, data: Any = None, **options: Any) -> PipesContext:
    """A context that a host launched, with ``writer`` for a channel."""
    loader = bootstrap(messages, **(data or {}))
    return open_pipes(params_loader=loader, message_writer=writer, **options)


# The whole way.


@pytest.mark.parametrize("extension", [True, False])
def test_what_is_reported_arrives(tmp_path: Path, extension: bool) -> None:
    file = tmp_path / "messages"
    params = {"path": str(file), **(OURS if extension else {})}
    with open_pipes(params_loader=bootstrap(params, extras={"day": "monday"})) as pipes:
        assert pipes.get_extra("day") == "monday"
        pipes.log.info("starting %s", "now")
        pipes.report_asset_check("c", True, "WARN", {"n": 1})
        pipes.report_custom_message([1, {"a": None}])
        pipes.log_external_stream("stderr", "text", {"x": 1})
        pipes.report_asset_materialization({"rows": 2}, "v1")
        assert pipes.is_closed is False
    messages = parsed(file.read_bytes())
    assert [(m["method"], m["params"]) for m in messages] == [
        ("opened", {"extras": {}}),
        ("log", {"message": "starting now", "level": "INFO"}),
        (
            "report_asset_check",
            {
                "asset_key": "orders",
                "check_name": "c",
                "passed": True,
                "severity": "WARN",
                "metadata": {"n": {"raw_value": 1, "type": "__infer__"}},
            },
        ),
        ("report_custom_message", {"payload": [1, {"a": None}]}),
        ("log_external_stream", {"stream": "stderr", "text": "text", "extras": {"x": 1}}),
        (
            "report_asset_materialization",
            {
                "asset_key": "orders",
                "data_version": "v1",
                "metadata": {"rows": {"raw_value": 2, "type": "__infer__"}},
            },
        ),
        ("closed", {}),
    ]
    extra = {key for m in messages for key in m} - {"__dagster_pipes_version", "method", "params"}
    assert extra == ({"writer", "seq", "sent_at", "fields", "pid"} if extension else set())


@pytest.mark.host
@pytest.mark.usefixtures("any_loop")
async def test_async_with_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "messages"
    async with open_pipes(params_loader=bootstrap({"path": str(file)})) as pipes:
        await pipes.report_custom_message(1)
        await pipes.flush()
        assert methods(parsed(file.read_bytes())) == ["opened", "report_custom_message"]
        await pipes.report_asset_materialization()
    assert methods(parsed(file.read_bytes()))[-2:] == ["report_asset_materialization", "closed"]


async def test_a_plain_with_works_inside_a_loop(tmp_path: Path) -> None:
    file = tmp_path / "messages"
    with open_pipes(params_loader=bootstrap({"path": str(file)})) as pipes:
        await pipes.report_custom_message(1)
    assert methods(parsed(file.read_bytes())) == ["opened", "report_custom_message", "closed"]


def test_later_changes_to_an_argument_change_nothing() -> None:
    writer = GatedWriter()
    payload = {"rows": [1]}
    with launched(writer) as pipes:
        pipes.report_custom_message(payload)
        payload["rows"].append(2)
        writer.open_for_good()
    assert writer.messages[1]["params"] == {"payload": {"rows": [1]}}


async def test_order_over_8_threads_and_4_tasks(tmp_path: Path) -> None:
    file = tmp_path / "messages"

    def report(pipes: PipesContext, name: str) -> None:
        for number in range(60):
            if number % 2:
                pipes.log.info(f"{name} {number}")
            else:
                pipes.report_custom_message(f"{name} {number}")
            if number % 10 == 0:
                pipes.report_asset_check(f"{name} {number}", passed=True)

    async def report_awaiting(pipes: PipesContext, name: str) -> None:
        for number in range(60):
            pipes.log.info(f"{name} {number}")
            await pipes.report_custom_message(f"{name} {number}")

    async with open_pipes(params_loader=bootstrap({"path": str(file), **OURS})) as pipes:
        await asyncio.gather(
            *(asyncio.to_thread(report, pipes, f"thread{n}") for n in range(8)),
            *(report_awaiting(pipes, f"task{n}") for n in range(4)),
        )
    messages = parsed(file.read_bytes())
    texts = [
        m["params"].get("message") or m["params"].get("payload") or m["params"]["check_name"]
        for m in messages[1:-1]
    ]
    assert len(texts) == 8 * 66 + 4 * 120
    for name in [f"thread{n}" for n in range(8)] + [f"task{n}" for n in range(4)]:
        mine = [int(text.split()[1]) for text in texts if text.split()[0] == name]
        assert mine == sorted(mine)
        assert set(mine) == set(range(60))
    assert [m["seq"] for m in messages] == list(range(1, len(messages) + 1))


# Validation.

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("report_asset_materialization", {"asset_key": 1}, "asset_key"),
    ("report_asset_materialization", {"data_version": 1}, "data_version"),
    ("report_asset_materialization", {"metadata": "x"}, "metadata"),
    ("report_asset_materialization", {"metadata": [1]}, "metadata"),
    ("report_asset_materialization", {"metadata": {1: 1}}, "metadata"),
    ("report_asset_materialization", {"metadata": {"k": object()}}, "k"),
    ("report_asset_materialization", {"metadata": {"k": float("nan")}}, "k"),
    (
        "report_asset_materialization",
        {"metadata": {"k": {"type": "nope", "raw_value": 1}}},
        "k",
    ),
    ("report_asset_check", {"check_name": None, "passed": True}, "check_name"),
    ("report_asset_check", {"check_name": 1, "passed": True}, "check_name"),
    ("report_asset_check", {"check_name": "c", "passed": 1}, "passed"),
    ("report_asset_check", {"check_name": "c", "passed": "yes"}, "passed"),
    ("report_asset_check", {"check_name": "c", "passed": None}, "passed"),
    ("report_asset_check", {"check_name": "c", "passed": True, "severity": "INFO"}, "severity"),
    ("report_asset_check", {"check_name": "c", "passed": True, "severity": None}, "severity"),
    ("report_asset_check", {"check_name": "c", "passed": True, "severity": ["WARN"]}, "severity"),
    ("report_asset_check", {"check_name": "c", "passed": True, "asset_key": b"o"}, "asset_key"),
    ("report_asset_check", {"check_name": "c", "passed": True, "metadata": 5}, "metadata"),
    ("report_custom_message", {"payload": object()}, "payload"),
    ("report_custom_message", {"payload": {"a": [float("inf")]}}, "payload"),
    ("log_external_stream", {"stream": "stdin", "text": ""}, "stream"),
    ("log_external_stream", {"stream": 1, "text": ""}, "stream"),
    ("log_external_stream", {"stream": "stdout", "text": b"x"}, "text"),
    ("log_external_stream", {"stream": "stdout", "text": None}, "text"),
    ("log_external_stream", {"stream": "stdout", "text": "", "extras": [1]}, "extras"),
    ("log_external_stream", {"stream": "stdout", "text": "", "extras": {"k": object()}}, "extras"),
]


@pytest.mark.parametrize(("method", "arguments", "parameter"), WRONG)
@pytest.mark.parametrize("active", [True, False])
@pytest.mark.filterwarnings("ignore::asyncpipes.external.inactive.InactiveWarning")
def test_a_wrong_parameter_is_refused_at_the_call(
    method: str, arguments: dict[str, Any], parameter: str, active: bool
) -> None:
    writer = RecordingWriter()
    with launched(writer) if active else open_pipes() as pipes:
        with pytest.raises(InvalidParameterError) as caught:
            getattr(pipes, method)(**arguments)
        assert str(caught.value).startswith(method)
        assert parameter in str(caught.value)
        assert isinstance(caught.value, TypeError)
        # What was refused has left nothing behind.
        pipes.report_asset_materialization(asset_key="orders")
    expected = ["opened", "report_asset_materialization", "closed"]
    assert methods(writer.messages) == (expected if active else [])


@pytest.mark.parametrize(
    "options",
    [
        {"inactive": "quiet"},
        {"inactive": ["warn"]},
        {"max_buffered_bytes": 0},
        {"max_buffered_bytes": "64 MiB"},
        {"max_buffered_bytes": True},
        {"max_buffered_bytes": 1.5},
        {"close_timeout": -1},
        {"close_timeout": None},
        {"close_timeout": float("nan")},
        {"params_loader": "DAGSTER_PIPES_CONTEXT"},
        {"context_loader": "file"},
    ],
)
def test_open_pipes_refuses_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameterError, match=next(iter(options))):
        open_pipes(**options)


def test_a_message_writer_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match=r"`message_writer` must be .* got str"):
        launched("stdout").__enter__()


def test_a_second_materialization_of_an_asset_raises_at_the_call() -> None:
    writer = RecordingWriter()
    with launched(writer, data={"asset_keys": ["a", "b"]}) as pipes:
        pipes.report_asset_materialization(asset_key="a")
        pipes.report_asset_materialization(asset_key="b")
        with pytest.raises(UndefinedError, match="asset `a` has been materialized already"):
            pipes.report_asset_materialization(asset_key="a")
    assert methods(writer.messages).count("report_asset_materialization") == 2


def test_before_and_after_the_block_reporting_raises() -> None:
    pipes = launched(RecordingWriter())
    calls: list[Callable[[], object]] = [
        lambda: pipes.report_custom_message(1),
        lambda: pipes.report_asset_materialization(),
        lambda: pipes.report_asset_check("c", True),
        lambda: pipes.log_external_stream("stdout", ""),
        lambda: pipes.flush(),
    ]
    for call in calls:
        with pytest.raises(NotOpenError, match="not open yet"):
            call()
    with pytest.raises(NotOpenError, match="not open yet"):
        _ = pipes.run_id
    pipes.log.info("goes nowhere")
    with pipes:
        pass
    for call in calls:
        with pytest.raises(ClosedError, match="context is closed"):
            call()
    pipes.log.info("goes nowhere")
    assert pipes.run_id == "0c3f2a"
    with pytest.raises(ClosedError, match="entered once"):
        pipes.__enter__()
    pipes.close()


def test_an_open_context_is_not_entered_again() -> None:
    writer = RecordingWriter()
    with launched(writer) as pipes:
        with pytest.raises(ClosedError, match="entered once"):
            pipes.__enter__()
        pipes.report_custom_message("still open")
    assert methods(writer.messages) == ["opened", "report_custom_message", "closed"]


# The limit, as a script meets it. The table itself is tested with the outbox.


async def test_above_the_limit_on_the_loop() -> None:
    writer = GatedWriter()
    async with launched(writer, max_buffered_bytes=1000) as pipes:
        pipes.log.info("x" * 2000)
        writer.wait_entered()
        pipes.log.info("dropped")
        await asyncio.to_thread(lambda: None)
        with pytest.raises(BufferFullError, match="max_buffered_bytes"):
            pipes.report_custom_message(1)
        pipes.report_asset_materialization()
        waiting_for_room = asyncio.ensure_future(pipes.report_asset_check("c", True))
        await asyncio.sleep(0)
        assert not waiting_for_room.done()
        writer.open_for_good()
        await waiting_for_room
    assert methods(writer.messages)[2:] == [
        "report_asset_materialization",
        "report_asset_check",
        "closed",
    ]
    assert writer.messages[-1]["dropped"] == 1


async def test_a_thread_that_waits_for_room_does_not_stop_the_loops_logging() -> None:
    """Handlers of the standard library hold a lock while they emit."""
    writer = GatedWriter()
    async with launched(writer, max_buffered_bytes=1000) as pipes:
        pipes.log.info("x" * 2000)
        writer.wait_entered()
        assert pipes._outbox is not None
        waits = threading.Event()
        subscribe = pipes._outbox.on_room

        def on_room(callback: Callable[[], None]) -> None:
            subscribe(callback)
            waits.set()

        pipes._outbox.on_room = on_room  # type: ignore[method-assign]  # to see it wait
        thread = threading.Thread(target=pipes.log.info, args=("from a thread",))
        thread.start()
        assert waits.wait(PATIENCE)
        pipes.log.info("from the loop, dropped")  # would never return
        writer.open_for_good()
        await asyncio.to_thread(thread.join, PATIENCE)
    assert logged(writer.messages)[1:] == ["from a thread"]


# Flushing.


def test_flush_blocks_off_the_loop() -> None:
    writer = GatedWriter()
    writer.batch_bytes = 1  # a message a write
    with launched(writer) as pipes:
        pipes.report_custom_message(1)
        writer.wait_entered()
        flushed = threading.Event()

        def flush() -> None:
            pipes.flush()
            flushed.set()

        thread = threading.Thread(target=flush)
        thread.start()
        writer.let_through()
        writer.wait_entered()
        assert not flushed.is_set()
        writer.open_for_good()
        thread.join(PATIENCE)
        assert flushed.is_set()
        assert methods(writer.messages) == ["opened", "report_custom_message"]


async def test_flush_waits_on_the_loop_and_may_be_cancelled() -> None:
    writer = GatedWriter()
    async with launched(writer) as pipes:
        pipes.report_custom_message(1)
        flush = asyncio.ensure_future(pipes.flush())
        await asyncio.to_thread(writer.wait_entered)
        assert not flush.done()
        flush.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flush
        writer.open_for_good()
        await pipes.flush()
        assert methods(writer.messages) == ["opened", "report_custom_message"]


# A channel that fails.


def test_a_failed_channel_is_told_once_and_raises_at_flush_and_exit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    writer = FailingWriter(broken())
    told = pytest.raises(ChannelError, match="closing: 3 messages were not delivered: the cable")
    with told as exit_, launched(writer) as pipes:
        pipes.report_asset_materialization()
        pipes.report_custom_message(1)
        with pytest.raises(ChannelError, match="flush: 2 messages") as flush:
            pipes.flush()
        assert flush.value.undelivered == 2
        pipes.log.info("nobody hears")
    assert exit_.value.undelivered == 3
    assert exit_.value.__cause__ is writer.error
    assert writer.closed == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the script goes on" in error


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_exception_of_the_body_is_never_replaced(asynchronous: bool) -> None:
    pipes = launched(FailingWriter(broken()))
    with pytest.raises(ZeroDivisionError) as caught:
        if asynchronous:
            async with pipes:
                raise ZeroDivisionError
        else:
            with pipes:
                raise ZeroDivisionError
    assert caught.value.__cause__ is None
    assert pipes.is_closed


def test_a_transient_fault_is_not_noticed() -> None:
    writer = FailingWriter(busy(), times=2, immediate=True)
    with launched(writer) as pipes:
        pipes.report_asset_materialization()
        pipes.flush()
    assert methods(writer.messages) == ["opened", "report_asset_materialization", "closed"]


def test_what_cannot_be_opened_raises_on_entering() -> None:
    class Unopenable(RecordingWriter):
        def open(self) -> None:
            raise ChannelError("no such place")

    writer = Unopenable()
    pipes = launched(writer)
    with pytest.raises(ChannelError, match="no such place"):
        pipes.__enter__()
    assert writer.closed == 1
    assert not PipesContext.is_initialized()


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_close_timeout_ends_the_wait(asynchronous: bool) -> None:
    writer = GatedWriter()
    pipes = launched(writer, close_timeout=0.05)
    with pytest.raises(ChannelError, match=r"1 message was not .* close_timeout=0.05") as caught:
        if asynchronous:
            async with pipes:
                pipes.log.info("late")
        else:
            with pipes:
                pipes.log.info("late")
    assert caught.value.undelivered == 1
    writer.open_for_good()
    assert pipes._outbox is not None
    pipes._outbox._thread.join(PATIENCE)
    assert writer.closed == 1


# Exceptions and cancellation of the body.


def closed_with(writer: RecordingWriter) -> Any:
    last = writer.messages[-1]
    assert last["method"] == "closed"
    return last["params"].get("exception")


def test_an_exception_goes_to_the_host_and_to_the_caller() -> None:
    writer = RecordingWriter()
    with pytest.raises(ValueError, match="bad") as caught, launched(writer):
        raise ValueError("bad")
    assert caught.value.args == ("bad",)
    exception = closed_with(writer)
    assert exception["name"] == "ValueError"
    assert "bad" in exception["message"]


@pytest.mark.host  # which brings exceptiongroup on Python 3.10
@pytest.mark.parametrize("extension", [True, False])
def test_every_leaf_of_a_group_reaches_the_host(extension: bool) -> None:
    writer = RecordingWriter()
    with (
        pytest.raises(ExceptionGroup),
        launched(writer, OURS if extension else {}),
    ):
        inner = ExceptionGroup("inner", [KeyError("leaf two")])
        raise ExceptionGroup("outer", [ValueError("leaf one"), inner])
    text = str(closed_with(writer))
    assert "leaf one" in text
    assert "leaf two" in text


@pytest.mark.parametrize(("code", "clean"), [(0, True), (None, True), (3, False), ("no", False)])
def test_sys_exit(code: Any, clean: bool) -> None:
    writer = RecordingWriter()
    with pytest.raises(SystemExit), launched(writer) as pipes:
        sys.exit(code)
    assert pipes.is_closed
    assert (closed_with(writer) is None) is clean


@pytest.mark.host
@pytest.mark.usefixtures("any_loop")
async def test_a_cancelled_body_closes_with_it() -> None:
    writer = RecordingWriter()
    inside = asyncio.Event()

    async def script() -> None:
        async with launched(writer):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(script())
    await inside.wait()
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed_with(writer)["name"] == "CancelledError"


async def test_a_cancellation_while_closing_waits_and_is_raised_afterwards() -> None:
    writer = GatedWriter()
    pipes = launched(writer)

    async def script() -> None:
        async with pipes:
            pass

    task = asyncio.create_task(script())
    await asyncio.to_thread(writer.wait_entered)
    while not pipes.is_closed:
        await asyncio.sleep(0)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()
    writer.open_for_good()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert methods(writer.messages) == ["opened", "closed"]
    assert writer.closed == 1


async def test_an_exception_goes_before_a_cancellation_while_closing() -> None:
    writer = GatedWriter()
    pipes = launched(writer)
    seen: list[str] = []

    async def script() -> None:
        try:
            async with pipes:
                raise ValueError("first")
        except ValueError:
            seen.append("ValueError")
        await asyncio.sleep(0)
        seen.append("not reached")

    task = asyncio.create_task(script())
    while not pipes.is_closed:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    writer.open_for_good()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["ValueError"]


if sys.version_info >= (3, 11):  # asyncio.timeout, and tasks that count their cancellations

    async def test_a_timeout_that_strikes_while_closing_is_a_timeout() -> None:
        """A cancellation that is held back and asked for again must not be counted twice."""
        writer = GatedWriter()
        pipes = launched(writer)

        async def script() -> None:
            async with asyncio.timeout(None) as timeout:
                timeouts.append(timeout)
                try:
                    async with pipes:
                        raise ValueError("first")
                except ValueError:
                    await asyncio.Event().wait()

        timeouts: list[Any] = []
        task = asyncio.create_task(script())
        while not pipes.is_closed:
            await asyncio.sleep(0)
        timeouts[0].reschedule(asyncio.get_running_loop().time())
        while not timeouts[0].expired():
            await asyncio.sleep(0)
        writer.open_for_good()
        with pytest.raises(TimeoutError):
            await task


async def test_a_cancellation_while_entering_leaves_nothing_open() -> None:
    class Slow(RecordingWriter):
        def open(self) -> None:
            super().open()
            opening.set()
            assert go_on.wait(PATIENCE)

    opening, go_on = threading.Event(), threading.Event()
    writer = Slow()

    async def script() -> None:
        async with launched(writer):
            raise AssertionError("the body must not run")

    task = asyncio.create_task(script())
    await asyncio.to_thread(opening.wait, PATIENCE)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (writer.opened, writer.closed) == (1, 1)
    assert not PipesContext.is_initialized()


# Finding the context.


async def test_get_in_the_task_in_a_child_task_and_in_a_thread() -> None:
    with pytest.raises(NotOpenError, match="no pipes context is open"):
        PipesContext.get()
    assert not PipesContext.is_initialized()

    async def child() -> PipesContext:
        return PipesContext.get()

    async with launched(RecordingWriter()) as pipes:
        assert PipesContext.is_initialized()
        assert PipesContext.get() is pipes
        assert await asyncio.create_task(child()) is pipes
        assert in_thread(PipesContext.get) is pipes
    with pytest.raises(NotOpenError):
        PipesContext.get()


async def test_two_at_once_in_two_tasks() -> None:
    writers = [RecordingWriter(), RecordingWriter()]
    both = asyncio.Event()
    opened = 0

    async def script(writer: RecordingWriter, name: str) -> None:
        nonlocal opened
        async with launched(writer) as pipes:
            opened += 1
            if opened == 2:
                both.set()
            await both.wait()
            assert PipesContext.get() is pipes
            PipesContext.get().log.info(name)
            with pytest.raises(AmbiguousContextError, match="2 pipes contexts are open"):
                in_thread(PipesContext.get)
            here = contextvars.copy_context()
            assert in_thread(lambda: here.run(PipesContext.get)) is pipes
            if opened == 3:
                await asyncio.sleep(0)

    await asyncio.gather(script(writers[0], "one"), script(writers[1], "two"))
    assert [logged(writer.messages) for writer in writers] == [["one"], ["two"]]
    assert writers[0].messages[0]["writer"] != writers[1].messages[0]["writer"]


def test_one_after_the_other_in_one_process(tmp_path: Path) -> None:
    file = tmp_path / "messages"
    for number in range(3):
        with open_pipes(params_loader=bootstrap({"path": str(file), **OURS})) as pipes:
            assert PipesContext.get() is pipes
            pipes.report_asset_materialization({"n": number})
        pipes.log.info("after closing")
    messages = parsed(file.read_bytes())
    assert methods(messages) == ["opened", "report_asset_materialization", "closed"] * 3
    assert len({m["writer"] for m in messages}) == 3


def test_nested_contexts_give_the_outer_one_back() -> None:
    with launched(RecordingWriter()) as outer:
        with launched(RecordingWriter()) as inner:
            assert PipesContext.get() is inner
        assert PipesContext.get() is outer


def test_left_in_another_context_than_entered() -> None:
    pipes = launched(RecordingWriter())
    contextvars.copy_context().run(pipes.__enter__)
    assert PipesContext.get() is pipes
    pipes.__exit__(None, None, None)
    assert not PipesContext.is_initialized()


# Not launched by a host.


def test_inactive_warn_checks_everything_and_sends_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.warns(InactiveWarning, match="was not launched by a Dagster Pipes host") as caught:
        pipes = open_pipes().__enter__()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    pipes.report_asset_materialization({"rows": 1})
    pipes.report_asset_check("c", False)
    pipes.report_custom_message(1)
    pipes.log.error("nothing")
    pipes.log_external_stream("stdout", "nothing")
    pipes.flush()
    assert (pipes.is_asset_step, pipes.is_partition_step) == (False, False)
    assert (pipes.run_id, pipes.job_name, pipes.retry_number) == ("", None, 0)
    assert dict(pipes.extras) == {}
    with pytest.raises(UndefinedError, match="extra `day` is undefined: this process was not"):
        pipes.get_extra("day")
    with pytest.raises(UndefinedError, match="not launched by a host"):
        _ = pipes.asset_key
    with pytest.raises(AttributeError):
        pipes.no_such_attribute  # type: ignore[attr-defined]  # noqa: B018
    pipes.close()
    assert capfd.readouterr() == ("", "")


async def test_inactive_async_warns_at_the_with_and_gives_turns() -> None:
    with pytest.warns(InactiveWarning) as caught:
        async with open_pipes() as pipes:
            turns = 0

            async def tick() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            ticker = asyncio.create_task(tick())
            while turns < 5:
                await pipes.report_custom_message(1)
            ticker.cancel()
            await pipes.flush()
    assert caught[0].filename == __file__


def test_inactive_error() -> None:
    with pytest.raises(InactiveError, match="asyncpipes run -- COMMAND"):
        open_pipes(inactive="error").__enter__()
    assert not PipesContext.is_initialized()


def test_inactive_console_prints_readably(capsys: pytest.CaptureFixture[str]) -> None:
    with open_pipes(inactive="console") as pipes:
        pipes.log.warning("three %s", "left")
        pipes.report_asset_materialization({"rows": 2}, "v1", "orders")
        pipes.report_asset_check("empty", False, "WARN", {"n": 1}, "orders")
        pipes.report_asset_check("full", True)
        pipes.report_custom_message({"big": "x" * 500})
        pipes.log_external_stream("stderr", "oops\n")
    out, error = capsys.readouterr()
    assert out == ""
    lines = error.splitlines()
    assert lines[:4] == [
        "[pipes] WARNING  three left",
        "[pipes] materialization orders rows=2 data_version=v1",
        "[pipes] check orders empty failed (WARN) n=1",
        "[pipes] check full passed",
    ]
    assert lines[4].startswith("[pipes] custom message {'big': 'xxx")
    assert len(lines[4]) < 250
    assert lines[5] == "[pipes] stderr 'oops\\n'"


def test_console_survives_a_closed_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", open(os.devnull, "w"))  # noqa: SIM115  # to be closed
    sys.stderr.close()
    with open_pipes(inactive="console") as pipes:
        pipes.report_custom_message(1)


# What the host handed over cannot be used.

GOOD = encoded({"data": {}})
BAD: list[tuple[dict[str, str], type[BootstrapError], str]] = [
    ({"DAGSTER_PIPES_CONTEXT": GOOD}, BootstrapMissingError, "DAGSTER_PIPES_MESSAGES"),
    ({"DAGSTER_PIPES_MESSAGES": GOOD}, BootstrapMissingError, "DAGSTER_PIPES_CONTEXT"),
    (
        {"DAGSTER_PIPES_CONTEXT": "?!", "DAGSTER_PIPES_MESSAGES": GOOD},
        BootstrapEncodingError,
        "DAGSTER_PIPES_CONTEXT",
    ),
    (
        {"DAGSTER_PIPES_CONTEXT": bootstrap()["DAGSTER_PIPES_CONTEXT"][:-9]}
        | {"DAGSTER_PIPES_MESSAGES": GOOD},
        BootstrapTruncatedError,
        "DAGSTER_PIPES_CONTEXT",
    ),
    (
        {"DAGSTER_PIPES_CONTEXT": bootstrap()["DAGSTER_PIPES_CONTEXT"]}
        | {"DAGSTER_PIPES_MESSAGES": b64encode(zlib.compress(b"no json")).decode()},
        BootstrapEncodingError,
        "DAGSTER_PIPES_MESSAGES",
    ),
    (bootstrap({"stdio": "stderr"}), BootstrapEncodingError, r"message_writer"),
    (
        {**bootstrap({"path": "m"}), "DAGSTER_PIPES_CONTEXT": encoded({"bucket": "b"})},
        BootstrapEncodingError,
        "context_loader",
    ),
    (bootstrap({"path": "m"}, retry_number="three"), BootstrapEncodingError, "retry_number"),
]


@pytest.mark.parametrize(("environment", "kind", "pattern"), BAD)
@pytest.mark.parametrize("asynchronous", [True, False])
async def test_a_bad_bootstrap(
    environment: dict[str, str],
    kind: type[BootstrapError],
    pattern: str,
    asynchronous: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    pipes = open_pipes()
    with pytest.raises(kind, match=pattern) as caught:
        await pipes.__aenter__() if asynchronous else pipes.__enter__()
    assert type(caught.value) is kind
    assert not PipesContext.is_initialized()
    with pytest.raises(NotOpenError):
        _ = pipes.run_id


def test_a_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zlib.compress(b'{"a":"' + b"0" * (bootstrap_module.DEFAULT_LIMIT + 1) + b'"}')
    monkeypatch.setenv("DAGSTER_PIPES_CONTEXT", b64encode(bomb).decode())
    monkeypatch.setenv("DAGSTER_PIPES_MESSAGES", GOOD)
    with pytest.raises(BootstrapTooLargeError, match="DAGSTER_PIPES_CONTEXT"):
        open_pipes().__enter__()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (None, BootstrapError),
        (b'{"run_id":', BootstrapEncodingError),
        (b"[]", BootstrapEncodingError),
    ],
)
def test_a_context_file_that_cannot_be_used_is_named(
    tmp_path: Path, content: bytes | None, kind: type[PipesError]
) -> None:
    file = tmp_path / "context.json"
    if content is not None:
        file.write_bytes(content)
    environment = {**bootstrap({"path": str(tmp_path / "m")})}
    environment["DAGSTER_PIPES_CONTEXT"] = encoded({"path": str(file)})
    with pytest.raises(kind, match="context" if content == b"[]" else str(file)):
        open_pipes(params_loader=environment).__enter__()
    assert (tmp_path / "m").read_bytes() == b""


def test_a_context_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "context.json"
    file.write_text('{"run_id": "from the file", "extras": {}}')
    environment = {**bootstrap({"path": str(tmp_path / "m")})}
    environment["DAGSTER_PIPES_CONTEXT"] = encoded({"path": str(file)})
    with open_pipes(params_loader=environment) as pipes:
        assert pipes.run_id == "from the file"


def test_the_command_line_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = bootstrap({"path": str(tmp_path / "m")}, run_id="by argument")
    arguments = [
        f"--dagster-pipes-context={values['DAGSTER_PIPES_CONTEXT']}",
        "--dagster-pipes-messages",
        values["DAGSTER_PIPES_MESSAGES"],
    ]
    monkeypatch.setattr(sys, "argv", ["script.py", "--mine", *arguments])
    with open_pipes() as pipes:
        assert pipes.run_id == "by argument"


def test_a_messages_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    file = tmp_path / "missing" / "messages"
    with pytest.raises(ChannelError, match=str(file)):
        open_pipes(params_loader=bootstrap({"path": str(file)})).__enter__()


# Nothing is left behind.


def failing_entries(tmp_path: Path) -> list[Callable[[], PipesContext]]:
    class Unopenable(RecordingWriter):
        def opened_extras(self) -> dict[str, Any]:
            raise RuntimeError("no extras")

    file = {"path": str(tmp_path / "m")}
    return [
        lambda: launched(Unopenable()),
        lambda: open_pipes(params_loader=bootstrap(file, run_id=7)),
        lambda: open_pipes(params_loader=bootstrap(file), register_stock=True),
        lambda: open_pipes(params_loader=bootstrap({**file, "include_stdio_in_messages": True})),
        lambda: open_pipes(params_loader=bootstrap(file)),
        lambda: open_pipes(inactive="error"),
    ]


def test_failed_and_ended_contexts_leave_no_descriptor_and_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("the guard cannot be installed")

    monkeypatch.setitem(sys.modules, "dagster_pipes", None)
    monkeypatch.setattr("asyncpipes.external.lifecycle.TerminationGuard.join", refuse)
    before, threads = settled_fds(), set(threading.enumerate())
    for make in failing_entries(tmp_path):
        with pytest.raises((RuntimeError, PipesError)):
            make().__enter__()
        assert not PipesContext.is_initialized()
    with open_pipes(params_loader=bootstrap({"path": str(tmp_path / "m")}), handle_signals=False):
        pass
    gc.collect()
    assert open_fds() == before
    for thread in set(threading.enumerate()) - threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_host_is_told_of_a_failed_entry_that_it_could_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("the guard cannot be installed")

    monkeypatch.setattr("asyncpipes.external.lifecycle.TerminationGuard.join", refuse)
    writer = RecordingWriter()
    with pytest.raises(RuntimeError):
        launched(writer).__enter__()
    assert methods(writer.messages) == ["opened", "closed"]
    assert "guard" in closed_with(writer)["message"]


def test_a_warning_that_is_an_error_leaves_nothing_open() -> None:
    with ExitStack() as stack, pytest.raises(InactiveWarning):
        stack.enter_context(open_pipes())  # warnings are errors in these tests
    assert not PipesContext.is_initialized()


def test_usage_errors_are_one_family() -> None:
    assert issubclass(InvalidParameterError, UsageError)
    assert waiting.RETRY_SECONDS > 1


def test_a_message_that_no_host_takes_is_refused_at_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asyncpipes.external.reporting._MAX_HEAD", 1000)
    writer = RecordingWriter()
    with open_pipes(params_loader=bootstrap(OURS), message_writer=writer) as pipes:
        with pytest.raises(InvalidParameterError, match="report_custom_message: the message is"):
            pipes.report_custom_message("x" * 1000)
        pipes.log.info("shorter")
    assert methods(writer.messages) == ["opened", "log", "closed"]


@pytest.mark.parametrize(
    ("message", "extra", "expected"),
    [
        ("m" * 11000, "e", "m" * 2000 + "... (cut: 11000 characters in all)"),
        ("m" * 3000, "e" * 9000, "m" * 3000 + " (left out: extra, 9014 bytes)"),
        (
            "m" * 11000,
            "e" * 9000,
            "m" * 2000 + "... (cut: 11000 characters in all) (left out: extra, 9014 bytes)",
        ),
    ],
)
def test_a_log_line_that_no_host_takes_says_what_is_gone(
    message: str, extra: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too long, and no more than that: the other fields stay, and so does the message."""
    monkeypatch.setattr("asyncpipes.external.reporting._MAX_HEAD", 10_000)
    monkeypatch.setattr("asyncpipes.external.reporting._CUT_LOG", 2_000)
    writer = RecordingWriter()
    with open_pipes(params_loader=bootstrap(OURS), message_writer=writer) as pipes:
        pipes.log.info(message, extra={"context": extra})
    assert logged(writer.messages) == [expected]
    fields = writer.messages[1]["fields"]
    assert fields["logger"] == "asyncpipes"
    assert ("extra" in fields) is (extra == "e")


def test_a_stock_host_has_no_such_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncpipes.external.reporting._MAX_HEAD", 1000)
    writer = RecordingWriter()
    with open_pipes(params_loader=bootstrap(), message_writer=writer) as pipes:
        pipes.report_custom_message("x" * 1000)
    assert methods(writer.messages) == ["opened", "report_custom_message", "closed"]


def test_a_value_that_cannot_be_shown_is_refused_all_the_same() -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    writer = RecordingWriter()
    with open_pipes(params_loader=bootstrap(OURS), message_writer=writer) as pipes:
        with pytest.raises(InvalidParameterError, match="`asset_key` must be str"):
            pipes.report_asset_materialization(asset_key=Hostile())  # type: ignore[arg-type]
        with pytest.raises(InvalidParameterError, match="`severity` must be WARN or ERROR"):
            pipes.report_asset_check("c", True, severity=Hostile())  # type: ignore[arg-type]
