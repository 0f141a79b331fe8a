"""What the property tests draw from: JSON values, and bytes cut anywhere."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

#: Any text, lone surrogates too.
texts = st.text(st.characters(exclude_categories=()), max_size=30)

integers = (
    st.integers()
    | st.integers(-(2**64) - 5, 2**64 + 5)
    | st.integers(-(10**19), -(2**63) + 5)
    | st.integers(60, 4000).map(lambda digits: 10**digits)
    | st.integers(60, 4000).map(lambda digits: -(10**digits) + 1)
)
floats = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | integers | floats | texts


def wrapped(value: Any, levels: int, as_object: bool) -> Any:
    for _ in range(levels):
        value = {"a": value} if as_object else [value]
    return value


#: JSON values as Python's own types.
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)

#: The same, now and then within hundreds of arrays or objects.
deep_values = json_values | st.builds(wrapped, json_values, st.integers(0, 200), st.booleans())


def as_received(value: Any) -> Any:
    """``value`` after JSON: two surrogates that make a pair are one character there."""
    return json.loads(json.dumps(value))


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """``data`` in pieces, some of which are empty."""
    marks = draw(st.lists(st.integers(0, len(data)), max_size=8))
    edges = [0, *sorted(marks), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]
