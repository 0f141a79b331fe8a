"""The heartbeat: sent while nothing else happens, and while the script's loop is blocked."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import pytest

from asyncpipes import open_pipes
from asyncpipes.errors import NotOpenError
from asyncpipes.external import heartbeat as heartbeat_module
from asyncpipes.external.heartbeat import Heartbeat
from asyncpipes.external.link import Link
from asyncpipes.external.outbox import Kind, Outbox
from asyncpipes.external.waiting import block
from asyncpipes.protocol.messages import encode_head
from tests.support import (
    PATIENCE,
    FailingWriter,
    GatedWriter,
    RecordingWriter,
    bootstrap,
    busy,
    methods,
    parsed,
    run_script,
    wait_until,
)

INTERVAL = 0.05
BEATING = bootstrap({"asyncpipes": {"v": 1, "heartbeat": INTERVAL}})


def beats(writer: RecordingWriter) -> list[dict[str, Any]]:
    return [m for m in writer.messages if m["method"] == "asyncpipes.heartbeat"]


def wait_for_beats(writer: RecordingWriter, count: int) -> None:
    wait_until(lambda: len(beats(writer)) >= count, f"{count} heartbeats")


def test_an_idle_script_shows_that_it_lives() -> None:
    writer = RecordingWriter()
    with open_pipes(params_loader=BEATING, message_writer=writer) as pipes:
        pipes.log.info("before")
        wait_for_beats(writer, 3)
        pipes.log.info("after")
    messages = writer.messages
    opened, closed = messages[0], messages[-1]
    assert (opened["method"], closed["method"]) == ("opened", "closed")
    for beat in beats(writer):
        assert beat["params"] == {"interval": INTERVAL, "lag": None, "pid": os.getpid()}
        assert beat["writer"] == opened["writer"]
        assert "seq" not in beat
    assert opened["pid"] == os.getpid()
    numbered = [m["seq"] for m in messages if "seq" in m]
    assert numbered == [1, 2, 3, 4]  # a heartbeat takes no number


@pytest.mark.parametrize("offer", [{}, {"heartbeat": None}, {"heartbeat": "soon"}])
def test_a_host_that_asks_for_none_gets_none(offer: dict[str, Any]) -> None:
    writer = RecordingWriter()
    params = bootstrap({"asyncpipes": {"v": 1, **offer}})
    pause = threading.Event()
    with open_pipes(params_loader=params, message_writer=writer) as pipes:
        for _ in range(5):
            pipes.log.info("hello")
            pause.wait(2 * INTERVAL)
    assert methods(writer.messages) == ["opened", *["log"] * 5, "closed"]


async def test_a_blocked_loop_is_told_by_its_lag(any_loop: None) -> None:
    """The heartbeat goes out while the loop is blocked, and says for how long it has been."""
    writer = RecordingWriter()

    def lags() -> list[float]:
        return [beat["params"]["lag"] for beat in beats(writer)]

    async with open_pipes(params_loader=BEATING, message_writer=writer):
        # This blocks the loop until heartbeats say so.
        wait_until(lambda: any(lag > 4 * INTERVAL for lag in lags()), "a blocked loop")
        told = len(lags())
        await until(lambda: any(lag < 4 * INTERVAL for lag in lags()[told:]), "a loop that runs")


async def test_a_blocked_loop_is_told_on_a_channel_that_is_slow(any_loop: None) -> None:
    """The thread is in a write at every moment at which it was to ask the loop."""

    class Slow(RecordingWriter):
        def write(self, lines: bytes) -> None:
            if not hurry.wait(INTERVAL):
                pipes.log.info("so that there is something to write")
            super().write(lines)

    hurry = threading.Event()
    writer = Slow()

    def is_told() -> bool:
        latest = parsed(b"".join(writer.batches[-3:]))
        lags = [m["params"]["lag"] for m in latest if m["method"] == "asyncpipes.heartbeat"]
        return any(lag is not None and lag > 4 * INTERVAL for lag in lags)

    pipes = open_pipes(params_loader=BEATING, message_writer=writer)
    async with pipes:
        wait_until(is_told, "a blocked loop")
        hurry.set()


async def test_a_block_that_is_over_is_told_before_the_next_beat_is_due(
    any_loop: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat_module, "_PATIENCE", 0.1)
    writer = RecordingWriter()
    rare = bootstrap({"asyncpipes": {"v": 1, "heartbeat": 10 * PATIENCE}})
    async with open_pipes(params_loader=rare, message_writer=writer) as pipes:
        assert pipes._outbox is not None
        heartbeat = pipes._outbox._heartbeat
        assert heartbeat is not None
        heartbeat._beat_at = 0.0  # now
        pipes.log.info("a turn of the thread")
        wait_until(lambda: len(beats(writer)) == 1, "a blocked loop")
        # A loop that comes late again is told once more.
        await until(lambda: len(beats(writer)) >= 2, "a beat before its time")


async def until(condition: Callable[[], bool], what: str) -> None:
    """As ``wait_until``, on a loop that goes on."""
    await asyncio.to_thread(wait_until, condition, what)


def test_it_beats_between_the_messages_of_a_busy_script() -> None:
    writer = RecordingWriter()
    with open_pipes(params_loader=BEATING, message_writer=writer) as pipes:
        while len(beats(writer)) < 3:
            pipes.report_custom_message("x" * 1000)


def test_a_heartbeat_that_meets_a_fault_is_written_whole_or_not_at_all() -> None:
    """The writer is given the very same bytes again, as after any transient fault."""
    writer = FailingWriter(busy(), times=0)
    with open_pipes(params_loader=BEATING, message_writer=writer) as pipes:
        writer.left = 2
        assert writer.failed.wait(PATIENCE)
        pipes.log.info("meanwhile")
        wait_until(lambda: len(beats(writer)) >= 2, "heartbeats after the fault")
    assert [m["method"] for m in writer.messages if "seq" in m] == ["opened", "log", "closed"]


def test_none_comes_after_closed() -> None:
    writer = GatedWriter()
    with open_pipes(params_loader=BEATING, message_writer=writer):
        writer.wait_entered()
        threading.Timer(3 * INTERVAL, writer.open_for_good).start()
    assert methods(writer.messages)[-1] == "closed"


def test_a_fork_has_a_heartbeat_of_its_own(tmp_path: Path) -> None:
    code = """
