"""The outcome is the truth: one case after the other, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from asyncpipes import (
    Event,
    ExternalError,
    IncompleteError,
    MalformedEvent,
    Outcome,
    OutcomeError,
    ProcessFailedError,
    open_pipes_session,
    run,
)
from asyncpipes.host import runner
from tests.support import PATIENCE
from tests.support_host import Gate, asyncio_timeout, raw_child, script


@dataclass
class Case:
    body: str
    error: type[OutcomeError] | None
    reason: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


CASES = {
    "exit 0": Case("opened(); closed()", None, "", {"exit_code": 0, "closed": True}),
    "exit 3": Case("opened(); closed(); sys.exit(3)", ProcessFailedError, "exit code 3",
                   {"exit_code": 3, "signal": None, "closed": True}),
    "signal": Case("opened(); custom(1); os.kill(os.getpid(), signal.SIGKILL)",
                   ProcessFailedError, "signal 9",
                   {"exit_code": None, "signal": signal.SIGKILL, "opened": True, "closed": False}),
    "never opened": Case("pass", IncompleteError, "never opened",
                         {"opened": False, "exit_code": 0}),
    "not closed": Case("opened(); os._exit(0)", IncompleteError, "never closed",
                       {"opened": True, "closed": False, "exit_code": 0}),
    "garbage line": Case("opened(); raw(b'garbage\\n'); custom(1); closed()", IncompleteError,
                         "1 line could not be read", {"malformed": 1, "closed": True}),
    "last line cut off": Case("opened(); closed(); raw(message('log', message='x')[:30])",
                              IncompleteError, "1 line could not be read", {"malformed": 1}),
    "message after closed": Case("opened(); closed(); custom(1)", IncompleteError, "closed", {}),
    "exception": Case(
        """
        opened()
        emit("closed", exception={"message": "boom", "stack": [], "name": "ValueError",
                                  "cause": None, "context": None})
        """,
        ExternalError, "the script failed: boom", {"closed": True, "exit_code": 0},
    ),
    "exception and exit 1": Case(
        """
        opened()
        emit("closed", exception={"message": "boom", "stack": [], "name": "ValueError",
                                  "cause": None, "context": None})
        sys.exit(1)
        """,
        ProcessFailedError, "exit code 1", {"closed": True, "exit_code": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
async def test_the_outcome_and_the_strict_error(name: str) -> None:
    case = CASES[name]
    if case.error is None:
        result = await run(raw_child(case.body), drain_timeout=0.1)
        assert result.outcome.ok
        assert result.outcome.reasons == ()
    else:
        with pytest.raises(case.error) as info:
            await run(raw_child(case.body), drain_timeout=0.1)
        assert type(info.value) is case.error
        result = info.value.result
        assert not result.outcome.ok
        assert case.reason in "; ".join(result.outcome.reasons)
        assert case.reason in str(info.value)
    for name, value in case.fields.items():
        assert getattr(result.outcome, name) == value, name
    assert result.outcome.duration > 0


async def test_a_lenient_session_returns_what_a_strict_one_raises() -> None:
    child = raw_child("opened(); custom(1); sys.exit(3)")
    result = await run(child, strict=False, drain_timeout=0.1)
    assert result.outcome.exit_code == 3
    assert not result.outcome.ok
    assert len(result.custom_messages) == 1


async def test_the_exception_of_a_script_arrives_whole(tmp_path: Path) -> None:
    source = """
        from asyncpipes import open_pipes
        with open_pipes() as pipes:
            try:
                {}["missing"]
            except KeyError as error:
                raise ValueError("boom") from error
    """
    with pytest.raises(ProcessFailedError) as info:
        await run(script(tmp_path, source), forward_stdio=False)
    outcome = info.value.result.outcome
    assert outcome.closed
    assert outcome.exception is not None
    assert outcome.exception.name == "ValueError"
    assert outcome.exception.cause is not None
    assert outcome.exception.cause.name == "KeyError"
    assert "boom" in str(info.value)
    assert info.value.result.stderr.rstrip().endswith("ValueError: boom")


async def test_an_exception_swallowed_outside_of_the_block_is_red(tmp_path: Path) -> None:
    source = """
        from asyncpipes import open_pipes
        try:
            with open_pipes() as pipes:
                raise ValueError("boom")
        except ValueError:
            pass
    """
    with pytest.raises(ExternalError, match="boom") as info:
        await run(script(tmp_path, source))
    assert info.value.result.outcome.exit_code == 0


async def test_sys_exit_0_inside_the_block_is_a_clean_close(tmp_path: Path) -> None:
    source = """
        import sys
        from asyncpipes import open_pipes
        with open_pipes() as pipes:
            sys.exit(0)
    """
    result = await run(script(tmp_path, source))
    assert result.outcome.ok
    assert result.outcome.closed


async def test_malformed_lines_are_events_and_the_next_messages_arrive() -> None:
    result = await run(
        raw_child("opened(); raw(b'{\\n\\n'); log('after'); closed()"), strict=False, collect="all"
    )
    kinds = [type(event).__name__ for event in result.events]
    assert kinds == ["OpenedEvent", "MalformedEvent", "MalformedEvent", "LogEvent", "ClosedEvent"]
    first = result.events[1]
    assert isinstance(first, MalformedEvent)
    assert first.raw == b"{"


HOSTILE = """
    def hostile(method, writer, **extension):
        line = json.loads(message(method))
        raw(json.dumps({**line, "writer": writer, "sent_at": 1.5, **extension}).encode() + b"\\n")

    for name in "ab":
        hostile("opened", name, seq=1)
        hostile("closed", name, **{"seq": 2, KEY: int("9" * 4300)})
