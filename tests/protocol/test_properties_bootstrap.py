"""The bootstrap: what was encoded comes back, and of anything else only a BootstrapError."""

from __future__ import annotations

import base64
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpipes.errors import (
    BootstrapEncodingError,
    BootstrapError,
    BootstrapTooLargeError,
    BootstrapTruncatedError,
)
from asyncpipes.protocol import bootstrap, codec
from asyncpipes.protocol.bootstrap import Bootstrap, decode_param, encode_param
from tests.protocol.strategies import as_received, deep_values, json_values, texts

NAME = "environment variable DAGSTER_PIPES_CONTEXT"
SECRET = "correct horse battery staple"

objects = st.dictionaries(texts, deep_values, max_size=4)
OUTPUT: Any = {"data": {"extras": {"password": SECRET, "n": [1, 2.5, None, 2**70]}}}


def decoded(value: str) -> Any:
    return decode_param(value, name=NAME)


def refused(value: str) -> BootstrapError:
    """The error of a value that cannot be used; it names the variable and shows no secret."""
    with pytest.raises(BootstrapError, match=f"^{NAME} ") as caught:
        decoded(value)
    assert SECRET not in str(caught.value)
    assert len(str(caught.value)) < 400
    return caught.value


@given(objects)
def test_round_trip(params: dict[str, Any]) -> None:
    assert repr(decoded(encode_param(params))) == repr(as_received(params))


@given(objects, objects)
def test_round_trip_by_each_way(context: dict[str, Any], messages: dict[str, Any]) -> None:
    both = Bootstrap(context, messages)
    expected = repr(Bootstrap(as_received(context), as_received(messages)))
    environment = bootstrap.to_environment(both)
    assert repr(bootstrap.from_mapping(environment, source="environment variable")) == expected
    assert repr(bootstrap.from_arguments(["x", *bootstrap.to_arguments(both)])) == expected


@given(objects)
def test_cut_off_at_each_character(params: dict[str, Any]) -> None:
    value = encode_param(params)
    assert isinstance(refused(""), BootstrapEncodingError)
    for end in range(1, len(value)):
        # The padding alone may be missing: then nothing of the data is.
        assert isinstance(refused(value[:end]), BootstrapTruncatedError), value[:end]


@given(st.data())
def test_a_flipped_bit_is_never_another_value(data: st.DataObject) -> None:
    value = OUTPUT if data.draw(st.booleans()) else data.draw(objects)
    compressed = bytearray(zlib.compress(codec.dumps(value, where="test")))
    for _ in range(data.draw(st.integers(1, 3))):
        bit = data.draw(st.integers(0, 8 * len(compressed) - 1))
        compressed[bit // 8] ^= 1 << bit % 8
    changed = base64.b64encode(compressed).decode()
    try:
        found = decoded(changed)
    except BootstrapError:
        refused(changed)
    else:  # a bit that means nothing, or one flipped back
        assert repr(found) == repr(as_received(value))


@given(st.binary(min_size=1, max_size=8))
def test_data_after_the_end_is_refused(more: bytes) -> None:
    compressed = zlib.compress(codec.dumps(OUTPUT, where="test"))
    assert isinstance(refused(base64.b64encode(compressed + more).decode()), BootstrapEncodingError)


@given(st.data())
def test_changed_text_is_never_another_value(data: st.DataObject) -> None:
    value = encode_param(OUTPUT)
    start = data.draw(st.integers(0, len(value)))
    end = data.draw(st.integers(start, min(len(value), start + 5)))
    changed = value[:start] + data.draw(st.text(max_size=5)) + value[end:]
    try:
        found = decoded(changed)
    except BootstrapError:
        refused(changed)
    else:
        assert found == OUTPUT


@given(st.text(max_size=100) | texts | st.binary().map(lambda b: base64.b64encode(b).decode()))
def test_any_text(value: str) -> None:
    refused(value)


@given(st.binary(max_size=200))
def test_any_bytes_compressed(content: bytes) -> None:
    value = base64.b64encode(zlib.compress(content)).decode()
    try:
        assert isinstance(decoded(value), dict)
    except BootstrapError:
        refused(value)


@given(json_values.filter(lambda value: not isinstance(value, dict)))
def test_any_json_but_an_object(value: Any) -> None:
    error = refused(encode_param(value))
    assert isinstance(error, BootstrapEncodingError)


@given(st.dictionaries(st.sampled_from([bootstrap.CONTEXT_VARIABLE, "X"]), json_values))
def test_any_mapping(mapping: dict[str, Any]) -> None:
    with pytest.raises(BootstrapError, match=r"^event key DAGSTER_PIPES_"):
        bootstrap.from_mapping(mapping, source="event key")


FLAGS = [bootstrap.CONTEXT_FLAG, bootstrap.MESSAGES_FLAG]


@given(st.lists(st.sampled_from([*FLAGS, *(f + "=" for f in FLAGS), "--x", "eJw="]) | st.text()))
def test_any_command_line(argv: list[str]) -> None:
    try:
        found = bootstrap.from_arguments(argv)
    except BootstrapError as error:
        assert str(error).startswith("command line argument --dagster-pipes-")
    else:
        assert found is None


@pytest.mark.parametrize(
    "content",
    [b"[", b'{"a":', b" ", b"0", b'"', b"\\u0000", b"\xff"],
    ids=["arrays", "objects", "blanks", "digits", "quotes", "escapes", "bytes"],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_bomb_is_refused_in_bounded_memory(content: bytes, wrapped: bool) -> None:
    """20 MB of one thing in 20 KB; wrapped, the bomb is a text that nobody decompresses."""
    limit = 1024 * 1024
    squeezer = zlib.compressobj(9)
    bomb = squeezer.compress(content * (20_000_000 // len(content))) + squeezer.flush()
    if wrapped:
        bomb = zlib.compress(b'{"a":"' + base64.b64encode(bomb) + b'"}')
    value = base64.b64encode(bomb).decode()
    del bomb
    tracemalloc.start()
    try:
        if wrapped:
            assert set(decode_param(value, name=NAME, limit=limit)) == {"a"}
        else:
            with pytest.raises(BootstrapTooLargeError, match=f"^{NAME} decompresses to more than"):
                decode_param(value, name=NAME, limit=limit)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * limit + 10 * len(value)
