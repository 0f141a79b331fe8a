"""A loop that ends with a session in it: shut down at any moment, or its host let go of."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import signal
import threading
import uuid
import warnings
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from asyncpipes import ClosedError, CustomMessageEvent, Event, PipesSession, open_pipes_session
from tests.support import PATIENCE
from tests.support_host import FailingChannel, Stepped, group_members, raw_child, until

QUICK: dict[str, Any] = {"drain_timeout": 0.2, "grace": 0.2}
ENDLESS = "opened(); custom(1)\nwhile True: signal.pause()"
#: What each session has: a context file, subscribers of both kinds, captured output.
OPTIONS: dict[str, Any] = {
    "extras": {"x": os.urandom(60_000).hex()},
    "strict": False,
    "forward_stdio": "events",
    "open_timeout": 60,
    **QUICK,
}
BODIES = {
    "that waits": ENDLESS,
    "that ends": "opened(); custom(1); print('out'); closed()",
}


class Moment:
    """The ``number``-th await of all tasks together. A loop's task factory tells of them."""

    def __init__(self, number: int) -> None:
        self._left = number
        self.reached = asyncio.Event()

    def count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.reached.set()

    def factory(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        async def counted() -> Any:
            return await Stepped(coroutine, self.count)

        task = asyncio.Task(counted(), loop=loop, **options)
        task.add_done_callback(lambda _: coroutine.close())  # where it was cancelled unstarted
        return task


class Host:
    """A host's loop, which is shut down at a moment."""

    def __init__(self, body: str) -> None:
        self.mark = uuid.uuid4().hex
        self._command = raw_child(f"# {self.mark}\n{body}")
        self._is_endless = body == ENDLESS
        # Nothing else would keep it from the garbage collector.
        self._task: asyncio.Task[None] | None = None

    async def _session(self, is_up: asyncio.Event) -> None:
        async def async_callback(event: Event) -> None:
            await asyncio.sleep(0)

        async with open_pipes_session(**OPTIONS) as session:
            session.subscribe(async_callback)
            session.subscribe(lambda _: None, in_thread=True)
            await session.launch(self._command)
            async for _ in session.events(CustomMessageEvent):
                break
            if self._is_endless:
                is_up.set()
                await asyncio.Event().wait()
        is_up.set()

    async def main(self, number: int) -> bool:
        """Return at the ``number``-th await, and so have the loop shut down; False without one."""
        loop = asyncio.get_running_loop()
        moment, is_up = Moment(number), asyncio.Event()
        # It waits for ever only if the shut-down does not end what it should.
        watchdog = threading.Timer(PATIENCE, lambda: loop.call_soon_threadsafe(loop.stop))
        watchdog.daemon = True
        watchdog.start()
        self.watchdog = watchdog
        waiting = [asyncio.ensure_future(e.wait()) for e in (moment.reached, is_up)]
        loop.set_task_factory(moment.factory)
        self._task = asyncio.ensure_future(self._session(is_up))
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        loop.set_task_factory(None)
        return moment.reached.is_set()

    def processes(self) -> list[int]:
        """Those of the script that live."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    command = (entry / "cmdline").read_bytes()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if self.mark.encode() in command:
                    found.append(int(entry.name))
        return found


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("body", BODIES)
def test_a_loop_that_is_shut_down_at_any_await(
    run: Callable[[Coroutine[Any, Any, bool]], bool],
    body: str,
    temporary: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All of its tasks are cancelled at once, in any order, those that have not begun too."""
    files = None
    for number in itertools.count(1):
        host = Host(BODIES[body])
        with warnings.catch_warnings(record=True) as complaints:
            warnings.simplefilter("always")
            try:
                is_reached = run(host.main(number))
            finally:
                host.watchdog.cancel()
            host._task = None
            gc.collect()
        assert host.processes() == [], number
        assert list(temporary.iterdir()) == [], number
        assert [str(complaint.message) for complaint in complaints] == [], number
        assert caplog.text == "", number  # "unhandled exception during asyncio.run() shutdown"
        assert files is None or open_files() == files, number
        files = open_files()
        if not is_reached:
            break
    assert number > 15, "the awaits of opening, launching and reading alone are more"


def let_go(task: list[asyncio.Task[None]]) -> None:
    task.clear()
    gc.collect()


@pytest.mark.parametrize("where", ["on the loop", "in a thread"])
async def test_a_host_that_is_let_go_of(
    any_loop: None, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits for what it alone knows, and nobody keeps its task: it is garbage."""
    sessions: list[PipesSession] = []
    groups: list[int] = []

    async def host() -> None:
        async with open_pipes_session(strict=False, drain_timeout=0.2, grace=20) as session:
            process = await session.launch(raw_child(ENDLESS))
            async for _ in session.events(CustomMessageEvent):
                break  # Python runs its script: before that, SIGINT ends it in other ways
            sessions.append(session)
            groups.append(process.pid)
            await asyncio.Event().wait()

    task = [asyncio.ensure_future(host())]
    await until(lambda: bool(groups), "it waits")
    await asyncio.sleep(0)
    if where == "on the loop":
        let_go(task)
    else:
        await asyncio.to_thread(let_go, task)
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith("Task was destroyed but it is pending!")  # asyncio's own, of host()
    caplog.clear()
    [session] = sessions
    runner = session._runner
    assert runner is not None
    await until(lambda: runner.result is not None, "the session ends all the same")
    assert session.outcome.signal == signal.SIGINT
    assert session.outcome.cancelled
    why = "the host let go of the session without leaving its block"
    assert session.outcome.reasons[0] == why
    assert group_members(groups[0]) == []


@pytest.mark.parametrize("how", ["launch", "subscribe"])
async def test_nothing_is_started_in_a_session_that_is_about_to_end(
    any_loop: None, how: str
) -> None:
    """At each turn of the loop after what it reads from has failed."""
    for turns in range(10):
        channel = FailingChannel(ValueError("for the test"))
        ran: list[Event] = []
        async with open_pipes_session(channel=channel, strict=False, **QUICK) as session:
            await channel.failing.wait()
            for _ in range(turns):
                await asyncio.sleep(0)
            with contextlib.suppress(ClosedError):
                if how == "launch":
                    process = await session.launch(raw_child(ENDLESS))
                    await process.wait()
                else:
                    session.subscribe(ran.append)
        assert session.outcome.reasons[-1] == "the session failed: ValueError('for the test')"
