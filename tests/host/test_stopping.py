"""How a run is ended before its time: exceptions, cancellation, timeouts, signals."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import textwrap
import threading
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncpipes import (
    ChannelError,
    CustomMessageEvent,
    Event,
    LogEvent,
    NotOpenError,
    OpenedEvent,
    Outcome,
    PipesSession,
    SessionTimeoutError,
    open_pipes_session,
    run,
)
from asyncpipes.channels import FileChannel
from asyncpipes.channels.base import ChannelReader
from asyncpipes.host.runner import Phase
from tests.support import PATIENCE
from tests.support_host import (
    RAW,
    FailingChannel,
    Gate,
    asyncio_timeout,
    group_members,
    is_alive,
    raw_child,
    script,
    until,
)

#: Tells its pid, then waits for ever.
WAITING = "opened(); custom(os.getpid())\nwhile True: signal.pause()"
QUICK: dict[str, Any] = {"drain_timeout": 0.2, "grace": 0.2}
#: Where SIGINT is to end the script: one that needs longer would be ended by the next signal.
BY_SIGINT: dict[str, Any] = {"drain_timeout": 0.2, "grace": 20}


async def pid_of(session: PipesSession) -> int:
    """The pid that :data:`WAITING` reports."""
    async for event in session.events(CustomMessageEvent):
        assert isinstance(event, CustomMessageEvent)
        return int(event.payload)
    raise AssertionError("the script ended before it told its pid")


class Boom(Exception):
    """What the body raises."""


async def test_an_exception_of_the_body_ends_the_group_and_stays_what_it_is(any_loop: None) -> None:
    boom = Boom()
    session = open_pipes_session(**BY_SIGINT)
    with pytest.raises(Boom) as info:
        async with session:
            process = await session.launch(raw_child(WAITING))
            await pid_of(session)
            raise boom
    assert info.value is boom
    assert boom.__context__ is None
    assert group_members(process.pid) == []
    assert process.returncode == -signal.SIGINT
    assert session.outcome.cancelled
    assert session.outcome.signal == signal.SIGINT
    assert session.outcome.reasons[0] == "the host's block raised Boom"
    assert len(session.result.custom_messages) == 1


@pytest.mark.parametrize("how", ["task.cancel", "move_on_after"])
@pytest.mark.parametrize("where", ["enter", "launch", "body", "wait_drained", "exit"])
async def test_cancellation_leaves_nothing(
    any_loop: None, where: str, how: str, temporary: Path
) -> None:
    options = QUICK if where in ("enter", "launch") else BY_SIGINT
    session = open_pipes_session(extras={"big": "x" * 100_000}, **options)
    reached = asyncio.Event()
    processes: list[Any] = []

    async def host() -> None:
        if where == "enter":
            reached.set()
        async with session:
            if where == "launch":
                reached.set()
            processes.append(await session.launch(raw_child(WAITING)))
            await pid_of(session)
            reached.set()
            if where == "body":
                await asyncio.Event().wait()
            elif where == "wait_drained":
                await session.wait_drained()

    if how == "task.cancel":
        task = asyncio.ensure_future(host())
        await reached.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:

                async def cancel() -> None:
                    await reached.wait()
                    scope.cancel()

                group.start_soon(cancel)
                await host()
            assert scope.cancelled_caught
    assert list(temporary.iterdir()) == []
    for process in processes:
        assert group_members(process.pid) == []
    if where not in ("enter", "launch"):
        assert session.outcome.cancelled
        assert session.outcome.signal == signal.SIGINT


@pytest.mark.parametrize("steps", range(8))
async def test_cancellation_some_steps_after_the_start_leaves_nothing(
    any_loop: None, steps: int, temporary: Path
) -> None:
    # Whatever await of enter and launch it meets.
    session = open_pipes_session(extras={"big": "x" * 100_000}, **QUICK)

    async def host() -> None:
        async with session:
            await session.launch(raw_child(WAITING))
            await asyncio.Event().wait()

    task = asyncio.ensure_future(host())
    for _ in range(steps * 2):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(temporary.iterdir()) == []
    children = await asyncio.to_thread(_children)
    assert children == []


def _children() -> list[str]:
    listed = subprocess.run(
        ["ps", "--no-headers", "-o", "args", "--ppid", str(os.getpid())],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    return [line for line in listed.splitlines() if "signal.pause" in line]


async def test_a_launch_that_fails_after_the_body_was_cancelled_makes_no_noise(
    any_loop: None,
) -> None:
    session = open_pipes_session(**QUICK)

    async def host() -> None:
        async with session:
            launching.set()
            await session.launch(["/no/such/program"])

    launching = asyncio.Event()
    task = asyncio.ensure_future(host())
    await launching.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert any("/no/such/program" in reason for reason in session.outcome.reasons)
    assert not any("the session failed" in reason for reason in session.outcome.reasons)


async def test_cancelling_run_leaves_nothing(any_loop: None, temporary: Path) -> None:
    pids: list[int] = []
    seen = asyncio.Event()

    def note(event: CustomMessageEvent) -> None:
        pids.append(event.payload)
        seen.set()

    task = asyncio.ensure_future(
        run(raw_child(WAITING), subscribers=[(note, CustomMessageEvent)], **QUICK)
    )
    await seen.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert group_members(pids[0]) == []
    assert list(temporary.iterdir()) == []


async def test_a_channel_whose_opening_hangs_can_be_cancelled(any_loop: None) -> None:
    opening = asyncio.Event()

    class Hanging(FileChannel):
        async def open_reader(self) -> ChannelReader:
            opening.set()
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    async def host() -> None:
        async with open_pipes_session(channel=Hanging()):
            raise AssertionError("unreachable")

    task = asyncio.ensure_future(host())
    await opening.wait()
    task.cancel()
    async with asyncio_timeout(PATIENCE):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_channel_that_cannot_be_opened_raises_from_entering(tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match="no_such_directory/messages"):
        async with open_pipes_session(channel=FileChannel(tmp_path / "no_such_directory/messages")):
            raise AssertionError("unreachable")


async def test_a_channel_that_fails_ends_the_run_and_is_in_the_outcome(any_loop: None) -> None:
    seen: list[Event] = []
    channel = FailingChannel(ChannelError("the disk is gone"), gives=1)
    async with open_pipes_session(channel=channel, strict=False, **BY_SIGINT) as session:
        session.subscribe(seen.append)
        process = await session.launch(raw_child(WAITING))
        assert await process.wait() == -signal.SIGINT
    assert "the disk is gone" in session.outcome.reasons
    # What was read before it failed has been delivered.
    assert len(seen) >= 1
    assert session.outcome.undelivered == 0


ESCALATION = {
    "takes SIGINT": (WAITING, signal.SIGINT),
    "ignores SIGINT": (f"signal.signal(signal.SIGINT, signal.SIG_IGN)\n{WAITING}", signal.SIGTERM),
    "ignores both": (
        f"[signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)]\n{WAITING}",
        signal.SIGKILL,
    ),
}


@pytest.mark.parametrize("name", ESCALATION)
async def test_from_sigint_to_sigterm_to_sigkill(any_loop: None, name: str) -> None:
    body, ended_by = ESCALATION[name]
    # The kernel knows at once whom a signal that it handles itself has ended; Python's end, by
    # a KeyboardInterrupt, takes its time.
    grace = 20 if ended_by == signal.SIGINT else 0.1
    session = open_pipes_session(drain_timeout=0.2, grace=grace)
    with pytest.raises(Boom):
        async with session:
            process = await session.launch(raw_child(body))
            await pid_of(session)
            raise Boom
    assert session.outcome.signal == ended_by
    assert group_members(process.pid) == []


async def test_a_script_may_use_its_grace_and_what_it_says_then_arrives(any_loop: None) -> None:
    body = "try:\n    " + WAITING.replace("\n", "\n    ")
    body += "\nexcept KeyboardInterrupt:\n    custom('cleaned up'); closed(); sys.exit(0)"
    session = open_pipes_session(grace=20)
    with pytest.raises(Boom):
        async with session:
            await session.launch(raw_child(body))
            await pid_of(session)
            raise Boom
    assert session.outcome.exit_code == 0
    assert session.result.custom_messages[-1].payload == "cleaned up"


async def test_a_shell_wrapper_and_its_grandchildren_are_ended(
    any_loop: None, tmp_path: Path
) -> None:
    # A shell starts its background jobs with SIGINT ignored.
    command = script(tmp_path, RAW + textwrap.dedent(WAITING))
    session = open_pipes_session(**QUICK)
    with pytest.raises(Boom):
        async with session:
            process = await session.launch(["sh", "-c", '"$0" -S "$1" & sleep 1000', *command])
            grandchild = await pid_of(session)
            assert grandchild != process.pid
            raise Boom
    assert not is_alive(grandchild)
    assert group_members(process.pid) == []


async def test_the_group_is_ended_after_its_leader_has_gone(any_loop: None, tmp_path: Path) -> None:
    # The leader goes at SIGINT, at once; the other member ignores it, and does not get away.
    body = f"""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not os.fork():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            {WAITING.replace(chr(10), chr(10) + 12 * " ")}
        while True: signal.pause()
    """
    session = open_pipes_session(**QUICK)
    with pytest.raises(Boom):
        async with session:
            process = await session.launch(raw_child(body))
            other = await pid_of(session)
            raise Boom
    assert process.returncode == -signal.SIGINT
    assert not is_alive(other)


async def test_terminate_ends_the_group_and_is_no_error_afterwards(any_loop: None) -> None:
    async with open_pipes_session(strict=False, drain_timeout=0.2) as session:
        process = await session.launch(raw_child(WAITING))
        await pid_of(session)
        process.terminate()
        assert await process.wait() == -signal.SIGTERM
        process.terminate()
    assert session.outcome.signal == signal.SIGTERM
    assert not session.outcome.cancelled


async def test_a_timeout_is_in_the_outcome_and_the_error(any_loop: None) -> None:
    # No Python: that is ended by SIGINT in other ways while it starts.
    with pytest.raises(SessionTimeoutError, match=r"its timeout of 0\.3 seconds") as info:
        await run(["sleep", "1000"], timeout=0.3, forward_stdio=False, **QUICK)
    outcome = info.value.result.outcome
    assert (outcome.timed_out, outcome.cancelled) == (True, False)
    assert outcome.signal == signal.SIGINT


async def test_a_run_within_its_timeout_is_not_timed_out() -> None:
    result = await run(raw_child("opened(); closed()"), timeout=60)
    assert not result.outcome.timed_out


async def test_an_events_loop_goes_on_until_a_timed_out_run_is_drained(any_loop: None) -> None:
    body = "try:\n    " + WAITING.replace("\n", "\n    ")
    body += "\nexcept KeyboardInterrupt:\n    custom('last'); closed(); sys.exit(0)"
    async with open_pipes_session(strict=False, grace=20) as session:
        events = session.events(CustomMessageEvent)
        await session.launch(raw_child(body))
        await events.__anext__()
        assert not await session.wait_drained(timeout=0)
        payloads = [event.payload async for event in events]  # type: ignore[attr-defined]  # custom
    assert payloads == ["last"]


@pytest.mark.parametrize("launched", [True, False])
async def test_open_timeout(any_loop: None, launched: bool) -> None:
    with pytest.raises(SessionTimeoutError, match=r"within open_timeout=0\.1 seconds") as info:
        async with open_pipes_session(open_timeout=0.1, **QUICK) as session:
            if launched:
                await session.launch(raw_child("while True: signal.pause()"))
            else:
                assert session.env
    assert info.value.result.outcome.timed_out


async def test_open_timeout_is_over_once_a_script_has_opened(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with open_pipes_session(open_timeout=5) as session:
        events = session.events()
        await session.launch(raw_child(f"opened(); wait_for({gate.path!r}); closed()"))
        await events.__anext__()
        await until(
            lambda: not any("_watch_opening" in _name(task) for task in asyncio.all_tasks()),
            "nobody watches the opening any more",
        )
        await gate.open()


def _name(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", "")


async def _never(event: Event) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("many", [False, True], ids=["few events", "a full queue"])
async def test_a_subscriber_that_never_returns_does_not_hold_a_cancelled_exit(
    any_loop: None, many: bool
) -> None:
    started = asyncio.Event()
    total = 10_000 if many else 10

    async def host() -> None:
        async with session:
            session.subscribe(_never, CustomMessageEvent, max_events=20)
            process = await session.launch(
                raw_child(f"opened(); custom(*range({total})); closed()")
            )
            await process.wait()
            started.set()

    session = open_pipes_session(drain_timeout=0.1)
    task = asyncio.ensure_future(host())
    await started.wait()
    if many:
        await until(lambda: session.health.held_by != (), "the subscriber is full")
    task.cancel()
    async with asyncio_timeout(PATIENCE):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert session.outcome.undelivered == total
    assert f"{total} events did not reach a subscriber" in session.outcome.reasons
    assert "subscriber _never had not taken all in time" in session.outcome.reasons
    assert len(session.result.custom_messages) == total
    assert session.outcome.cancelled


async def test_a_subscriber_that_is_slow_has_its_time_after_a_cancellation(any_loop: None) -> None:
    release = asyncio.Event()
    seen: list[Event] = []

    async def slow(event: Event) -> None:
        await release.wait()
        seen.append(event)

    async def host() -> None:
        async with session:
            session.subscribe(slow, CustomMessageEvent)
            await session.launch(raw_child(WAITING))
            await pid_of(session)
            await asyncio.Event().wait()

    session = open_pipes_session(drain_timeout=20, grace=1)
    task = asyncio.ensure_future(host())
    await until(lambda: session.stats.events == 2, "the script is at work")
    task.cancel()
    await until(lambda: session.health.state == "drained", "only the delivery is left")
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(seen) == 1
    assert session.outcome.undelivered == 0


async def test_a_subscriber_blocked_in_its_thread_does_not_hold_a_cancelled_exit(
    any_loop: None,
) -> None:
    blocked, release = threading.Event(), threading.Event()
    seen: list[Event] = []

    def block(event: Event) -> None:
        blocked.set()
        release.wait()
        seen.append(event)

    async def host() -> None:
        async with session:
            session.subscribe(block, CustomMessageEvent, in_thread=True)
            await session.launch(raw_child("opened(); custom(1, 2, 3); closed()"))

    session = open_pipes_session(drain_timeout=0.1)
    task = asyncio.ensure_future(host())
    await asyncio.to_thread(blocked.wait)
    task.cancel()
    try:
        async with asyncio_timeout(PATIENCE):
            with pytest.raises(asyncio.CancelledError):
                await task
        assert session.outcome.undelivered == 3
    finally:
        release.set()
    await until(lambda: len(seen) == 1, "the call that was abandoned has ended")
    assert session.outcome.undelivered == 3  # and nothing was called after it


async def test_a_timeout_is_not_held_up_by_an_iterator_that_nobody_consumes(any_loop: None) -> None:
    body = "opened(); [custom(*range(100)) for _ in range(50)]\nwhile True: signal.pause()"
    async with open_pipes_session(strict=False, **QUICK) as session:
        events = session.events(max_events=1)
        await session.launch(raw_child(body))
        await until(lambda: session.health.held_by != (), "the iterator is full")
        async with asyncio_timeout(PATIENCE):
            assert not await session.wait_drained(timeout=0)
        await events.aclose()
    assert session.outcome.timed_out


async def test_a_second_cancellation_does_not_cut_the_end_short(any_loop: None) -> None:
    body = f"signal.signal(signal.SIGINT, signal.SIG_IGN)\n{WAITING}"
    session = open_pipes_session(drain_timeout=0.2, grace=0.2)
    pids: list[int] = []

    async def host() -> None:
        async with session:
            await session.launch(raw_child(body))
            pids.append(await pid_of(session))
            await asyncio.Event().wait()

    task = asyncio.ensure_future(host())
    await until(lambda: bool(pids), "the script is at work")
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert group_members(pids[0]) == []
    assert session.outcome.signal == signal.SIGTERM


def test_a_session_lives_through_a_generator_driven_by_one_task_an_item(temporary: Path) -> None:
    # As Dagster drives async assets: each item is a run_until_complete of its own.
    async def items() -> AsyncGenerator[Any, None]:
        async with open_pipes_session() as session:
            session.subscribe(seen.append, CustomMessageEvent, in_thread=True)
            await session.launch(raw_child("opened(); custom(1, 2, 3); print('x'); closed()"))
            async for event in session.events(CustomMessageEvent):
                yield event
        yield session.outcome

    seen: list[Event] = []
    received = []
    loop = asyncio.new_event_loop()
    try:
        generator = items()
        while True:
            try:
                received.append(loop.run_until_complete(generator.__anext__()))
            except StopAsyncIteration:
                break
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    *events, outcome = received
    assert [event.payload for event in events] == [1, 2, 3]
    assert events == seen
    assert outcome.ok


def test_a_generator_that_is_closed_halfway_ends_its_process() -> None:
    async def items() -> AsyncGenerator[int, None]:
        async with open_pipes_session(**QUICK) as session:
            await session.launch(raw_child(WAITING))
            yield await pid_of(session)
            raise AssertionError("unreachable")

    loop = asyncio.new_event_loop()
    try:
        generator = items()
        pid = loop.run_until_complete(generator.__anext__())
        loop.run_until_complete(generator.aclose())
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    assert group_members(pid) == []


HOST = """
import asyncio, sys
from asyncpipes import CustomMessageEvent, open_pipes_session

