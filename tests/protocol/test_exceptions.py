"""asyncpipes.protocol.exceptions: what went wrong is seen on the host, whatever it was."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from asyncpipes.errors import MalformedMessageError
from asyncpipes.protocol import codec, exceptions
from asyncpipes.protocol.exceptions import PipesException, decode_exception, encode_exception

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

FIVE = {"message", "stack", "name", "cause", "context"}


class Group(Exception):
    """Shaped as the groups of 3.11 and of the backport are."""

    def __init__(self, message: str, members: list[BaseException]) -> None:
        super().__init__(message)
        self.exceptions = tuple(members)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def raised(exc: BaseException, cause: BaseException | None = None) -> BaseException:
    """The exception with a traceback that ends here."""
    try:
        if cause is not None:
            raise exc from cause
        raise exc
    except BaseException as caught:
        return caught


def with_notes(exc: BaseException, *notes: Any) -> BaseException:
    exc.__dict__["__notes__"] = list(notes)  # what add_note() does since 3.11
    return exc


def during(exc: BaseException, handled: BaseException) -> BaseException:
    try:
        try:
            raise handled
        except BaseException:
            raise exc  # noqa: B904 - the context is the point
    except BaseException as caught:
        return caught


def decoded(exc: BaseException) -> PipesException:
    return decode_exception(
        codec.loads(codec.dumps(encode_exception(exc, extended=True), where=""))
    )


def broken_syntax() -> BaseException:
    try:
        compile("a = (\n b c", "orders.py", "exec")
    except SyntaxError as exc:
        return exc
    raise AssertionError


def misspelt_name() -> BaseException:
    orders = 1
    try:
        print(order)  # type: ignore[name-defined]
    except NameError as exc:
        return exc
    raise AssertionError(orders)


def deep_recursion() -> BaseException:
    def down(level: int) -> int:
        return down(level + 1) + 1

    try:
        down(0)
    except RecursionError as exc:
        return exc
    raise AssertionError


ORDINARY: list[Callable[[], BaseException]] = [
    lambda: raised(ValueError("text")),
    lambda: raised(ValueError()),
    lambda: raised(KeyError("k")),
    lambda: raised(ValueError("two\nlines")),
    lambda: raised(json.JSONDecodeError("bad", "x", 0)),
    lambda: raised(KeyboardInterrupt()),
    lambda: raised(SystemExit(3)),
    lambda: raised(ValueError("\ud800")),
    lambda: raised(ValueError("b"), raised(KeyError("a"))),
    lambda: during(ValueError("b"), KeyError("a")),
    lambda: raised(ValueError("c"), raised(OSError(2, "b", "f"))),
    broken_syntax,
    misspelt_name,
    deep_recursion,
    lambda: raised(ImportError("x", name="y")),
]


@pytest.mark.parametrize("make", ORDINARY)
def test_equal_to_the_traceback_module(make: Callable[[], BaseException]) -> None:
    exc = make()
    wire = encode_exception(exc, extended=False)
    expected = traceback.TracebackException.from_exception(exc)
    assert wire["message"] == "".join(expected.format_exception_only())
    assert wire["stack"] == expected.stack.format()
    assert wire["name"] == type(exc).__name__
    assert set(wire) == FIVE


@pytest.mark.host
@pytest.mark.parametrize("make", ORDINARY)
def test_equal_to_what_a_stock_script_sends(make: Callable[[], BaseException]) -> None:
    stock = pytest.importorskip("dagster_pipes")
    exc = make()
    sent = stock._pipes_exc_from_tb(traceback.TracebackException.from_exception(exc))
    assert encode_exception(exc, extended=False) == sent


@pytest.mark.parametrize("make", ORDINARY)
def test_round_trip(make: Callable[[], BaseException]) -> None:
    exc = make()
    received = decoded(exc)
    assert received.name == type(exc).__name__
    assert (received.cause is None) == (exc.__cause__ is None)
    assert received.message.rstrip("\n") in str(received)


def test_a_chain() -> None:
    first = raised(KeyError("first"))
    received = decoded(raised(ValueError("last"), raised(OSError("second"), first)))
    assert received.cause is not None
    assert received.cause.message == "OSError: second\n"
    assert received.cause.cause is not None
    assert received.cause.cause.name == "KeyError"
    text = str(received)
    assert text.index("first") < text.index("second") < text.index("ValueError: last")
    assert text.count("direct cause") == 2


def test_a_suppressed_context_stays_hidden() -> None:
    def quiet() -> None:
        try:
            raise KeyError("hidden")
        except KeyError:
            raise ValueError("seen") from None

    with pytest.raises(ValueError, match="seen") as caught:
        quiet()
    wire = encode_exception(caught.value, extended=True)
    assert wire["cause"] is None
    assert wire["context"] is None
    assert "hidden" not in json.dumps(wire["message"])


def test_a_context_is_told_from_a_cause() -> None:
    received = decoded(during(ValueError("b"), KeyError("a")))
    assert received.cause is None
    assert received.context is not None
    assert "During handling of the above exception" in str(received)


def test_notes() -> None:
    exc = with_notes(raised(ValueError("x")), "first\nmore", "second")
    wire = encode_exception(exc, extended=True)
    assert wire["message"] == "ValueError: x\nfirst\nmore\nsecond\n"
    assert wire["notes"] == ["first\nmore", "second"]
    assert str(decoded(exc)) == "ValueError: x\nfirst\nmore\nsecond"
    assert encode_exception(exc, extended=False)["message"] == wire["message"]


def test_notes_of_explained_errors() -> None:
    message = encode_exception(with_notes(broken_syntax(), "a note"), extended=False)["message"]
    assert message.count("a note") == 1


def test_notes_that_are_none() -> None:
    exc = with_notes(ValueError("x"), Unprintable(), 5)
    assert encode_exception(exc, extended=True)["notes"] == ["<unprintable note>", "5"]
    exc.__dict__["__notes__"] = "bare"
    assert encode_exception(exc, extended=True)["notes"] == ["bare"]


def group() -> BaseException:
    leaf = with_notes(raised(ValueError("leaf one"), raised(KeyError("why"))), "note one")
    inner = Group("inner", [raised(OSError("leaf two")), raised(TypeError("leaf three"))])
    return raised(Group("outer", [leaf, raised(inner)]))


def test_a_group_towards_our_host() -> None:
    received = decoded(group())
    one, inner = received.exceptions
    assert one.message == "ValueError: leaf one\nnote one\n"
    assert one.cause is not None
    assert one.cause.message == "KeyError: 'why'\n"
    assert one.stack
    assert [leaf.name for leaf in inner.exceptions] == ["OSError", "TypeError"]
    text = str(received)
    for part in ("outer", "why", "leaf one", "note one", "inner", "| | TypeError: leaf three"):
        assert part in text
    assert "2 of 2" in text


def test_a_group_towards_a_stock_host() -> None:
    wire = encode_exception(group(), extended=False)
    assert set(wire) == FIVE
    text = "".join(wire["stack"])
    for part in ("leaf one", "note one", "why", "direct cause", "leaf two", "leaf three"):
        assert part in text
    assert text.count("Traceback (most recent call last)") == 5
    assert "  | | TypeError: leaf three\n" in wire["stack"]
    assert all(entry.endswith("\n") for entry in wire["stack"])


def test_a_group_that_is_a_cause_towards_a_stock_host() -> None:
    wire = encode_exception(raised(ValueError("x"), group()), extended=False)
    assert set(wire["cause"]) == FIVE
    assert "leaf three" in "".join(wire["cause"]["stack"])


def test_real_groups() -> None:
    exc = raised(
        ExceptionGroup("outer", [ValueError("leaf"), ExceptionGroup("inner", [KeyError("deep")])])
    )
    wire = encode_exception(exc, extended=False)
    expected = traceback.TracebackException.from_exception(exc)
    assert wire["message"] == "".join(expected.format_exception_only())
    assert "KeyError: 'deep'" in "".join(wire["stack"])


@pytest.mark.host
def test_a_stock_host_takes_a_group() -> None:
    pipes = pytest.importorskip("dagster._core.pipes.context")
    error = pipes._ser_err_from_pipes_exc(encode_exception(group(), extended=False))
    assert "leaf three" in error.to_string()


@pytest.mark.parametrize("extended", [True, False])
def test_cycles_end(extended: bool) -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    itself = Group("itself", [])
    itself.exceptions = (itself, one)
    wire = encode_exception(itself, extended=extended)
    assert "the same exception as above" in json.dumps(wire)
    assert encode_exception(one, extended=extended)["cause"]["cause"] is None


def test_a_leaf_that_is_also_the_context_is_shown_as_a_leaf() -> None:
    leaf = raised(ValueError("leaf"))
    received = decoded(during(Group("g", [leaf]), leaf))
    assert received.exceptions[0].stack
    assert received.context is None


@pytest.mark.parametrize("extended", [True, False])
def test_long_chains_are_cut(extended: bool) -> None:
    exc: BaseException = ValueError(0)
    for number in range(1, 5000):
        link = ValueError(number)
        link.__cause__ = exc
        exc = link
    node = encode_exception(exc, extended=extended)
    depth = 1
    while node["cause"] is not None:
        node = node["cause"]
        depth += 1
    assert depth == exceptions.MAX_DEPTH
    assert node["stack"][-1] == "[4950 more exceptions of this chain were left out]\n"


def test_deep_groups_are_cut() -> None:
    exc: BaseException = ValueError("innermost")
    for _ in range(3000):
        exc = Group("g", [exc])
    node = decoded(exc)
    depth = 1
    while node.exceptions:
        node = node.exceptions[0]
        depth += 1
    assert depth == exceptions.MAX_DEPTH + 1
    assert node.message == "[1 more exceptions of this group were left out]\n"
    assert "left out" in str(decoded(exc))
    assert "left out" in "".join(encode_exception(exc, extended=False)["stack"])


def test_wide_groups_are_cut() -> None:
    received = decoded(Group("g", [ValueError(i) for i in range(1000)]))
    assert len(received.exceptions) == exceptions.MAX_LEAVES + 1
    assert received.exceptions[-1].message == "[800 more exceptions of this group were left out]\n"
    folded = encode_exception(Group("g", [ValueError(i) for i in range(1000)]), extended=False)
    assert "800 more exceptions" in "".join(folded["stack"])


def test_all_in_all_is_bounded() -> None:
    def tree(levels: int) -> BaseException:
        return Group("g", [tree(levels - 1) for _ in range(40)]) if levels else ValueError("x")

    def count(node: PipesException) -> int:
        return 1 + sum(count(leaf) for leaf in node.exceptions)

    # Each group that was cut adds one line of its own.
    assert count(decoded(tree(3))) < 2 * exceptions.MAX_EXCEPTIONS


def test_long_messages_are_cut() -> None:
    wire = encode_exception(with_notes(ValueError("x" * 10**6), "y" * 10**6), extended=True)
    assert len(wire["message"]) < exceptions.MAX_MESSAGE_CHARS + 100
    assert "more characters were left out" in wire["message"]
    many = Group("g", [ValueError(str(i) + "z" * 10**6) for i in range(200)])
    assert len(json.dumps(encode_exception(many, extended=True))) < 6 * 1024 * 1024


def test_long_renderings_are_cut() -> None:
    lines = str(PipesException("line\n" * 10_000, (), "E", None, None)).split("\n")
    assert len(lines) == exceptions.MAX_RENDERED_LINES + 1
    assert lines[-1] == "[the rest was left out]"


@pytest.mark.parametrize("extended", [True, False])
def test_unprintable(extended: bool) -> None:
    wire = encode_exception(raised(Unprintable()), extended=extended)
    assert wire["message"] == f"{__name__}.Unprintable: <unprintable Unprintable object>\n"
    assert wire["stack"]


def test_hostile_exceptions() -> None:
    class Hostile(Exception):
        @property
        def exceptions(self) -> Any:
            raise RuntimeError("no")

        @property
        def __notes__(self) -> Any:  # type: ignore[override]
            raise RuntimeError("no")

    for extended in (True, False):
        wire = encode_exception(Hostile("x"), extended=extended)
        assert wire["name"] == "Hostile"
        assert decode_exception(wire).name == "Hostile"


@pytest.mark.parametrize("members", [(), [ValueError()], (1, 2), "ab", None])
def test_an_exceptions_attribute_that_is_no_group(members: Any) -> None:
    exc = Group("x", [])
    exc.exceptions = members
    assert encode_exception(exc, extended=True)["exceptions"] == []


def test_decode_takes_what_is_there() -> None:
    assert decode_exception({"message": "m"}) == PipesException("m", (), None, None, None)
    nulls = {**dict.fromkeys(FIVE), "message": "m", "notes": None, "exceptions": None, "x": 1}
    assert decode_exception(nulls) == PipesException("m", (), None, None, None)


def test_notes_missing_from_the_message_are_rendered() -> None:
    received = decode_exception({"message": "m\n", "notes": ["a note"]})
    assert str(received) == "m\na note"


@pytest.mark.parametrize(
    ("raw", "pattern"),
    [
        (None, "no object but NoneType"),
        ("x", "no object but str"),
        ({}, "message is no text"),
        ({"message": 1}, "message is no text"),
        ({"message": "m", "name": 1}, "name is neither text nor null"),
        ({"message": "m", "stack": "x"}, "stack is no array"),
        ({"message": "m", "stack": [1]}, "stack holds something that is no text"),
        ({"message": "m", "notes": [None]}, "notes holds something"),
        ({"message": "m", "cause": "x"}, "no object but str"),
        ({"message": "m", "context": {"message": None}}, "message is no text"),
        ({"message": "m", "exceptions": {}}, "exceptions is no array"),
        ({"message": "m", "exceptions": [1]}, "no object but int"),
    ],
)
def test_decode_refuses(raw: Any, pattern: str) -> None:
    with pytest.raises(MalformedMessageError, match=pattern):
        decode_exception(raw)


def test_decode_is_bounded_in_depth() -> None:
    raw: dict[str, Any] = {"message": "innermost"}
    for _ in range(10_000):
        raw = {"message": "m", "cause": raw}
    received = decode_exception(raw)
    assert "nested too deeply" in str(received)
    assert "innermost" not in str(received)
