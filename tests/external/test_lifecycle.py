"""asyncpipes.external.lifecycle: what the guard of SIGTERM decides, signal by signal.

That the process dies of it in the end is shown by ``test_processes``, with real ones; here
the signal that is sent again is only noted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from asyncpipes.external.lifecycle import Termination, TerminationGuard

AGAIN = [(os.getpid(), signal.SIGTERM)]


@pytest.fixture
def guard() -> Iterator[TerminationGuard]:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield TerminationGuard()
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The signals that would have ended this process."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    return sent


def context(*, is_closed: bool = False) -> Any:
    return SimpleNamespace(is_closed=is_closed)


def joined(guard: TerminationGuard, context: Any) -> Termination:
    member = guard.join(context)
    assert member is not None
    return member


async def test_the_first_one_cancels_each_opening_task_once(
    guard: TerminationGuard, sent: list[tuple[int, int]]
) -> None:
    cancelled: list[object] = []

    async def main() -> None:
        members = [joined(guard, context()) for _ in range(2)]
        opened.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            cancelled.extend(error.args)
        for _ in range(3):
            await asyncio.sleep(0)  # would be cancelled by a second request
        assert [member.received for member in members] == [True, True]
        guard.leave(members[0])
        assert sent == []
        guard.leave(members[1])
        assert sent == AGAIN

    opened = asyncio.Event()
    task = asyncio.create_task(main())
    await opened.wait()
    signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "the next one ends the process"
    await task
    assert cancelled == ["SIGTERM"]


def test_where_no_task_has_opened_it_the_first_one_is_an_exit(
    guard: TerminationGuard, sent: list[tuple[int, int]]
) -> None:
    member = joined(guard, context())
    with pytest.raises(SystemExit) as caught:
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 128 + signal.SIGTERM
    guard.leave(member)
    assert sent == AGAIN


def test_a_context_whose_task_or_loop_has_ended_is_an_exit_too(
    guard: TerminationGuard, sent: list[tuple[int, int]]
) -> None:
    async def open_one() -> Termination:
        return joined(guard, context())

    async def main() -> Termination:
        member = await asyncio.create_task(open_one())
        assert not member.cancel(set()), "the task is done"
        return member

    member = asyncio.run(main())
    assert not member.cancel(set())
    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGTERM)
    assert sent == []


def test_a_context_that_is_being_left_goes_on_with_that(
    guard: TerminationGuard, sent: list[tuple[int, int]]
) -> None:
    member = joined(guard, context(is_closed=True))
    signal.raise_signal(signal.SIGTERM)
    assert sent == []
    guard.leave(member)
    assert sent == AGAIN


def test_a_second_one_acts_as_the_default_even_through_a_handler_of_the_users(
    guard: TerminationGuard, sent: list[tuple[int, int]]
) -> None:
    joined(guard, context(is_closed=True))
    ours: Any = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *args: ours(*args))
    theirs = signal.getsignal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert (sent, signal.getsignal(signal.SIGTERM)) == ([], theirs), "theirs is left alone"
    signal.raise_signal(signal.SIGTERM)
    assert (sent, signal.getsignal(signal.SIGTERM)) == (AGAIN, signal.SIG_DFL)


def test_who_opens_while_the_process_ends_has_no_part_in_it(
    guard: TerminationGuard, sent: list[tuple[int, int]]
) -> None:
    member = joined(guard, context(is_closed=True))
    signal.raise_signal(signal.SIGTERM)
    assert guard.join(context()) is None
    guard.leave(member)
    assert guard.join(context()) is not None, "the next run of contexts is looked after again"


def test_without_a_signal_the_last_one_that_leaves_gives_it_back(
    guard: TerminationGuard, sent: list[tuple[int, int]]
) -> None:
    first, second = joined(guard, context()), joined(guard, context())
    for _ in range(2):
        guard.leave(first)
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    guard.leave(second)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert sent == []


def test_what_is_not_the_guards_to_do(guard: TerminationGuard) -> None:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(guard.join(context())))
    thread.start()
    thread.join()
    assert found == [None]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert guard.join(context()) is None
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