import os, pathlib, sys, time, warnings
from asyncpipes import open_pipes

warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
with open_pipes() as pipes:
    pid = os.fork()
    if not pid:
        pipes.report_custom_message("mine")
    mine = b'"pid":%d},"writer"' % os.getpid()  # as it stands in a heartbeat
    while mine not in pathlib.Path(sys.argv[1]).read_bytes():
        time.sleep(0.01)
    if not pid:
        sys.exit(0)
    os.waitpid(pid, 0)
"""
    file = tmp_path / "messages"
    file.touch()
    params = {"path": str(file), "asyncpipes": {"v": 1, "heartbeat": INTERVAL}}
    done = run_script(code, bootstrap(params), str(file))
    assert (done.returncode, done.stderr) == (0, "")
    messages = parsed(file.read_bytes())
    pids = {m["writer"]: m["pid"] for m in messages if m["method"] == "opened"}
    assert len(pids) == 2
    seen = set()
    for message in messages:
        if message["method"] == "asyncpipes.heartbeat":
            assert message["params"]["pid"] == pids[message["writer"]]
            seen.add(message["writer"])
    assert seen == set(pids)


def test_none_comes_before_opened() -> None:
    """Whenever the thread looks: the host does not know the writer yet."""
    writer = RecordingWriter()
    heartbeat = Heartbeat("w", INTERVAL, None)
    heartbeat._beat_at = 0.0  # due from the start
    outbox = Outbox(writer, "w", 1000, heartbeat=heartbeat)
    timeouts: list[float | None] = []

    class Wake(SimpleQueue[None]):
        def get(self, block: bool = True, timeout: float | None = None) -> None:
            timeouts.append(timeout)
            super().get(block, timeout)

    outbox._wake = Wake()
    outbox.start()
    for _ in range(3):
        assert block(outbox.on_delivered, PATIENCE)  # the thread has looked
    assert writer.messages == []
    assert set(timeouts) <= {None}, "it waits for the first message, and does not spin"
    outbox.put(encode_head("opened", {"extras": {}}), Kind.RESULT)
    wait_for_beats(writer, 2)
    assert block(lambda done: outbox.close(encode_head("closed", {}), done), PATIENCE)
    names = methods(writer.messages)
    assert (names[0], names[-1]) == ("opened", "closed")


def test_nothing_comes_before_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does what another thread would report while the context is being entered."""
    writer = RecordingWriter()
    pipes = open_pipes(params_loader=BEATING, message_writer=writer)
    greet = Link.greet

    def greet_late(link: Link) -> None:
        with pytest.raises(NotOpenError):
            pipes.report_custom_message("too early")
        pipes.log.info("too early")
        greet(link)

    monkeypatch.setattr(Link, "greet", greet_late)
    with pipes:
        wait_for_beats(writer, 1)
    assert [m["method"] for m in writer.messages if "seq" in m] == ["opened", "closed"]
    assert methods(writer.messages)[0] == "opened"


