"""Exceptions on their way to the host, with causes, notes and group leaves.

The wire's form is ``PipesException`` of Dagster Pipes 0.1: ``message``, ``stack``,
``name``, ``cause``, ``context``. A host of ours also gets ``notes`` and
``exceptions``; a stock host would choke on other keys, so for it the leaves of an
``ExceptionGroup`` are folded into ``stack`` as text, with their own tracebacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from types import TracebackType
from typing import Any

from ..errors import MalformedMessageError

# Nobody reads further than this, and `closed` must always fit into one line.
MAX_DEPTH = 50
MAX_LEAVES = 200
MAX_EXCEPTIONS = 500
MAX_MESSAGE_CHARS = 64 * 1024
MAX_TOTAL_CHARS = 4 * 1024 * 1024
MAX_RENDERED_LINES = 2000
MAX_FOLDED_LINES = 20_000
MAX_FRAMES = 1000
MAX_NOTES = 200

# Their last line holds more than type and text (the source line, "Did you mean"),
# which only the traceback module knows.
_EXPLAINED = (SyntaxError, NameError, AttributeError, ImportError)


@dataclass(frozen=True, slots=True)
class PipesException:
    """An exception of the external process, as it was when the context closed.

    ``str()`` of it is a readable rendering with notes, leaves and causes, without
    the stacks, of at most 2,000 lines.

    Attributes:
        message: type and text as Python prints them, ending in a newline.
        stack: the traceback's entries as Python prints them, outermost first.
        name: name of the exception's class; None where the sender knows none.
        cause: what it was explicitly raised from.
        context: what was being handled when it was raised.
        notes: what ``add_note`` added; also part of ``message``.
        exceptions: leaves of an ``ExceptionGroup``; from stock scripts always empty.
    """

    message: str
    stack: tuple[str, ...]
    name: str | None
    cause: PipesException | None
    context: PipesException | None
    notes: tuple[str, ...] = ()
    exceptions: tuple[PipesException, ...] = ()

    def __str__(self) -> str:
        return _first_lines(_render(self, stacks=False))

    def with_stacks(self) -> str:
        """As ``str()``, with the stacks, as Python prints tracebacks; 2,000 lines at most."""
        return _first_lines(_render(self, stacks=True))

    def to_wire(self, *, extended: bool) -> dict[str, Any]:
        """The wire's form; as for :func:`encode_exception`."""
        return _to_wire(self, extended)


def _first_lines(lines: Iterator[str]) -> str:
    shown = list(islice(lines, MAX_RENDERED_LINES + 1))
    if len(shown) > MAX_RENDERED_LINES:
        shown[-1] = "[the rest was left out]"
    return "\n".join(shown)


def encode_exception(exc: BaseException, *, extended: bool) -> dict[str, Any]:
    """The wire's form of ``exc`` and of all that hangs on it.

    Chains and groups deeper than 50, groups of more than 200, and more than 500
    exceptions in all are cut, with a line that says how many were left out; so are
    messages over 64 Ki characters, stacks of more than 1,000 entries, notes beyond
    200, and stacks once 4 Mi characters are gathered.
    Never raises, whatever the exception's own ``__str__`` does.

    Args:
        exc: the exception; its ``__traceback__`` is read, never changed.
        extended: the host is ours: send ``notes`` and ``exceptions`` too.
    """
    try:
        return _to_wire(_Encoder().encode(exc), extended)
    except Exception:  # the outcome needs an exception more than a good one
        name = type(exc).__name__
        unprintable = PipesException(f"{name}: {_unprintable(exc)}\n", (), name, None, None)
        return _to_wire(unprintable, extended)


def _to_wire(node: PipesException, extended: bool) -> dict[str, Any]:
    wire: dict[str, Any] = {
        "message": node.message,
        "stack": list(node.stack) if extended else [*node.stack, *_fold(node)],
        "name": node.name,
        "cause": node.cause and _to_wire(node.cause, extended),
        "context": node.context and _to_wire(node.context, extended),
    }
    if extended:
        wire["notes"] = list(node.notes)
        wire["exceptions"] = [_to_wire(leaf, True) for leaf in node.exceptions]
    return wire


def _fold(node: PipesException) -> Iterator[str]:
    """The leaves as entries for ``stack``, indented so that the structure shows."""
    for number, line in enumerate(_render_leaves(node, stacks=True)):
        if number == MAX_FOLDED_LINES:
            yield "  [the rest was left out]\n"
            return
        yield f"  {line}\n"


