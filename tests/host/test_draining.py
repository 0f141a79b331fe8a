"""What is read after the script's end, and who is waited for: all of it, and nobody in vain."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from asyncpipes import CustomMessageEvent, Event, HealthEvent, open_pipes_session, run
from asyncpipes.channels import FileChannel
from asyncpipes.channels.base import ChannelReader
from asyncpipes.host import runner as runner_module
from tests.support import PATIENCE
from tests.support_host import (
    Gate,
    asyncio_timeout,
    group_members,
    is_alive,
    raw_child,
    script,
    until,
)

STILL_WRITING = "others were still writing to the channel when reading ended"
#: No test can wait for that.
FOR_EVER = 3600.0
LINE = b'{"__dagster_pipes_version":"0.1","method":"log","params":'
LINE += b'{"message":"more","level":"INFO"}}\n'
#: A writer of ours, by hand.
OURS = """
def ours(method, number, **params):
    line = json.loads(message(method, **params))
    line.update(writer="w%d" % os.getpid(), seq=number, sent_at=time.time())
    if method == "opened":
        line["pid"] = os.getpid()
    raw(json.dumps(line).encode() + b"\\n")
"""


class Flood(FileChannel):
    """Whenever somebody looks, others have written more than can be read.

    Attributes:
        reads: for each question about what is there, how many reads came after it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[int] = []

    async def open_reader(self) -> ChannelReader:
        reader = await super().open_reader()
        read, read_available, backlog = reader.read, reader.read_available, reader.backlog

        async def flooded_read() -> bytes:
            if not self.reads:
                return await read()
            await asyncio.sleep(0)
            return await flooded_read_available()

        async def flooded_read_available() -> bytes:
            if not self.reads:
                return await read_available()
            self.reads[-1] += 1
            return await read_available() or LINE

        async def flooded_backlog() -> int | None:
            self.reads.append(0)
            # The first is for what was there when the script ended.
            return await backlog() if len(self.reads) == 1 else 1 << 60

        reader.read = flooded_read  # type: ignore[method-assign]  # the fault
        reader.read_available = flooded_read_available  # type: ignore[method-assign]
        reader.backlog = flooded_backlog  # type: ignore[method-assign]
        return reader


async def test_who_writes_on_after_its_time_decides_nothing(
    any_loop: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is open and lives, so what is there in the end counts, but not all of it."""
    monkeypatch.setattr(runner_module, "_LAST_BYTES", 10 * len(LINE))
    channel = Flood()
    body = """
        opened()
        if os.fork():
            os._exit(0)
        os.closerange(0, 3)
        signal.pause()
    """
    async with (
        asyncio_timeout(PATIENCE),
        open_pipes_session(
            channel=channel, strict=False, collect="none", drain_timeout=0.1
        ) as session,
    ):
        process = await session.launch(raw_child(body))
    try:
        assert STILL_WRITING in session.outcome.reasons
        assert len(channel.reads) == 2
        # One more to see that there was more, one for what came until writers were told, and
        # maybe the repetition of one that was begun before that.
        assert 10 < channel.reads[-1] <= 10 + 3
    finally:
        os.killpg(process.pid, signal.SIGKILL)


async def test_who_writes_on_when_all_have_closed_has_drain_timeout(any_loop: None) -> None:
    channel = Flood()
    async with (
        asyncio_timeout(PATIENCE),
        # Long enough for the first look to be over before, or there is no second one.
        open_pipes_session(
            channel=channel, strict=False, collect="none", drain_timeout=2
        ) as session,
    ):
        await session.launch(raw_child("opened(); closed()"))
    assert STILL_WRITING in session.outcome.reasons
    # Once when the script has ended, once when its group is gone, and not in the end: what
    # is there then is nobody's.
    assert len(channel.reads) == 2


class Behind(FileChannel):
    """Lets a writer begin at the first look, and at each later one waits for it to be ahead.

    Which makes it the faster one, whoever of the two the machine lets run.
    """

    def __init__(self, go: Gate, ahead: int) -> None:
        super().__init__()
        self._go = go
        self._ahead = ahead

    async def open_reader(self) -> ChannelReader:
        reader = await super().open_reader()
        backlog = reader.backlog
        looks = 0

        async def backlog_of_a_slow_reader() -> int | None:
            nonlocal looks
            looks += 1
            if looks == 1:
                await self._go.open()
                return await backlog()
            while (left := await backlog()) is None or left < self._ahead:
                await asyncio.sleep(0.005)
            return left

        reader.backlog = backlog_of_a_slow_reader  # type: ignore[method-assign]  # the fault
        return reader


async def test_a_real_writer_that_is_faster_than_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member of the group that has not closed, and writes more than is read in the end."""
    monkeypatch.setattr(runner_module, "_LAST_BYTES", 1024 * 1024)
    go, limit = Gate(tmp_path, "go"), tmp_path / "limit"
    body = f"""
        opened()
        if os.fork():
            os._exit(0)
        os.closerange(0, 3)
        wait_for({go.path!r})
        lines = message("log", message="more", level="INFO") * 10_000
        # It never comes to the bound: the reader has no time for a tenth of that.
        while not os.path.exists({str(limit)!r}) and os.fstat(FD).st_size < 256 * 1024 * 1024:
            raw(lines)
            time.sleep(0.002)
    """
    async with (
        asyncio_timeout(PATIENCE),
        open_pipes_session(
            channel=Behind(go, 4 * 1024 * 1024), strict=False, collect="none", drain_timeout=0.1
        ) as session,
    ):
        process = await session.launch(raw_child(body))
    limit.touch()
    assert STILL_WRITING in session.outcome.reasons
    assert not session.outcome.closed
    await until(lambda: group_members(process.pid) == [], "it has seen the file")


async def test_all_that_was_there_when_the_script_ended_is_read_whatever_the_time() -> None:
    """With no time at all for those who are still open."""
    body = """
        opened()
        payload = "x" * 1000
        custom(*[payload] * 20_000)
        if not os.fork():
            os.closerange(0, 3)
            signal.pause()
    """
    async with open_pipes_session(strict=False, drain_timeout=0) as session:
        process = await session.launch(raw_child(body))
    try:
        assert len(session.result.custom_messages) == 20_000
        assert not session.outcome.closed
    finally:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("opened(); custom(1); os._exit(3)", 3),
        (OURS + 'ours("opened", 1, extras={})\nours("report_custom_message", 2, payload=1)', 0),
    ],
    ids=["stock", "ours"],
)
async def test_a_script_that_died_without_closing_is_not_waited_for(
    any_loop: None, body: str, code: int
) -> None:
    health: list[Event] = []
    async with (
        asyncio_timeout(PATIENCE),
        open_pipes_session(strict=False, drain_timeout=FOR_EVER) as session,
    ):
        session.subscribe(health.append, HealthEvent)
        await session.launch(raw_child(body))
    assert session.outcome.exit_code == code
    assert not session.outcome.closed
    assert [event.status for event in health if isinstance(event, HealthEvent)] == ["dead"]
    assert len(session.result.custom_messages) == 1