async def main():
    async with open_pipes_session(grace=5) as session:
        await session.launch({command!r})
        async for event in session.events(CustomMessageEvent):
            print(event.payload, flush=True)
            break
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_ctrl_c_at_a_real_host_ends_its_child(tmp_path: Path) -> None:
    host = script(tmp_path, HOST.format(command=raw_child(WAITING)), "host.py")
    with subprocess.Popen(host, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        pid = int(process.stdout.readline())
        assert is_alive(pid)
        process.send_signal(signal.SIGINT)
        error = process.stderr.read()
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in error
    assert b"never retrieved" not in error
    assert b"Task was destroyed" not in error
    assert not is_alive(pid)


async def test_stopping_while_only_the_delivery_is_left_is_bounded(any_loop: None) -> None:
    session = open_pipes_session(drain_timeout=0.1)

    async def host() -> None:
        async with session:
            session.subscribe(_never, LogEvent)
            await session.launch(raw_child("opened(); log('x'); closed()"))
            await session.wait_drained()
            drained.set()

    drained = asyncio.Event()
    task = asyncio.ensure_future(host())
    await drained.wait()
    task.cancel()
    async with asyncio_timeout(PATIENCE):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert session.outcome.exit_code == 0
    assert session.outcome.undelivered == 1


async def test_what_fails_inside_the_session_ends_it_and_is_in_the_outcome(
    any_loop: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(fd: int) -> None:
        raise AttributeError("a fault put in")

    monkeypatch.setattr(anyio, "wait_readable", broken)
    async with open_pipes_session(strict=False, **QUICK) as session:
        process = await session.launch(raw_child(WAITING))
        async with asyncio_timeout(PATIENCE):
            assert await process.wait() == -signal.SIGKILL
            await session.wait_drained()
    assert any("a fault put in" in reason for reason in session.outcome.reasons)
    assert group_members(process.pid) == []


async def test_somebody_who_keeps_writing_does_not_hold_the_exit(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    body = f"""
        opened()
        pid = os.fork()
        if not pid:
            os.setsid()
            while True:
                log("more")
        open({str(pid_file)!r}, "w").write(str(pid))
        closed()
    """
    try:
        async with asyncio_timeout(PATIENCE):
            result = await run(raw_child(body), timeout=15, strict=False, collect="none", **QUICK)
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
    # Whether its last words count as left behind or as out of turn, it is not ok.
    assert not result.outcome.ok
    assert not result.outcome.timed_out


async def test_what_never_ends_is_left_and_named() -> None:
    """As with somebody who keeps writing, but whenever the reader looks, there is more."""
    more = b'{"__dagster_pipes_version":"0.1","method":"log","params":'
    more += b'{"message":"more","level":"INFO"}}\n'

    class Endless(FileChannel):
        async def open_reader(self) -> ChannelReader:
            reader = await super().open_reader()
            read_available = reader.read_available

            async def never_empty() -> bytes:
                return await read_available() or more

            reader.read_available = never_empty  # type: ignore[method-assign]  # the fault
            return reader

    async with asyncio_timeout(PATIENCE):
        result = await run(
            raw_child("opened(); closed()"),
            channel=Endless(), timeout=15, strict=False, collect="none", **QUICK,
        )  # fmt: skip
    assert "others were still writing to the channel when reading ended" in result.outcome.reasons
    assert not result.outcome.timed_out


async def test_a_writer_that_outlives_the_process_and_closes_in_time_is_read(
    tmp_path: Path,
) -> None:
    gate = Gate(tmp_path)
    body = f"""
        opened()
        if not os.fork():
            wait_for({gate.path!r})
            custom(1)
            closed()
            os._exit(0)
    """
    async with open_pipes_session(drain_timeout=15) as session:
        process = await session.launch(raw_child(body))
        await process.wait()
        drained = asyncio.ensure_future(session.wait_drained())
        # Long enough for a session that does not wait to end; one that waits does not care.
        await asyncio.wait([drained], timeout=0.2)
        await gate.open()
        assert await drained
    assert session.outcome.ok
    assert len(session.result.custom_messages) == 1


#: A shell that waits for a child that takes neither SIGINT nor SIGTERM, and so does not
#: die before it: what only SIGKILL to the whole group ends.
STUBBORN = """
[signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)]
opened(); custom(os.getpid())
while True: signal.pause()
"""


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_a_stubborn_grandchild_behind_a_shell_is_killed(
    any_loop: None, tmp_path: Path, how: str
) -> None:
    command = script(tmp_path, RAW + STUBBORN)
    shell = ["sh", "-c", 'trap \'\' INT TERM; sh -c \'"$0" -S "$1"; :\' "$0" "$1"; :', *command]
    pids: list[int] = []
    async with open_pipes_session(strict=False, **QUICK) as session:
        process = await session.launch(shell)
        pids.append(await pid_of(session))
        assert len(group_members(process.pid)) == 3
        if how == "timed out":
            assert not await session.wait_drained(0.01)
        else:
            runner = session._runner
            assert runner is not None
            runner.stop(cancelled="by the test")
    assert session.outcome.signal == signal.SIGKILL
    assert not is_alive(pids[0])
    assert group_members(process.pid) == []


async def test_a_process_that_left_the_group_is_out_of_reach_and_holds_nothing_up(
    any_loop: None, tmp_path: Path
) -> None:
    """A daemon: signals to the group do not reach it. What the session owns ends all the same."""
    pid_file = tmp_path / "pid"
    body = f"""
        if not os.fork():
            os.setsid()
            with open({str(pid_file)!r}, "w") as file: file.write(str(os.getpid()))
            signal.pause()
        {WAITING.replace(chr(10), chr(10) + 8 * " ")}
    """
    try:
        async with asyncio_timeout(PATIENCE):
            with pytest.raises(Boom):
                async with open_pipes_session(**QUICK) as session:
                    process = await session.launch(raw_child(body))
                    await pid_of(session)
                    await until(lambda: pid_file.exists() and bool(pid_file.read_text()), "a pid")
                    raise Boom
        daemon = int(pid_file.read_text())
        assert group_members(process.pid) == []
        assert is_alive(daemon)
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


def _living_with(marker: str) -> list[int]:
    """The living processes, whosever children they are by now, that run what has ``marker``."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and marker in (entry / "cmdline").read_text(errors="replace"):
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [pid for pid in found if is_alive(pid)]


async def test_a_session_cancelled_at_any_turn_of_its_life_leaves_nothing(temporary: Path) -> None:
    """From before it is entered, over the launch, the reading, the drain, to after its end."""
    body = "opened(); custom('x' * 1000)\nif not os.fork(): signal.pause()\nclosed()"

    marker = f"# {temporary}"
    command = raw_child(f"{body}\n{marker}")

    async def host(session: PipesSession) -> Outcome:
        # A member of the group outlives the process, so there is something to drain.
        async with session:
            session.subscribe(lambda event: None, in_thread=True)
            process = await session.launch(command)
            await session.wait_drained()
            process.send_signal(signal.SIGKILL)  # the one that is left is the test's to end
        return session.outcome

    turns, cut_into = 0, []
    while True:
        session = open_pipes_session(
            extras={"big": "x" * 100_000}, strict=False, drain_timeout=0.05, grace=0.05
        )
        task = asyncio.ensure_future(host(session))
        for _ in range(turns):
            await asyncio.sleep(0)
            if task.done():
                break
        phase = session._runner and session._runner.phase
        task.cancel()
        try:
            outcome = await task
            break  # it was over before
        except asyncio.CancelledError:
            cut_into.append(phase)
        assert list(temporary.iterdir()) == []
        # The last one may have got its SIGKILL just now; without that it lives for ever.
        await until(lambda: _living_with(marker) == [], "all of them are gone")
        turns = max(turns + 1, turns * 5 // 4)
    # How many turns a life has depends on the machine; each of these takes several anywhere.
    assert len(cut_into) > 10
    assert cut_into[0] is None
    assert min(cut_into.count(phase) for phase in (Phase.OPENING, Phase.READING)) > 1
    # So it was the whole of a life that was cut into.
    [reason] = outcome.reasons
    assert "left others of its group running" in reason


# stop() and wait_over().


async def test_stop_ends_the_run_and_what_was_reported_is_there(any_loop: None) -> None:
    async with open_pipes_session(strict=False) as session:
        await session.launch(raw_child("opened(); custom(1); signal.pause()"))
        async for _ in session.events(CustomMessageEvent):
            session.stop("enough is known")
            session.stop("said twice, the first counts")
        await session.wait_over()
        assert session.outcome.cancelled
        assert session.outcome.reasons[0] == "enough is known"
    assert session.outcome.signal == signal.SIGINT
    assert len(session.result.custom_messages) == 1


async def test_stop_signals_before_it_returns() -> None:
    """Whoever calls it may have no turn of the loop left: a signal's handler, for one."""
    async with open_pipes_session(strict=False) as session:
        process = await session.launch(
            raw_child("signal.signal(2, lambda *_: os._exit(7)); opened(); signal.pause()")
        )
        async for _ in session.events(OpenedEvent):
            session.stop("now")
            deadline = time.monotonic() + PATIENCE
            # The loop, which would tell, does not run meanwhile.
            while is_alive(process.pid):
                assert time.monotonic() < deadline
    assert session.outcome.exit_code == 7


async def test_wait_over_and_stop_need_an_open_session() -> None:
    session = open_pipes_session(strict=False)
    with pytest.raises(NotOpenError):
        await session.wait_over()
    with pytest.raises(NotOpenError):
        session.stop("too early")


async def test_wait_over_changes_nothing_when_it_is_cancelled() -> None:
    async with open_pipes_session(strict=False) as session:
        waiting = asyncio.create_task(session.wait_over())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await session.launch(raw_child("opened(); closed()"))
    assert session.outcome.ok


async def test_stopping_from_a_callback_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signal's handler does, while our own stdout stalls: there is no task to ask in."""
    writing, released = threading.Event(), threading.Event()

    def stall(*_: object) -> None:
        writing.set()
        released.wait(PATIENCE)

    monkeypatch.setattr("asyncpipes.host.output.write_out", stall)
    loop = asyncio.get_running_loop()
    problems: list[Any] = []
    loop.set_exception_handler(lambda loop, context: problems.append(context))
    try:
        async with open_pipes_session(strict=False, drain_timeout=0.1, grace=0.2) as session:
            body = "opened(); print('x', flush=True)\nwhile True: signal.pause()"
            process = await session.launch(raw_child(body))
            await until(writing.is_set, "its output is being written")
            loop.call_soon(session.stop, "a signal came")
            await asyncio.sleep(0)
            if problems:
                process.kill()  # nobody else would end it
            await session.wait_over()
    finally:
        released.set()
    assert problems == []
    assert session.outcome.cancelled
    assert "a signal came" in session.outcome.reasons[0]