class _Encoder:
    """One exception's tree. Holds what bounds the work: the counts and who was seen."""

    def __init__(self) -> None:
        self._left = MAX_EXCEPTIONS
        self._chars_left = MAX_TOTAL_CHARS
        self._seen: set[int] = set()

    def encode(self, exc: BaseException, depth: int = 1) -> PipesException:
        self._left -= 1
        self._seen.add(id(exc))
        message = self._fit(_message(exc))
        notes = [self._fit(note) for note in _notes(exc) if self._chars_left > 0]
        stack = ["[the stack was left out: the exceptions before it filled the message]\n"]
        if self._chars_left > 0:
            stack = [self._fit(text) for text in _entries(exc.__traceback__)]
        # Leaves come first: anyio and trio make a leaf the group's context as well.
        leaves, left_out = self._leaves(exc, depth)
        cause, context, links_left_out = self._links(exc, depth)
        if left_out:
            leaves.append(_note(f"[{left_out} more exceptions of this group were left out]"))
        if links_left_out:
            stack.append(f"[{links_left_out} more exceptions of this chain were left out]\n")
        return PipesException(
            message=message,
            stack=tuple(stack),
            name=type(exc).__name__,
            cause=cause,
            context=context,
            notes=tuple(notes),
            exceptions=tuple(leaves),
        )

    def _fit(self, text: str) -> str:
        text = _clip(text, min(MAX_MESSAGE_CHARS, max(self._chars_left, 200)))
        self._chars_left -= len(text)
        return text

    def _leaves(self, exc: BaseException, depth: int) -> tuple[list[PipesException], int]:
        members = _members(exc)
        leaves: list[PipesException] = []
        for member in members:
            if len(leaves) >= MAX_LEAVES or depth >= MAX_DEPTH or self._left <= 0:
                break
            if id(member) in self._seen:
                again = f"{self._fit(_message(member))}[the same exception as above]"
                leaves.append(replace(_note(again), name=type(member).__name__))
            else:
                leaves.append(self.encode(member, depth + 1))
        return leaves, len(members) - len(leaves)

    def _links(
        self, exc: BaseException, depth: int
    ) -> tuple[PipesException | None, PipesException | None, int]:
        if depth >= MAX_DEPTH or self._left <= 0:
            return None, None, self._chain_length(exc)
        cause = context = None
        if exc.__cause__ is not None and id(exc.__cause__) not in self._seen:
            cause = self.encode(exc.__cause__, depth + 1)
        if (
            exc.__context__ is not None
            and not exc.__suppress_context__
            and id(exc.__context__) not in self._seen
            and self._left > 0
        ):
            context = self.encode(exc.__context__, depth + 1)
        return cause, context, 0

    def _chain_length(self, exc: BaseException) -> int:
        """How many exceptions follow ``exc``; the count stops at cycles."""
        passed = set(self._seen)
        count = 0
        link = _next_link(exc)
        while link is not None and id(link) not in passed:
            passed.add(id(link))
            count += 1
            link = _next_link(link)
        return count


def _entries(stack: TracebackType | None) -> list[str]:
    """The traceback's entries, of a very long one those at its ends."""
    import traceback  # loads the tokenizer and more; needed for failures only

    length = sum(1 for _ in traceback.walk_tb(stack))
    if length <= MAX_FRAMES:
        return traceback.extract_tb(stack).format()
    half = MAX_FRAMES // 2
    return [
        *traceback.extract_tb(stack, limit=half).format(),
        f"[{length - 2 * half} more entries were left out]\n",
        *traceback.extract_tb(stack, limit=-half).format(),
    ]


def _next_link(exc: BaseException) -> BaseException | None:
    if exc.__cause__ is not None or exc.__suppress_context__:
        return exc.__cause__
    return exc.__context__


def _note(text: str) -> PipesException:
    return PipesException(f"{text}\n", (), None, None, None)


def _members(exc: BaseException) -> tuple[BaseException, ...]:
    """Leaves by the shape of the class: 3.10 has groups from a backport only."""
    try:
        members = getattr(exc, "exceptions", None)
    except Exception:  # a property that raises: no group then
        return ()
    if not isinstance(members, tuple):
        return ()
    if all(isinstance(member, BaseException) for member in members):
        return members
    return ()


def _unprintable(exc: BaseException) -> str:
    return f"<unprintable {type(exc).__name__} object>"


