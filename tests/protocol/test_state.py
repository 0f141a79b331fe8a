"""asyncpipes.protocol.state: who has opened, who has closed, what is missing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpipes.errors import TransitionError
from asyncpipes.protocol.events import GapEvent
from asyncpipes.protocol.exceptions import PipesException
from asyncpipes.protocol.state import (
    MAX_VIOLATIONS,
    TRANSITIONS,
    Kind,
    SessionState,
    WriterState,
)


def apply(state: SessionState, kind: Kind, writer: str | None = None) -> None:
    if kind is Kind.OPENED:
        state.open(writer)
    elif kind is Kind.CLOSED:
        state.close(writer, None)
    else:
        state.message(writer)


#: How a writer gets into each state, and the table as the module's text draws it:
#: (state, message): (whether it is open then, whether it is allowed).
REACH: dict[WriterState, list[Kind]] = {
    WriterState.UNSEEN: [],
    WriterState.OPEN: [Kind.OPENED],
    WriterState.CLOSED: [Kind.OPENED, Kind.CLOSED],
}
TABLE: dict[tuple[WriterState, Kind], tuple[WriterState, bool]] = {
    (WriterState.UNSEEN, Kind.OPENED): (WriterState.OPEN, True),
    (WriterState.UNSEEN, Kind.MESSAGE): (WriterState.UNSEEN, False),
    (WriterState.UNSEEN, Kind.CLOSED): (WriterState.CLOSED, False),
    (WriterState.OPEN, Kind.OPENED): (WriterState.OPEN, False),
    (WriterState.OPEN, Kind.MESSAGE): (WriterState.OPEN, True),
    (WriterState.OPEN, Kind.CLOSED): (WriterState.CLOSED, True),
    (WriterState.CLOSED, Kind.OPENED): (WriterState.OPEN, True),
    (WriterState.CLOSED, Kind.MESSAGE): (WriterState.CLOSED, False),
    (WriterState.CLOSED, Kind.CLOSED): (WriterState.CLOSED, False),
}
ALL = list(itertools.product(WriterState, Kind))


def test_the_table_is_whole() -> None:
    assert TRANSITIONS == TABLE
    assert set(TRANSITIONS) == set(ALL)


@pytest.mark.parametrize(("before", "kind"), ALL)
@pytest.mark.parametrize("writer", ["w", None])
def test_every_transition(before: WriterState, kind: Kind, writer: str | None) -> None:
    state = SessionState()
    for step in REACH[before]:
        apply(state, step, writer)
    assert state.violations == []
    after, allowed = TABLE[before, kind]
    # Of scripts that share the anonymous writer any number may open.
    if writer is None and (before, kind) == (WriterState.OPEN, Kind.OPENED):
        allowed = True
    apply(state, kind, writer)
    assert state.violation_count == (not allowed)
    assert bool(state.open_writers) is (after is WriterState.OPEN)
    assert state.opened is (Kind.OPENED in (*REACH[before], kind))
    if allowed:
        assert state.violations == []
    else:
        who = "writer w" if writer else "the script"
        [text] = state.violations
        assert who in text
        assert text.endswith(f"while its context was {before.value}")
        assert kind is Kind.MESSAGE or f"'{kind.value}'" in text


def test_nothing_has_happened_at_first() -> None:
    state = SessionState()
    assert (state.opened, state.closed, state.open_writers) == (False, False, 0)
    assert (state.malformed, state.missing, state.dropped, state.exception) == (0, 0, 0, None)


def test_the_anonymous_writer_closes_as_often_as_it_opened() -> None:
    state = SessionState()
    for count in (1, 2, 3):
        state.open(None)
        assert state.open_writers == count
    for count in (2, 1, 0):
        state.message(None)
        assert not state.closed
        state.close(None, None)
        assert state.open_writers == count
    assert state.closed
    assert state.violations == []
    state.close(None, None)
    assert state.violation_count == 1


def test_scripts_one_after_the_other() -> None:
    state = SessionState()
    for _ in range(3):
        state.open(None)
        state.message(None)
        assert not state.closed
        state.close(None, None)
        assert state.closed
    assert state.violations == []
    state.open(None)
    assert state.open_writers == 1


def test_writers_are_followed_one_by_one() -> None:
    state = SessionState()
    state.open("a")
    state.open("b")
    state.open(None)
    assert state.open_writers == 3
    state.close("a", None)
    state.message("b")
    state.close(None, None)
    assert (state.open_writers, state.closed) == (1, False)
    state.message("a")
    assert state.violations == ["a message came from writer a while its context was closed"]
    state.close("b", None)
    assert state.closed


def test_violations_that_are_kept_are_bounded_and_all_are_counted() -> None:
    state = SessionState()
    for _ in range(10 * MAX_VIOLATIONS):
        state.message("w")
    assert len(state.violations) == MAX_VIOLATIONS
    assert state.violation_count == 10 * MAX_VIOLATIONS


def test_the_first_exception_is_kept() -> None:
    first = PipesException(message="first", stack=(), name="A", cause=None, context=None)
    second = PipesException(message="second", stack=(), name="B", cause=None, context=None)
    state = SessionState()
    for writer, exception in (("a", None), ("b", first), ("c", second)):
        state.open(writer)
        state.close(writer, exception)
    assert state.exception is first


def test_numbers_gaps_and_repetitions() -> None:
    state = SessionState()
    assert state.number("w", 1) is None
    assert state.number("w", 2) is None
    assert state.number("w", 5) == GapEvent(3, 4, writer="w")
    assert state.number("w", 6) is None
    assert state.number("other", 2) == GapEvent(1, 1, writer="other")
    assert state.missing == 3
    for used in (1, 4, 6):
        with pytest.raises(TransitionError, match=f"number {used} of writer w came after number 6"):
            state.number("w", used)
    assert state.number("w", 7) is None
    assert state.missing == 3


def test_drop_counts_never_go_back() -> None:
    state = SessionState()
    state.drop("a", 3)
    state.drop("b", 1)
    state.drop("a", 2)
    assert state.dropped == 4


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from(list(Kind))), max_size=30)
)
def test_any_history_against_a_plain_count(history: list[tuple[str | None, Kind]]) -> None:
    state = SessionState()
    openings = dict.fromkeys(("a", "b", None), 0)
    violations = 0
    for writer, kind in history:
        apply(state, kind, writer)
        is_open = openings[writer] > 0
        if kind is Kind.OPENED:
            if is_open and writer is not None:
                violations += 1
            else:
                openings[writer] += 1
        elif not is_open:
            violations += 1
        elif kind is Kind.CLOSED:
            openings[writer] -= 1
    assert state.open_writers == sum(openings.values())
    assert state.violation_count == violations
    assert state.opened is any(kind is Kind.OPENED for _, kind in history)
    assert state.closed is (state.opened and not sum(openings.values()))