WORKERS = {
    "stock": "opened()",
    "ours": 'ours("opened", 1, extras={})',
}


@pytest.mark.parametrize("kind", WORKERS)
async def test_a_worker_that_dies_later_is_waited_for_until_then(
    any_loop: None, tmp_path: Path, kind: str
) -> None:
    """And what it wrote in its last moment is read."""
    gate = Gate(tmp_path)
    last = "custom(1)" if kind == "stock" else 'ours("report_custom_message", 2, payload=1)'
    body = f"""{OURS}
if os.fork():
    wait_for({str(tmp_path / "go")!r})
    os._exit(0)
os.closerange(0, 3)
{WORKERS[kind]}
wait_for({gate.path!r})
{last}
os._exit(0)
"""
    go = Gate(tmp_path, "go")
    health: list[Event] = []

    async with (
        asyncio_timeout(PATIENCE),
        open_pipes_session(strict=False, drain_timeout=FOR_EVER) as session,
    ):
        session.subscribe(health.append, HealthEvent)
        process = await session.launch(raw_child(body))
        await until(lambda: session.health.state == "open", "the worker is open")
        await go.open()
        await process.wait()
        runner = session._runner
        assert runner is not None
        await until(lambda: runner.reading_over, "the session has seen the script's end")
        [worker] = group_members(process.pid)
        assert is_alive(worker)
        assert health == []
        await gate.open()
    assert [event.status for event in health if isinstance(event, HealthEvent)] == ["dead"]
    assert [type(event) for event in session.result.custom_messages] == [CustomMessageEvent]
    assert session.outcome.exit_code == 0
    assert STILL_WRITING not in session.outcome.reasons


@pytest.mark.parametrize("seconds", [0.05, 0.3])
async def test_a_worker_that_first_reports_after_the_script_has_ended(
    tmp_path: Path, seconds: float
) -> None:
    """Within `drain_timeout` it is read; until its group is gone it may yet begin."""
    command = script(
        tmp_path,
        f"""
        import os, time, warnings
        from asyncpipes import open_pipes
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        with open_pipes() as pipes:
            parent = os.getpid()
            if os.fork() == 0:
                while os.getppid() == parent:
                    time.sleep(0.001)
                time.sleep({seconds})
                pipes.report_asset_materialization(asset_key="late")
                pipes.close()
                os._exit(0)
            pipes.report_asset_materialization(asset_key="main")
        """,
    )
    result = await run(command, drain_timeout=60.0)
    assert [event.asset_key for event in result.materializations] == ["main", "late"]
    assert result.outcome.ok
