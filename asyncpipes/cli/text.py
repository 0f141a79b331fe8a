"""Text of strangers, as a terminal may have it."""

from __future__ import annotations

from typing import Any

from ..errors import PipesError
from ..protocol.codec import dumps


def safe(text: str) -> str:
    """Without what a terminal would obey: escape sequences, carriage returns, bells."""
    # Next to no text needs the slow way, and there may be megabytes of it.
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text
    )


def one_line(text: str, limit: int) -> str:
    """The same as one line, of so many characters at most."""
    # Cut twice: what is a character here may be ten once it is shown.
    text = safe(text[: limit + 1]).replace("\n", "\\n").replace("\t", " ")
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def json_text(value: Any) -> str:
    """Compact JSON; numbers that JSON does not have, from stock scripts, as Python has them."""
    try:
        return dumps(value, where="value").decode()
    except PipesError:
        pass
    try:
        return repr(value)
    except RecursionError:
        return "[nested too deeply to be shown]"
