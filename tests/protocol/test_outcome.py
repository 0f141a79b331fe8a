"""asyncpipes.protocol.outcome: the outcome and its reasons in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from asyncpipes.protocol.exceptions import PipesException
from asyncpipes.protocol.outcome import MAX_PIDS, Outcome, judge
from asyncpipes.protocol.state import MAX_VIOLATIONS, SessionState


def ended_well() -> SessionState:
    state = SessionState()
    state.open("w")
    state.close("w", None)
    return state


def test_a_run_that_ended_well() -> None:
    outcome = judge(ended_well(), exit_code=0, duration=1.5)
    assert outcome == Outcome(exit_code=0, opened=True, closed=True, duration=1.5)
    assert outcome.ok
    assert outcome.reasons == ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        outcome.exit_code = 1  # type: ignore[misc]


def test_without_a_process_there_is_no_exit_code() -> None:
    outcome = judge(ended_well())
    assert (outcome.exit_code, outcome.signal, outcome.ok) == (None, None, True)


REASONS: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"exit_code": 3}, "the process ended with exit code 3", {"exit_code": 3}),
    ({"signal": 9}, "the process was ended by signal 9", {"signal": 9, "exit_code": None}),
    ({"undelivered": 1}, "1 event did not reach a subscriber", {"undelivered": 1}),
    ({"undelivered": 2}, "2 events did not reach a subscriber", {"undelivered": 2}),
    ({"timed_out": "over 5 s"}, "over 5 s", {"timed_out": True, "cancelled": False}),
    ({"cancelled": "by the host"}, "by the host", {"cancelled": True, "timed_out": False}),
    ({"failures": ("a subscriber raised",)}, "a subscriber raised", {}),
]


@pytest.mark.parametrize(("arguments", "reason", "fields"), REASONS)
def test_each_reason_from_outside(
    arguments: dict[str, Any], reason: str, fields: dict[str, Any]
) -> None:
    outcome = judge(ended_well(), **arguments)
    assert outcome.reasons == (reason,)
    assert not outcome.ok
    assert {name: getattr(outcome, name) for name in fields} == fields


def failed(message: str, name: str | None = "ValueError") -> Callable[[SessionState], None]:
    exception = PipesException(message=message, stack=(), name=name, cause=None, context=None)

    def change(state: SessionState) -> None:
        state.open("x")
        state.close("x", exception)

    return change


def add(**counts: int) -> Callable[[SessionState], None]:
    def change(state: SessionState) -> None:
        for name, count in counts.items():
            setattr(state, name, count)

    return change


CHANGES: list[tuple[Callable[[SessionState], object], str]] = [
    (failed("ValueError: bad\nmore\n"), "the script failed: ValueError: bad"),
    (failed(" \n", "KeyError"), "the script failed: KeyError"),
    (failed("", None), "the script failed: ?"),
    (lambda state: state.open("x"), "1 of 2 contexts was never closed: it crashed, was ended, or"),
    (add(malformed=1), "1 line could not be read as messages"),
    (add(malformed=2), "2 lines could not be read as messages"),
    (add(missing=1), "1 message never arrived"),
    (add(missing=3), "3 messages never arrived"),
    (
        add(unfollowed=1),
        "over 4096 writers were open at once: 1 message of others came, and nobody",
    ),
    (add(unfollowed=2), "over 4096 writers were open at once: 2 messages of others came"),
    (lambda state: state.drop("w", 1), "the script dropped 1 log or stream record"),
    (lambda state: state.drop("w", 7), "the script dropped 7 log or stream records"),
    (lambda state: state.message("w"), "a message came from writer w while its context was closed"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES)
def test_each_reason_of_the_protocol(change: Callable[[SessionState], object], reason: str) -> None:
    state = ended_well()
    change(state)
    outcome = judge(state, exit_code=0)
    [only] = outcome.reasons
    assert only.startswith(reason)
    assert not outcome.ok
    assert (outcome.malformed, outcome.missing, outcome.dropped) == (
        state.malformed,
        state.missing,
        state.dropped,
    )
    assert outcome.exception is state.exception
    assert outcome.closed is state.closed


def test_a_script_that_never_opened() -> None:
    outcome = judge(SessionState(), exit_code=0)
    assert outcome.reasons[0].startswith("the script never opened pipes: it must call open_pipes()")
    assert (outcome.opened, outcome.closed) == (False, False)


def test_reasons_have_an_order_and_all_are_there() -> None:
    state = SessionState()
    failed("bad")(state)
    state.open("y")
    state.malformed = 1
    outcome = judge(
        state, exit_code=1, timed_out="late", cancelled="stopped", undelivered=1, failures=("f",)
    )
    starts = [
        "late",
        "stopped",
        "the process ended",
        "the script failed",
        "1 of 2 contexts was never closed",
    ]
    starts += ["1 line", "1 event", "f"]
    assert len(outcome.reasons) == len(starts)
    for reason, start in zip(outcome.reasons, starts, strict=True):
        assert reason.startswith(start)


def test_violations_beyond_the_bound_are_counted_in_one_line() -> None:
    state = ended_well()
    for _ in range(MAX_VIOLATIONS + 5):
        state.message("w")
    reasons = judge(state).reasons
    assert len(reasons) == MAX_VIOLATIONS + 1
    assert reasons[-1] == "5 more messages came out of turn"


def test_one_context_that_was_never_closed() -> None:
    state = SessionState()
    state.open("w", 4711)
    assert judge(state).reasons == (
        "the script never closed its context: it crashed, or left it open",
    )


def test_contexts_that_were_never_closed_are_counted_and_their_processes_named() -> None:
    state = SessionState()
    for pid, name in enumerate("abcde", start=4711):
        state.open(name, pid)
    state.open(None)
    for name in "bcd":
        state.close(name, None)
    [reason] = judge(state).reasons
    assert reason == (
        "3 of 6 contexts were never closed (processes 4711, 4715): their scripts crashed, were"
        " ended, or left them open"
    )
    state.close(None, None)
    state.close("e", None)
    [reason] = judge(state).reasons
    assert reason == (
        "1 of 6 contexts was never closed (process 4711): it crashed, was ended, or left it open"
    )
    state.close("a", None)
    assert judge(state).ok


def test_of_many_processes_some_are_named() -> None:
    state = SessionState()
    for number in range(MAX_PIDS + 1):
        state.open(f"w{number}", 100 + number)
    [reason] = judge(state).reasons
    assert f"{100 + MAX_PIDS - 1}, …)" in reason
    assert str(100 + MAX_PIDS) not in reason


def test_duplicates_are_no_reason() -> None:
    state = ended_well()
    state.duplicates = 5
    assert judge(state, exit_code=0).ok
