"""Any exceptions, linked in any way: encoding never raises, and what it gives is decoded."""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from asyncpipes.errors import MalformedMessageError
from asyncpipes.protocol import codec
from asyncpipes.protocol.exceptions import (
    MAX_EXCEPTIONS,
    MAX_LEAVES,
    MAX_RENDERED_LINES,
    PipesException,
    decode_exception,
    encode_exception,
)
from asyncpipes.protocol.framing import DEFAULT_LINE_LIMIT
from tests.protocol.strategies import json_values, texts

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


class RaisingText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class EndlessText(Exception):
    def __str__(self) -> str:
        return str(self)


class NoText(Exception):
    def __str__(self) -> Any:
        return None


class RaisingRepr(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no")


class RaisingAttributes(Exception):
    def __getattr__(self, name: str) -> Any:
        raise ValueError(name)


class OddNotes(Exception):
    @property
    def __notes__(self) -> Any:  # type: ignore[override]  # as nobody should
        return [1, None, RaisingText(), "note", b"x"]


class RaisingNotes(Exception):
    @property
    def __notes__(self) -> Any:  # type: ignore[override]  # as nobody should
        raise KeyError("__notes__")


class OddMembers(Exception):
    exceptions = (1, "no exceptions")


class OwnMember(Exception):
    @property
    def exceptions(self) -> Any:
        return (self, self)


class OddModule(Exception):
    __module__ = None  # type: ignore[assignment]  # as some generated classes have it


KINDS: list[type[BaseException]] = [
    ValueError,
    KeyError,
    OSError,
    SyntaxError,
    NameError,
    AttributeError,
    ImportError,
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
    StopIteration,
    UnicodeError,
    RaisingText,
    EndlessText,
    NoText,
    RaisingRepr,
    RaisingAttributes,
    OddNotes,
    RaisingNotes,
    OddMembers,
    OwnMember,
    OddModule,
]


def raised(error: BaseException) -> BaseException:
    """The exception with a traceback."""
    try:
        raise error
    except BaseException as caught:
        caught.__context__ = None
        return caught


@st.composite
def graphs(draw: st.DrawFn) -> BaseException:
    """Exceptions that are each other's cause, context and members, in circles too."""
    found: list[BaseException] = []
    for _ in range(draw(st.integers(1, 8))):
        members = draw(st.lists(st.sampled_from(found), max_size=4)) if found else []
        if members:
            error: BaseException = BaseExceptionGroup(draw(texts), members)
        else:
            kind = draw(st.sampled_from(KINDS))
            # A second argument would be the place of a SyntaxError, in a form of its own.
            error = kind(*draw(st.lists(texts, max_size=1 if kind is SyntaxError else 2)))
        if draw(st.booleans()):
            error = raised(error)
        notes = draw(st.none() | st.lists(texts | json_values, max_size=3) | json_values)
        if notes is not None and not isinstance(error, (OddNotes, RaisingNotes)):
            error.__dict__["__notes__"] = notes
        found.append(error)
    for error in found:
        error.__cause__ = draw(st.none() | st.sampled_from(found))
        error.__context__ = draw(st.none() | st.sampled_from(found))
        error.__suppress_context__ = draw(st.booleans())
    return found[-1]


def count(node: PipesException) -> int:
    below = [*node.exceptions, *(each for each in (node.cause, node.context) if each is not None)]
    return 1 + sum(map(count, below))


@given(graphs(), st.booleans())
def test_any_graph_is_encoded_and_decoded(error: BaseException, extended: bool) -> None:
    wire = encode_exception(error, extended=extended)
    line = codec.dumps(wire, where="closed")
    assert len(line) < DEFAULT_LINE_LIMIT
    if not extended:
        assert_stock(wire)
    received = decode_exception(codec.loads(line))
    assert received.name == type(error).__name__
    assert received.message.endswith("\n")
    assert bool(received.stack) >= (error.__traceback__ is not None)
    assert count(received) <= MAX_EXCEPTIONS + MAX_LEAVES
    assert str(received).count("\n") < MAX_RENDERED_LINES + 10
    # Encoding changed nothing: it gives the same again.
    assert encode_exception(error, extended=extended) == wire


def assert_stock(wire: dict[str, Any]) -> None:
    """As the stock package's exceptions are: five keys, and so on down the links."""
    assert set(wire) == {"message", "stack", "name", "cause", "context"}
    for link in (wire["cause"], wire["context"]):
        if link is not None:
            assert_stock(link)


trees = st.recursive(
    json_values,
    lambda inner: st.fixed_dictionaries(
        {"message": texts},
        optional={
            "stack": st.lists(texts, max_size=2) | inner,
            "name": st.none() | texts | inner,
            "cause": inner,
            "context": inner,
            "notes": st.lists(texts, max_size=2) | inner,
            "exceptions": st.lists(inner, max_size=2) | inner,
        },
    ),
    max_leaves=6,
)


@given(trees)
def test_any_json_is_decoded_or_malformed(raw: Any) -> None:
    try:
        received = decode_exception(raw)
    except MalformedMessageError as error:
        assert str(error).startswith("exception")
        assert len(str(error)) < 200
    else:
        assert isinstance(str(received), str)


def test_a_long_traceback_many_notes_and_many_lines_are_cut() -> None:
    def down(levels: int) -> None:
        if levels:
            up(levels - 1)
        raise ValueError("at the end")

    def up(levels: int) -> None:
        down(levels)

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        down(1500)
    except ValueError as error:
        caught = error
    finally:
        sys.setrecursionlimit(limit)
    caught.__dict__["__notes__"] = [f"note {number}" for number in range(100_000)]
    wire = encode_exception(caught, extended=True)
    assert len(wire["stack"]) == 1001
    assert "more entries were left out]\n" in wire["stack"][500]
    assert len(wire["notes"]) == 201
    assert wire["notes"][-1] == "[99800 more notes were left out]"

    lines = [ValueError("\n" * 60_000) for _ in range(100)]
    folded = encode_exception(BaseExceptionGroup("many", lines), extended=False)
    assert folded["stack"][-1] == "  [the rest was left out]\n"
    assert len(codec.dumps(folded, where="closed")) < 1024 * 1024
