"""asyncpipes.host.process: how the end of a process group is waited for."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from asyncpipes.host import process as processes
from asyncpipes.host.process import PipesProcess
from tests.support import PATIENCE
from tests.support_host import Gate, asyncio_timeout, group_members, until

#: Ends, and leaves a member of its group that forks another one, and ends, once it may.
LEAVING = """
import os, signal, sys
if os.fork():
    os._exit(0)
open(sys.argv[1]).read()
if os.fork():
    os._exit(0)
while True: signal.pause()
"""


class Looks:
    """Counts the searches through all processes, and the looks at single ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.searches = 0
        self.at: dict[int, int] = {}
        self._search, self._look = processes._living_members, processes.process_identity
        monkeypatch.setattr(processes, "_living_members", self.search)
        monkeypatch.setattr(processes, "process_identity", self.look)

    def search(self, group: int) -> list[int]:
        self.searches += 1
        return self._search(group)

    def look(self, pid: int) -> tuple[int, str] | None:
        self.at[pid] = self.at.get(pid, 0) + 1
        return self._look(pid)


@asynccontextmanager
async def launched(*command: str) -> AsyncGenerator[PipesProcess, None]:
    """A process that has ended, with the rest of its group, which is killed at the end."""
    process, *pipes = await processes.launch(command, env=dict(os.environ), cwd=None)
    try:
        async with asyncio_timeout(PATIENCE):
            await process.follow()
        yield process
    finally:
        for pipe in pipes:
            pipe.close()
        process.kill()


async def test_one_that_lives_is_enough_to_look_at(
    any_loop: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(tmp_path)
    async with launched(sys.executable, "-S", "-c", LEAVING, gate.path) as process:
        [member] = group_members(process.pid)
        looks = Looks(monkeypatch)
        waiting = asyncio.ensure_future(process.gone())
        await until(lambda: looks.at.get(member, 0) > 10, "it is looked at")
        assert looks.searches == 1
        assert not waiting.done()
        await gate.open()
        # One has taken its place, and is found.
        await until(lambda: looks.searches > 1 and len(looks.at) > 1, "the next search")
        await until(lambda: group_members(process.pid) not in ([member], []), "the other member")
        [other] = group_members(process.pid)
        before = looks.at.get(other, 0)
        await until(lambda: looks.at.get(other, 0) > before + 10, "the other is looked at")
        assert looks.searches < 10
        assert not waiting.done()
        os.kill(other, signal.SIGKILL)
        async with asyncio_timeout(PATIENCE):
            await waiting


async def test_a_group_that_is_gone_takes_no_search(
    any_loop: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with launched(sys.executable, "-S", "-c", "pass") as process:
        looks = Looks(monkeypatch)
        await process.gone()
        assert (looks.searches, looks.at) == (0, {})


async def test_searches_become_rare_where_each_finds_another_member(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hundred in a second would take half a processor on a machine with a hundred processes."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    found = [[1], [2], [3], [4], [5], [6], []]
    async with launched(sys.executable, "-S", "-c", "pass") as process:
        with monkeypatch.context() as patch:
            patch.setattr(process, "group_is_alive", lambda: True)
            patch.setattr(processes, "_living_members", lambda group: found.pop(0))
            patch.setattr(processes, "process_identity", lambda pid: None)
            patch.setattr(asyncio, "sleep", pause)
            await process.gone()
    assert found == []
    assert pauses == [0.01, 0.02, 0.04, 0.08, 0.16, 0.16]