# What it says and when, by a clock that stands still.


class Clock:
    """In the place of the module ``time``."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1.7e9 + self.now


class Loop:
    """A loop that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[Callable[[], None]] = []

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        self.asked.append(callback)

    def run(self) -> None:
        asked, self.asked = self.asked, []
        for callback in asked:
            callback()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(heartbeat_module, "time", clock)
    return clock


class Watched:
    """A heartbeat of every 10 s, its loop, and a thread that looks when it is told to."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.loop = Loop()
        self.heartbeat = Heartbeat("w", 10.0, cast("Any", self.loop))

    def look(self, now: float) -> float | str | None:
        """The lag that is told at ``now``; "" for no beat."""
        self.clock.now = now
        line = self.heartbeat.due()
        lag: float | str | None = json.loads(line)["params"]["lag"] if line else ""
        return lag


def test_the_loop_is_asked_before_each_beat(clock: Clock) -> None:
    watched = Watched(clock)
    assert watched.heartbeat.timeout == 8.75
    assert watched.look(8.0) == ""
    assert watched.loop.asked == []
    assert watched.look(8.75) == ""
    assert watched.heartbeat.timeout == 1.25
    clock.now = 9.0
    watched.loop.run()
    assert watched.look(9.5) == ""
    assert watched.look(10.0) == 0.25
    assert watched.heartbeat.timeout == 8.75


def test_a_thread_that_comes_late_asks_before_it_says_anything(clock: Clock) -> None:
    """Each write takes longer than the loop is given to answer, and the loop is blocked."""
    watched = Watched(clock)
    told = [watched.look(now) for now in (7.0, 14.0, 21.0, 28.0, 35.0)]
    assert told == ["", "", 7.0, "", 21.0]
    assert len(watched.loop.asked) == 1, "it has not answered"


def test_a_thread_that_comes_late_asks_again_after_each_answer(clock: Clock) -> None:
    watched = Watched(clock)
    assert watched.look(14.0) == ""
    clock.now = 14.5
    watched.loop.run()
    assert watched.look(21.0) == 0.5
    assert watched.look(35.0) == ""
    assert watched.heartbeat.timeout == 1.25, "it waits no longer than for the answer"
    assert watched.look(42.0) == 7.0


def test_a_block_that_is_over_is_not_told_later(clock: Clock) -> None:
    """The first beat after the loop has answered says that it answers."""
    watched = Watched(clock)
    woken: list[float] = []
    watched.heartbeat.wake = lambda: woken.append(clock.now)
    assert [watched.look(8.75), watched.look(10.0), watched.look(20.0)] == ["", 1.25, 11.25]
    clock.now = 23.0
    watched.loop.run()
    assert woken == [23.0]
    assert watched.heartbeat.timeout == 0.0
    assert watched.look(23.0) == ""
    clock.now = 23.25
    watched.loop.run()
    assert woken == [23.0], "an answer in time wakes nobody"
    assert watched.heartbeat.timeout == 1.0
    assert watched.look(24.25) == 0.25
    assert watched.heartbeat.timeout == 8.75


def test_without_a_loop_there_is_no_lag(clock: Clock) -> None:
    heartbeat = Heartbeat("w", 10.0, None)
    assert heartbeat.timeout == 10.0
    clock.now = 9.0
    assert heartbeat.due() == b""
    clock.now = 10.0
    assert json.loads(heartbeat.due())["params"]["lag"] is None


def test_a_loop_that_is_closed_is_asked_no_more(clock: Clock) -> None:
    loop = asyncio.new_event_loop()
    heartbeat = Heartbeat("w", 10.0, loop)
    loop.close()
    lags = []
    for now in (8.75, 10.0, 20.0):
        clock.now = now
        line = heartbeat.due()
        lags.append(json.loads(line)["params"]["lag"] if line else "")
    assert lags == ["", None, None]
    assert heartbeat.timeout == 10.0