"""


@pytest.mark.parametrize("key", ["seq", "dropped"])
@pytest.mark.parametrize("strict", [True, False])
async def test_numbers_that_nobody_can_print_are_malformed(key: str, strict: bool) -> None:
    session = open_pipes_session(strict=strict, drain_timeout=0.0)
    try:
        async with session:
            await session.launch(raw_child(textwrap.dedent(HOSTILE).replace("KEY", repr(key))))
    except IncompleteError as error:
        assert strict
        assert error.result is session.result
    assert session.outcome.malformed == 2
    assert (session.outcome.missing, session.outcome.dropped) == (0, 0)
    assert "2 lines could not be read as messages" in session.outcome.reasons


async def test_there_is_an_outcome_even_if_none_can_be_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failure = ArithmeticError("no")

    def judge(*arguments: Any, **options: Any) -> Outcome:
        raise failure

    monkeypatch.setattr(runner, "judge", judge)
    with pytest.raises(IncompleteError) as info:
        await run(raw_child("opened(); custom(1); closed()"))
    result = info.value.result
    assert result.outcome.reasons == (
        "the session failed when it was to say how it ended: ArithmeticError('no')",
    )
    assert [event.payload for event in result.custom_messages] == [1]
    assert info.value.__cause__ is failure


async def test_who_waits_is_released_even_if_there_is_no_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Shutdown(BaseException):
        pass

    async def read(self: Any) -> None:
        raise RuntimeError("so that nothing else releases them")

    def conclude(self: Any) -> None:
        raise Shutdown

    monkeypatch.setattr(runner.SessionRunner, "_read", read)
    monkeypatch.setattr(runner.SessionRunner, "_conclude", conclude)
    with pytest.raises(Shutdown):
        async with open_pipes_session() as session, asyncio_timeout(PATIENCE):
            assert await session.wait_drained()


async def test_a_subscriber_whose_exception_cannot_be_shown_is_named_all_the_same() -> None:
    class HiddenError(Exception):
        def __repr__(self) -> str:
            raise RuntimeError("not for you")

    def fail(event: Event) -> None:
        raise HiddenError

    result = await run(
        raw_child("opened(); closed(); sys.exit(3)"), subscribers=[fail], strict=False
    )
    assert result.outcome.exit_code == 3
    assert result.outcome.reasons[-1].endswith(" raised HiddenError")


async def test_processes_of_the_group_that_outlive_the_script_are_named(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    body = f"""
        opened()
        pid = os.fork()
        if not pid:
            for fd in (0, 1, 2):
                os.close(fd)
            wait_for({gate.path!r})
            os._exit(0)
        custom(pid)
        closed()
    """
    result = await run(raw_child(body), strict=False, drain_timeout=0.2)
    pid = result.custom_messages[0].payload
    assert result.outcome.exit_code == 0
    assert result.outcome.reasons == (
        f"the process ended and left others of its group running: {pid}",
    )
    os.kill(pid, 0)  # it was left alone
    await gate.open()


async def test_a_helper_that_ends_soon_after_the_script_is_no_survivor(tmp_path: Path) -> None:
    # multiprocessing's resource tracker does just that.
    gate = Gate(tmp_path)
    body = f"""
        opened()
        if not os.fork():
            for fd in (0, 1, 2):
                os.close(fd)
            wait_for({gate.path!r})
            os._exit(0)
        closed()
    """
    async with open_pipes_session(drain_timeout=20) as session:
        process = await session.launch(raw_child(body))
        await process.wait()
        draining = asyncio.ensure_future(session.wait_drained())
        # Long enough for a session that does not wait to end; one that waits does not care.
        await asyncio.wait([draining], timeout=0.2)
        assert not draining.done()
        await gate.open()
        await draining
    assert session.outcome.ok


async def test_a_closed_script_that_writes_on_in_a_forked_worker_is_waited_for() -> None:
    # The worker has no context of its own: its `opened` keeps the session reading.
    body = """
        opened()
        read, write = os.pipe()
        if not os.fork():
            opened(); os.write(write, b"x")
            for _ in range(100): custom(1)
            closed(); os._exit(0)
        os.read(read, 1)
        closed()
    """
    result = await run(raw_child(body), drain_timeout=20)  # what the worker has, all in all
    assert result.outcome.ok
    assert len(result.custom_messages) == 100
