"""Processes that this user may not signal, as those of another user that a script has started.

The system's answer is made up: to have such a process for real takes a second user.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Generator
from typing import Any

import pytest

from asyncpipes import CustomMessageEvent, PipesError, PipesSession, open_pipes_session
from asyncpipes.host import process as processes
from tests.host.test_liveness import OURS
from tests.support import PATIENCE, run_script
from tests.support_host import asyncio_timeout, group_members, raw_child, until

QUICK: dict[str, Any] = {"drain_timeout": 0.2, "grace": 0.1, "strict": False}
#: Leaves a member of its group behind, and tells its pid.
LEAVING = """
opened()
member = os.fork()
if not member:
    while True: signal.pause()
custom(member)
closed()
"""


class Denial:
    """``killpg`` as it is for a group of another user's processes, once that is switched on."""

    def __init__(self) -> None:
        self.is_on = False
        self._killpg = os.killpg

    def __call__(self, group: int, number: int) -> None:
        self._killpg(group, 0)  # says that it is gone, if it is
        if self.is_on:
            raise PermissionError(1, "Operation not permitted")
        self._killpg(group, number)


@pytest.fixture
def denial(monkeypatch: pytest.MonkeyPatch) -> Denial:
    denial = Denial()
    monkeypatch.setattr(os, "killpg", denial)
    monkeypatch.setattr(processes, "_DENIED_IS_GONE", False)
    return denial


@pytest.fixture
def members() -> Generator[list[int], None, None]:
    """Those that a test leaves, for it to end them."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


async def launch_and_leave(session: PipesSession, members: list[int]) -> processes.PipesProcess:
    session.subscribe(lambda event: members.append(event.payload), CustomMessageEvent)
    process = await session.launch(raw_child(LEAVING))
    await process.wait()
    await until(lambda: bool(members), "the pid of the member")
    return process


async def test_a_member_that_may_not_be_signalled_is_a_survivor(
    any_loop: None, denial: Denial, members: list[int]
) -> None:
    denial.is_on = True
    async with open_pipes_session(**QUICK) as session:
        process = await launch_and_leave(session, members)
    assert process.group_is_alive()
    assert await process.survivors() == members
    assert session.outcome.reasons == (
        f"the process ended and left others of its group running: {members[0]}",
    )
    os.kill(members.pop(), signal.SIGKILL)
    await process.gone()  # zombies are none, whoever's they are


async def test_what_could_not_be_ended_is_named(
    any_loop: None, denial: Denial, members: list[int]
) -> None:
    denial.is_on = True
    session = open_pipes_session(**QUICK)
    with pytest.raises(ZeroDivisionError):
        async with session:
            process = await launch_and_leave(session, members)
            raise ZeroDivisionError
    assert group_members(process.pid) == members
    assert session.outcome.reasons == (
        "the host's block raised ZeroDivisionError",
        f"processes of its group could not be ended: {members[0]}; they run as another user, or"
        " hang in the kernel",
    )


@pytest.mark.parametrize("ours", [True, False])
async def test_a_process_that_cannot_be_ended_is_named_and_left(
    any_loop: None, denial: Denial, ours: bool
) -> None:
    body = OURS + "opens()" if ours else "opened()"
    session = open_pipes_session(heartbeat=None, **QUICK)
    loop = asyncio.get_running_loop()
    with pytest.raises(ZeroDivisionError):
        async with session:
            process = await session.launch(raw_child(f"{body}\nwhile True: signal.pause()"))
            # Who waits for it, be it for ever, is ended by this.
            watchdog = loop.call_later(PATIENCE, os.kill, process.pid, signal.SIGKILL)
            await until(lambda: session.health.state == "open", "it opens")
            denial.is_on = True
            raise ZeroDivisionError
    watchdog.cancel()
    assert process.returncode is None
    os.kill(process.pid, signal.SIGKILL)
    outcome = session.outcome
    assert (outcome.exit_code, outcome.signal, outcome.closed) == (None, None, False)
    assert outcome.reasons == (
        "the host's block raised ZeroDivisionError",
        "the script never closed its context: it crashed, or left it open",
        f"processes of its group could not be ended: {process.pid}; they run as another user, or"
        " hang in the kernel",
    )
    assert [writer.status for writer in session.health.writers] == ["alive"]
    async with asyncio_timeout(PATIENCE):
        assert await process.wait() == -signal.SIGKILL
    assert not os.path.exists(f"/proc/{process.pid}"), "it has been reaped"


LEFT = """
import asyncio, gc, os, signal, sys, threading, time
from asyncpipes import open_pipes_session

killpg = os.killpg

def denied(group, number):
    killpg(group, 0)
    if number:
        raise PermissionError(1, "Operation not permitted")

os.killpg = denied
pids = []

async def session(timeout):
    async with open_pipes_session(strict=False, drain_timeout=0.1, grace=0.1) as session:
        program = "import signal\\nwhile True: signal.pause()"
        process = await session.launch([sys.executable, "-S", "-c", program])
        pids.append(process.pid)
        await session.wait_drained(timeout)

async def main():
    if sys.argv[1] == "ended":
        await session(0.1)
    else:
        task = asyncio.ensure_future(session(None))
        while not pids:
            await asyncio.sleep(0.01)

asyncio.run(main())
gc.collect()
os.kill(pids[0], signal.SIGKILL)
while os.path.exists(f"/proc/{pids[0]}"):
    time.sleep(0.01)
for thread in threading.enumerate():
    if thread.name.startswith("asyncpipes left"):
        thread.join()
gc.collect()
print("reaped")
"""


@pytest.mark.parametrize("when", ["ended", "shut down"])
def test_what_is_left_is_reaped_when_its_loop_is_closed(when: str) -> None:
    # Not for uvloop, which says at its end that it leaves a process, and is right.
    done = run_script(LEFT, {}, when)
    assert (done.stdout, done.returncode) == ("reaped\n", 0), done.stderr
    assert not re.search("Warning|ignored|destroyed|Traceback", done.stderr), done.stderr


async def test_a_signal_that_reached_nobody_is_told(any_loop: None, denial: Denial) -> None:
    async with open_pipes_session(**QUICK) as session:
        process = await session.launch(raw_child("opened()\nwhile True: signal.pause()"))
        await until(lambda: session.health.state == "open", "it opens")
        denial.is_on = True
        for send in (process.terminate, process.kill, lambda: process.send_signal(signal.SIGINT)):
            with pytest.raises(PipesError, match=rf"group {process.pid}: .* another user"):
                send()
        assert process.returncode is None
        denial.is_on = False
        process.terminate()
    assert session.outcome.signal == signal.SIGTERM
    denial.is_on = True
    process.send_signal(signal.SIGINT)  # the group is gone: nothing happens


async def test_where_that_is_said_of_zombies_it_counts_as_gone(
    any_loop: None, denial: Denial, members: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_DENIED_IS_GONE", True)
    denial.is_on = True
    async with open_pipes_session(**QUICK) as session:
        process = await launch_and_leave(session, members)
    process.send_signal(signal.SIGINT)
    assert not process.group_is_alive()
    assert await process.survivors() == []
    assert session.outcome.ok
