"""asyncpipes.protocol.bootstrap: both values, every way in, and every way to spoil them."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpipes.errors import (
    BootstrapEncodingError,
    BootstrapError,
    BootstrapMissingError,
    BootstrapTooLargeError,
    BootstrapTruncatedError,
    InvalidParameterError,
)
from asyncpipes.protocol import bootstrap
from asyncpipes.protocol.bootstrap import Bootstrap, decode_param, encode_param

NAME = "environment variable DAGSTER_PIPES_CONTEXT"
PARAMS = {"data": {"run_id": "é", "extras": {"big": 2**70, "none": None, "lone": "\ud800"}}}
BOTH = Bootstrap(PARAMS, {"path": "/tmp/messages", "include_stdio_in_messages": False})


def encoded(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw)).decode()


def test_round_trip() -> None:
    value = encode_param(PARAMS)
    assert decode_param(value, name=NAME) == PARAMS
    assert json.loads(zlib.decompress(base64.b64decode(value))) == PARAMS


objects = st.dictionaries(
    st.text(),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    ),
)


@pytest.mark.host
@given(objects)
def test_the_stock_package_reads_and_writes_the_same(params: dict[str, Any]) -> None:
    stock = pytest.importorskip("dagster_pipes")
    assert stock.decode_param(encode_param(params)) == params
    assert decode_param(stock.encode_param(params), name=NAME) == params


def test_white_space_is_ignored() -> None:
    value = encode_param(PARAMS)
    wrapped = "\n".join(value[i : i + 20] for i in range(0, len(value), 20))
    assert decode_param(f" {wrapped}\r\n", name=NAME) == PARAMS


def test_what_json_cannot_hold() -> None:
    with pytest.raises(InvalidParameterError, match=r"^bootstrap: value\.extras\.x is nan"):
        encode_param({"extras": {"x": float("nan")}})


SECRET = "hunter2"

BAD = [
    ("", BootstrapEncodingError, "is empty"),
    (" \n", BootstrapEncodingError, "is empty"),
    ("====", BootstrapEncodingError, "is empty"),
    ("not base64!", BootstrapEncodingError, "not base64"),
    ("é", BootstrapEncodingError, "not base64"),
    ("\udcff", BootstrapEncodingError, "not base64"),
    ("eJw=====", BootstrapEncodingError, "not base64"),
    ("eJ=w", BootstrapEncodingError, "not base64"),
    (SECRET, BootstrapEncodingError, "of no zlib data"),
    (base64.b64encode(b'{"a": 1}').decode(), BootstrapEncodingError, "of no zlib data"),
    (encoded(b""), BootstrapEncodingError, "holds no JSON"),
    (encoded(b'{"a": '), BootstrapEncodingError, "holds no JSON .*column 7"),
    (encoded(b"\xff"), BootstrapEncodingError, "holds no JSON .*UTF-8"),
    (encoded(b"[" * 100_000), BootstrapEncodingError, "nested too deeply"),
    (encoded(b"[1]"), BootstrapEncodingError, "a JSON list where an object belongs"),
    (encoded(b"null"), BootstrapEncodingError, "where an object belongs"),
    (
        base64.b64encode(zlib.compress(b"{}") + b"more").decode(),
        BootstrapEncodingError,
        "goes on after the end",
    ),
]


@pytest.mark.parametrize(("value", "error", "pattern"), BAD)
def test_garbage(value: str, error: type[BootstrapError], pattern: str) -> None:
    with pytest.raises(error, match=f"^{NAME} .*{pattern}.*; start the script") as caught:
        decode_param(value, name=NAME)
    assert SECRET not in str(caught.value)


def test_a_damaged_byte() -> None:
    raw = bytearray(zlib.compress(json.dumps(PARAMS).encode()))
    raw[-1] ^= 1
    with pytest.raises(BootstrapEncodingError, match="zlib"):
        decode_param(base64.b64encode(raw).decode(), name=NAME)


def test_every_truncation_is_told_from_garbage() -> None:
    value = encode_param(PARAMS)
    for length in range(1, len(value)):
        with pytest.raises(BootstrapTruncatedError, match=f"^{NAME} is cut off: {length} "):
            decode_param(value[:length], name=NAME)


def test_the_limit_is_exact() -> None:
    text = json.dumps({"a": "x" * 1000})
    assert decode_param(encoded(text.encode()), name=NAME, limit=len(text)) == json.loads(text)
    with pytest.raises(BootstrapTooLargeError, match=f"more than {len(text) - 1} bytes"):
        decode_param(encoded(text.encode()), name=NAME, limit=len(text) - 1)


def test_a_bomb_costs_bounded_memory() -> None:
    # 256 MiB of blanks are 261 KB of zlib: built piece by piece, it costs nothing here.
    deflater = zlib.compressobj(9)
    pieces = [deflater.compress(b" " * 2**20) for _ in range(256)]
    bomb = base64.b64encode(b"".join(pieces) + deflater.flush()).decode()
    limit = 4 * 2**20
    tracemalloc.start()
    try:
        with pytest.raises(BootstrapTooLargeError, match=NAME):
            decode_param(bomb, name=NAME, limit=limit)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The output is gathered in blocks and joined once; the rest is the value itself.
    assert peak < 3 * limit


def test_the_default_limit_takes_five_megabytes_of_extras() -> None:
    params = {"data": {"extras": {"blob": "x" * 5_000_000}}}
    assert decode_param(encode_param(params), name=NAME) == params


def test_presence() -> None:
    assert not bootstrap.is_present({})
    assert not bootstrap.is_present({"DAGSTER_HOME": "x"})
    assert bootstrap.is_present({"DAGSTER_PIPES_CONTEXT": ""})
    assert bootstrap.is_present({"DAGSTER_PIPES_MESSAGES": "x"})


def test_environment() -> None:
    variables = bootstrap.to_environment(BOTH)
    assert list(variables) == ["DAGSTER_PIPES_CONTEXT", "DAGSTER_PIPES_MESSAGES"]
    found = bootstrap.from_mapping({"PATH": "/bin", **variables}, source="environment variable")
    assert found == BOTH
    assert found.context == PARAMS


@pytest.mark.parametrize(
    ("missing", "pattern"),
    [
        (["DAGSTER_PIPES_CONTEXT"], "^event key DAGSTER_PIPES_CONTEXT is missing; .*_MESSAGES"),
        (["DAGSTER_PIPES_MESSAGES"], "^event key DAGSTER_PIPES_MESSAGES is missing; .*_CONTEXT"),
        (["DAGSTER_PIPES_CONTEXT", "DAGSTER_PIPES_MESSAGES"], "CONTEXT is missing"),
    ],
)
def test_missing_entries(missing: list[str], pattern: str) -> None:
    mapping = {k: v for k, v in bootstrap.to_environment(BOTH).items() if k not in missing}
    with pytest.raises(BootstrapMissingError, match=pattern):
        bootstrap.from_mapping(mapping, source="event key")


@pytest.mark.parametrize("value", [5, b"eJw", {"path": "x"}, []])
def test_entries_that_are_no_text(value: Any) -> None:
    mapping = {**bootstrap.to_environment(BOTH), "DAGSTER_PIPES_MESSAGES": value}
    with pytest.raises(
        BootstrapEncodingError, match=r"^event key DAGSTER_PIPES_MESSAGES is of type"
    ):
        bootstrap.from_mapping(mapping, source="event key")


def test_a_bad_entry_is_named() -> None:
    mapping = {**bootstrap.to_environment(BOTH), "DAGSTER_PIPES_MESSAGES": "garbage!"}
    with pytest.raises(BootstrapEncodingError, match=r"^event key DAGSTER_PIPES_MESSAGES is not"):
        bootstrap.from_mapping(mapping, source="event key")


CONTEXT, MESSAGES = encode_param(BOTH.context), encode_param(BOTH.messages)
C, M = "--dagster-pipes-context", "--dagster-pipes-messages"

COMMAND_LINES = [
    [C, CONTEXT, M, MESSAGES],
    [f"{C}={CONTEXT}", f"{M}={MESSAGES}"],
    ["script.py", "-v", M, MESSAGES, "--day=3", f"{C}={CONTEXT}", "rest"],
    ["script.py", C, "garbage", M, MESSAGES, C, CONTEXT],
    [C, CONTEXT, "sub", "--dagster-pipes-other", "x", M, MESSAGES],
]


@pytest.mark.parametrize("argv", COMMAND_LINES)
def test_arguments(argv: list[str]) -> None:
    assert bootstrap.from_arguments(argv) == BOTH


@pytest.mark.host
@pytest.mark.parametrize("argv", COMMAND_LINES)
def test_the_stock_parser_agrees(argv: list[str]) -> None:
    stock = pytest.importorskip("dagster_pipes")
    parsed, _ = stock.DAGSTER_PIPES_CLI_PARSER.parse_known_args(argv)
    assert (parsed.dagster_pipes_context, parsed.dagster_pipes_messages) == (CONTEXT, MESSAGES)


@pytest.mark.host
def test_the_names_are_those_of_the_stock_package() -> None:
    stock = pytest.importorskip("dagster_pipes")
    assert bootstrap.CONTEXT_VARIABLE == stock.DAGSTER_PIPES_CONTEXT_ENV_VAR
    assert bootstrap.MESSAGES_VARIABLE == stock.DAGSTER_PIPES_MESSAGES_ENV_VAR
    assert stock.DAGSTER_PIPES_CONTEXT_CLI_ARGUMENT == C
    assert stock.DAGSTER_PIPES_MESSAGES_CLI_ARGUMENT == M


def test_arguments_are_read_after_a_double_dash() -> None:
    assert bootstrap.from_arguments(["--", *bootstrap.to_arguments(BOTH)]) == BOTH


def test_to_arguments() -> None:
    assert bootstrap.to_arguments(BOTH) == [C, CONTEXT, M, MESSAGES]


@pytest.mark.parametrize("argv", [[], ["script.py", "--day", "3"], ["--dagster-pipes", "x"]])
def test_no_arguments(argv: list[str]) -> None:
    assert bootstrap.from_arguments(argv) is None


@pytest.mark.parametrize(
    ("argv", "pattern"),
    [
        ([C, CONTEXT], f"^command line argument {M} is missing"),
        ([f"{M}={MESSAGES}"], f"^command line argument {C} is missing"),
        ([M, MESSAGES, C], f"^command line argument {C} has no value"),
        ([C, M, MESSAGES], f"^command line argument {C} has no value"),
        ([f"{C}=", M, MESSAGES], f"^command line argument {C} has no value"),
    ],
)
def test_missing_arguments(argv: list[str], pattern: str) -> None:
    with pytest.raises(BootstrapMissingError, match=pattern):
        bootstrap.from_arguments(argv)


def test_a_bad_argument_is_named() -> None:
    with pytest.raises(BootstrapTruncatedError, match=f"^command line argument {C} is cut off"):
        bootstrap.from_arguments([C, CONTEXT[:-5], M, MESSAGES])


@given(st.text(max_size=200))
def test_nothing_but_bootstrap_errors(value: str) -> None:
    with pytest.raises(BootstrapError, match=f"^{NAME} "):
        decode_param(value, name=NAME)
