"""The heartbeat: sent while nothing else happens, and while the script's loop is blocked."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from asyncpipes import open_pipes
from asyncpipes.external.heartbeat import Heartbeat
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
        wait_until(lambda: any((lag or 0) > 4 * INTERVAL for lag in lags()), "a blocked loop")
        told = len(lags())
        import asyncio

        for _ in range(int(PATIENCE / INTERVAL)):
            if any(lag < INTERVAL for lag in lags()[told + 1 :]):
                break
            await asyncio.sleep(INTERVAL)
        else:
            pytest.fail(f"the loop runs again, and no heartbeat says so: {lags()}")


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


def test_a_loop_that_is_closed_is_asked_no_more() -> None:
    import asyncio

    loop = asyncio.new_event_loop()
    heartbeat = Heartbeat("w", 0.01, loop)
    loop.close()
    lines: list[bytes] = []

    def beat_twice() -> bool:
        lines.append(heartbeat.due())
        return sum(map(bool, lines)) >= 2

    wait_until(beat_twice, "two beats")
    assert [json.loads(line)["params"]["lag"] for line in lines if line] == [None, None]
    assert heartbeat.timeout <= 0.01


async def test_a_block_that_is_over_is_not_told_later(any_loop: None) -> None:
    """The first beat after the loop has answered says that it answers."""
    import asyncio

    writer = RecordingWriter()
    slow = bootstrap({"asyncpipes": {"v": 1, "heartbeat": 0.4}})
    async with open_pipes(params_loader=slow, message_writer=writer):
        wait_until(lambda: any(b["params"]["lag"] >= 0.2 for b in beats(writer)), "a blocked loop")
        told = len(beats(writer))
        while len(beats(writer)) == told:
            await asyncio.sleep(0.01)
        late = beats(writer)[told]["params"]["lag"]
    assert late < 0.2, [beat["params"]["lag"] for beat in beats(writer)]
