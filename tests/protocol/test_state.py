"""asyncpipes.protocol.state: who has opened, who has closed, what is missing."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpipes.errors import TransitionError
from asyncpipes.protocol import state as module
from asyncpipes.protocol.events import GapEvent
from asyncpipes.protocol.exceptions import PipesException
from asyncpipes.protocol.messages import encode_head, extension_tail
from asyncpipes.protocol.recent import RECENT_BYTES
from asyncpipes.protocol.state import (
    MAX_CLOSED,
    MAX_VIOLATIONS,
    MAX_WRITERS,
    TRANSITIONS,
    SessionState,
    Step,
    Writer,
    WriterState,
)


def apply(state: SessionState, kind: Step, writer: str | None = None) -> None:
    if kind is Step.OPENED:
        state.open(writer)
    elif kind is Step.CLOSED:
        state.close(writer, None)
    else:
        state.message(writer)


#: How a writer gets into each state, and the table as the module's text draws it:
#: (state, message): (whether it is open then, whether it is allowed).
REACH: dict[WriterState, list[Step]] = {
    WriterState.UNSEEN: [],
    WriterState.OPEN: [Step.OPENED],
    WriterState.CLOSED: [Step.OPENED, Step.CLOSED],
}
TABLE: dict[tuple[WriterState, Step], tuple[WriterState, bool]] = {
    (WriterState.UNSEEN, Step.OPENED): (WriterState.OPEN, True),
    (WriterState.UNSEEN, Step.MESSAGE): (WriterState.UNSEEN, False),
    (WriterState.UNSEEN, Step.CLOSED): (WriterState.CLOSED, False),
    (WriterState.OPEN, Step.OPENED): (WriterState.OPEN, False),
    (WriterState.OPEN, Step.MESSAGE): (WriterState.OPEN, True),
    (WriterState.OPEN, Step.CLOSED): (WriterState.CLOSED, True),
    (WriterState.CLOSED, Step.OPENED): (WriterState.OPEN, True),
    (WriterState.CLOSED, Step.MESSAGE): (WriterState.CLOSED, False),
    (WriterState.CLOSED, Step.CLOSED): (WriterState.CLOSED, False),
}
ALL = list(itertools.product(WriterState, Step))


def test_the_table_is_whole() -> None:
    assert TRANSITIONS == TABLE
    assert set(TRANSITIONS) == set(ALL)


@pytest.mark.parametrize(("before", "kind"), ALL)
@pytest.mark.parametrize("writer", ["w", None])
def test_every_transition(before: WriterState, kind: Step, writer: str | None) -> None:
    state = SessionState()
    for step in REACH[before]:
        apply(state, step, writer)
    assert state.violations == []
    after, allowed = TABLE[before, kind]
    # Of scripts that share the anonymous writer any number may open.
    if writer is None and (before, kind) == (WriterState.OPEN, Step.OPENED):
        allowed = True
    apply(state, kind, writer)
    assert state.violation_count == (not allowed)
    assert bool(state.open_writers) is (after is WriterState.OPEN)
    assert state.opened is (Step.OPENED in (*REACH[before], kind))
    if allowed:
        assert state.violations == []
    else:
        who = "writer w" if writer else "the script"
        [text] = state.violations
        assert who in text
        assert text.endswith(f"while its context was {before.value}")
        assert kind is Step.MESSAGE or f"'{kind.value}'" in text


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
    st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from(list(Step))), max_size=30)
)
def test_any_history_against_a_plain_count(history: list[tuple[str | None, Step]]) -> None:
    state = SessionState()
    openings = dict.fromkeys(("a", "b", None), 0)
    violations = 0
    for writer, kind in history:
        apply(state, kind, writer)
        is_open = openings[writer] > 0
        if kind is Step.OPENED:
            if is_open and writer is not None:
                violations += 1
            else:
                openings[writer] += 1
        elif not is_open:
            violations += 1
        elif kind is Step.CLOSED:
            openings[writer] -= 1
    assert state.open_writers == sum(openings.values())
    assert state.violation_count == violations
    assert state.opened is any(kind is Step.OPENED for _, kind in history)
    assert state.closed is (state.opened and not sum(openings.values()))


# Bounds.


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WRITERS", 3)
    monkeypatch.setattr(module, "MAX_CLOSED", 2)


def come_and_go(state: SessionState, *names: str) -> None:
    for name in names:
        state.number(name, 1)
        state.open(name)
        state.number(name, 2)
        state.close(name, None)


def test_any_number_of_writers_may_come_one_after_the_other(small: None) -> None:
    state = SessionState()
    names = [f"w{number}" for number in range(50)]
    come_and_go(state, *names)
    assert (state.contexts, state.open_writers, state.closed) == (50, 0, True)
    assert (state.missing, state.violations, state.unfollowed) == (0, [], 0)
    # The last ones are known, and no more.
    assert [name for name in names if state.get(name) is not None] == ["w48", "w49"]
    for name in ("w48", "w49"):
        with pytest.raises(TransitionError, match="came after number 2"):
            state.number(name, 2)


def test_who_opens_again_is_not_forgotten(small: None) -> None:
    state = SessionState()
    come_and_go(state, "a")
    state.open("a")
    come_and_go(state, "b", "c", "d")
    assert [writer.name for writer in state.unclosed] == ["a"]
    assert state.number("a", 3) is None


def test_writers_beyond_the_bound_are_taken_for_the_anonymous_one(small: None) -> None:
    state = SessionState()
    for name in "abcde":
        assert state.number(name, 1) is None
        state.open(name, 7)
    assert (state.contexts, state.open_writers) == (5, 5)
    assert [writer.name for writer in state.unclosed] == ["a", "b", "c", None]
    # Nobody knows how many of theirs are missing, so nobody says so.
    assert state.number("d", 9) is None
    assert state.number("e", 9) is None
    assert state.number("a", 9) == GapEvent(2, 8, writer="a")
    state.drop("d", 5)
    state.beat("d", 1, 10.0, None)
    assert (state.missing, state.dropped, state.unfollowed) == (7, 0, 4)
    assert state.message("d")
    state.close("d", None)
    assert not state.closed
    state.close("a", None)
    # There is room now, but with it "e" would be a new writer with messages missing.
    assert state.number("e", 10) is None
    state.close("e", None)
    for name in "bc":
        state.close(name, None)
    assert (state.closed, state.violations, state.unfollowed) == (True, [], 5)


def test_what_is_known_of_writers_is_bounded() -> None:
    """The comments at the bounds say how much that is, and for whom it is enough."""
    tracemalloc.start()
    try:
        state = SessionState()
        for number in range(2 * MAX_CLOSED):
            state.begin(float(number))
            come_and_go(state, f"closed {number:057}")
        for number in range(2 * MAX_WRITERS):
            state.begin(float(number))
            state.number(f"open {number:059}", 1)
            state.open(f"open {number:059}", number)
        state.touched.clear()
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(state.unclosed) == MAX_WRITERS + 1
    assert state.unfollowed == MAX_WRITERS
    assert 4_000_000 < size < 10_000_000
    # Within what is kept of the stream, no more writers can close.
    closed = len(encode_head("closed", {}) + extension_tail("0" * 12, 1, 1.5e9))
    opened = len(encode_head("opened", {"extras": {}}) + extension_tail("0" * 12, 1, 1.5e9))
    both = (RECENT_BYTES - MAX_WRITERS * closed) // (opened + closed)
    assert MAX_WRITERS + both < MAX_CLOSED


def test_questions_take_no_longer_for_many_writers() -> None:
    """They are asked after each read."""

    class Counting(dict[str | None, Writer]):
        looked_at = 0

        def values(self) -> Any:
            for value in super().values():
                Counting.looked_at += 1
                yield value

    state = SessionState()
    state._writers = Counting(state._writers)
    for number in range(100):
        state.open(f"w{number}")
        state.drop(f"w{number}", 2)
        assert (state.opened, state.closed, state.open_writers) == (True, False, number + 1)
        assert state.dropped == 2 * (number + 1)
    assert Counting.looked_at == 0