def _message(exc: BaseException) -> str:
    """What ``traceback.format_exception_only`` gives, without its walk of the chain.

    That walk visits the whole chain and all leaves again for each exception, which
    for the groups and chains that are cut here would take minutes.
    """
    if isinstance(exc, _EXPLAINED):
        import traceback

        try:
            explained = traceback.TracebackException(type(exc), exc, exc.__traceback__, limit=0)
            text = "".join(explained.format_exception_only())
        except Exception:  # suggestions run code of the objects involved
            text = f"{type(exc).__name__}: {_unprintable(exc)}\n"
        notes = _notes_text(exc)  # Python 3.10 knows no notes, unless exceptiongroup is loaded
        return text if text.endswith(notes) else text + notes
    try:
        value = str(exc)
    except Exception:  # the user's __str__
        value = _unprintable(exc)
    kind = type(exc)
    name = kind.__qualname__
    if kind.__module__ not in ("__main__", "builtins"):
        name = f"{kind.__module__}.{name}"
    first = f"{name}: {value}\n" if value else f"{name}\n"
    return first + _notes_text(exc)


def _notes_text(exc: BaseException) -> str:
    return "".join(f"{line}\n" for note in _notes(exc) for line in note.split("\n"))


def _notes(exc: BaseException) -> list[str]:
    try:
        notes = getattr(exc, "__notes__", None)
    except Exception:  # a property that raises
        return []
    if notes is None:
        return []
    if not isinstance(notes, (list, tuple)):
        notes = [notes]
    texts: list[str] = []
    for note in notes[:MAX_NOTES]:
        try:
            texts.append(str(note))
        except Exception:  # the user's __str__
            texts.append("<unprintable note>")
    if len(notes) > MAX_NOTES:
        texts.append(f"[{len(notes) - MAX_NOTES} more notes were left out]")
    return texts


def _clip(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    rest = len(text) - limit
    return f"{text[:limit]}\n[{rest} more characters were left out]\n"


def _render(node: PipesException, *, stacks: bool) -> Iterator[str]:
    """Lines without newlines: what led to it first, as Python prints tracebacks."""
    if node.cause is not None:
        yield from _render(node.cause, stacks=stacks)
        yield "The above exception was the direct cause of the following exception:"
    elif node.context is not None:
        yield from _render(node.context, stacks=stacks)
        yield "During handling of the above exception, another exception occurred:"
    if stacks and node.stack:
        yield "Traceback (most recent call last):"
        for entry in node.stack:
            yield from entry.rstrip("\n").split("\n")
    yield from node.message.rstrip("\n").split("\n")
    for note in node.notes:
        if note not in node.message:
            yield from note.split("\n")
    yield from _render_leaves(node, stacks=stacks)


def _render_leaves(node: PipesException, *, stacks: bool) -> Iterator[str]:
    count = len(node.exceptions)
    for number, leaf in enumerate(node.exceptions, 1):
        yield f"+---------------- {number} of {count} ----------------"
        for line in _render(leaf, stacks=stacks):
            yield f"| {line}"


def decode_exception(raw: Any, *, depth: int = 1) -> PipesException:
    """Read the wire's form, the extended one too. Absent keys but ``message`` are fine.

    What is nested deeper than 100 is replaced by a line that says so.

    Raises:
        MalformedMessageError: no object, no ``message``, or a key of a wrong type.
    """
    if depth > 2 * MAX_DEPTH:
        return _note("[what follows is nested too deeply and was left out]")
    if not isinstance(raw, dict):
        raise MalformedMessageError(f"exception is no object but {type(raw).__name__}")
    message, name = raw.get("message"), raw.get("name")
    if not isinstance(message, str):
        raise MalformedMessageError("exception.message is no text")
    if name is not None and not isinstance(name, str):
        raise MalformedMessageError("exception.name is neither text nor null")
    cause, context = raw.get("cause"), raw.get("context")
    return PipesException(
        message=message,
        stack=tuple(_decode_texts(raw, "stack")),
        name=name,
        cause=None if cause is None else decode_exception(cause, depth=depth + 1),
        context=None if context is None else decode_exception(context, depth=depth + 1),
        notes=tuple(_decode_texts(raw, "notes")),
        exceptions=tuple(
            decode_exception(leaf, depth=depth + 1) for leaf in _decode_list(raw, "exceptions")
        ),
    )


def _decode_list(raw: dict[str, Any], key: str) -> list[Any]:
    value = raw.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise MalformedMessageError(f"exception.{key} is no array")
    return value


def _decode_texts(raw: dict[str, Any], key: str) -> list[str]:
    texts = _decode_list(raw, key)
    if not all(isinstance(text, str) for text in texts):
        raise MalformedMessageError(f"exception.{key} holds something that is no text")
    return texts
