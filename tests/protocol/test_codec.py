"""asyncpipes.protocol.codec: what becomes of Python values, and that nothing lies."""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
import math
import sys
import types
from collections import OrderedDict, namedtuple
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asyncpipes.errors import InvalidParameterError
from asyncpipes.protocol import codec

WHERE = "report_custom_message: payload"


class Colour(enum.Enum):
    RED = "red"
    WHEN = datetime(2026, 1, 2)


class Number(enum.IntEnum):
    ONE = 1


class Text(str):
    pass


class Real(float):
    pass


class Whole(int):
    pass


class Keyed(dict[str, int]):
    pass


Point = namedtuple("Point", "x y")


@dataclasses.dataclass
class Order:
    id: int
    _when: date = date(2026, 1, 2)


class BytesPath:
    def __fspath__(self) -> bytes:
        return b"/data/\xff"


ONE_HOUR_EAST = timezone(timedelta(hours=1))

CONVERSIONS = [
    pytest.param((1, (2, 3)), [1, [2, 3]], id="tuple"),
    pytest.param(Point(1, 2), [1, 2], id="namedtuple"),
    pytest.param({3, 1, 2}, [1, 2, 3], id="set"),
    pytest.param(frozenset({"b", "a"}), ["a", "b"], id="frozenset"),
    pytest.param({1, "a"}, ["a", 1], id="unsortable set by repr"),
    pytest.param({frozenset({2, 1}), frozenset({0})}, [[0], [1, 2]], id="set of sets"),
    pytest.param({1: "a", 2.5: "b"}, {"1": "a", "2.5": "b"}, id="number keys"),
    pytest.param({True: 1, None: 2}, {"true": 1, "null": 2}, id="bool and None keys"),
    pytest.param({Text("k"): 1, Number.ONE: 2}, {"k": 1, "1": 2}, id="keys of subclasses"),
    pytest.param(OrderedDict(b=1, a=2), {"b": 1, "a": 2}, id="OrderedDict"),
    pytest.param(types.MappingProxyType({"a": 1}), {"a": 1}, id="mapping"),
    pytest.param(datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05", id="datetime"),
    pytest.param(
        datetime(2026, 1, 2, 3, 4, 5, 6, ONE_HOUR_EAST),
        "2026-01-02T03:04:05.000006+01:00",
        id="aware datetime",
    ),
    pytest.param(
        datetime(2026, 1, 2, tzinfo=timezone(timedelta(seconds=1))),
        "2026-01-02T00:00:00+00:00:01",
        id="offset in seconds",
    ),
    pytest.param(date(2026, 1, 2), "2026-01-02", id="date"),
    pytest.param(time(3, 4), "03:04:00", id="time"),
    pytest.param(time(3, 4, tzinfo=ONE_HOUR_EAST), "03:04:00+01:00", id="aware time"),
    pytest.param(timedelta(minutes=1, milliseconds=5), 60.005, id="timedelta"),
    pytest.param(UUID(int=1), "00000000-0000-0000-0000-000000000001", id="UUID"),
    pytest.param(PurePosixPath("/a/b"), "/a/b", id="path"),
    pytest.param(BytesPath(), "/data/\udcff", id="path of bytes"),
    pytest.param(Decimal("0.1"), 0.1, id="Decimal that a float holds"),
    pytest.param(Decimal("0.10000000000000000000001"), "0.10000000000000000000001", id="Decimal"),
    pytest.param(Decimal("1e400"), "1E+400", id="huge Decimal"),
    pytest.param(b"\x00\xff", "AP8=", id="bytes"),
    pytest.param(bytearray(b"ab"), "YWI=", id="bytearray"),
    pytest.param(memoryview(b"abcd")[::2], "YWM=", id="memoryview"),
    pytest.param(Colour.RED, "red", id="Enum"),
    pytest.param(Colour.WHEN, "2026-01-02T00:00:00", id="Enum of datetime"),
    pytest.param(Number.ONE, 1, id="IntEnum"),
    pytest.param(Text("t"), "t", id="str subclass"),
    pytest.param(Real(1.5), 1.5, id="float subclass"),
    pytest.param(Whole(7), 7, id="int subclass"),
    pytest.param(Keyed(a=1), {"a": 1}, id="dict subclass"),
    pytest.param(Order(1), {"id": 1, "_when": "2026-01-02"}, id="dataclass"),
    pytest.param(2**70, 2**70, id="2**70"),
    pytest.param(-(2**70), -(2**70), id="-2**70"),
    pytest.param(2**64 - 1, 2**64 - 1, id="largest of 64 bits"),
    pytest.param("\ud800", "\ud800", id="lone surrogate"),
    pytest.param({"\udfff": 1}, {"\udfff": 1}, id="lone surrogate as key"),
    pytest.param({"a": None, "b": "null"}, {"a": None, "b": "null"}, id="None"),
    pytest.param("a\nb\x00\u2028é", "a\nb\x00\u2028é", id="text"),
]


@pytest.mark.parametrize(("value", "expected"), CONVERSIONS)
def test_conversions(value: Any, expected: Any) -> None:
    line = codec.dumps(value, where=WHERE)
    assert b"\n" not in line
    assert json.loads(line) == expected
    assert codec.loads(line) == expected


@pytest.mark.parametrize(("value", "expected"), CONVERSIONS)
def test_the_slow_path_agrees_with_the_fast_one(value: Any, expected: Any) -> None:
    # 2**70 beside it is what orjson refuses, so the whole goes through the walker.
    assert codec.loads(codec.dumps([value, 2**70], where=WHERE)) == [expected, 2**70]
    assert codec.plain(value, where=WHERE) == expected


@pytest.mark.host
def test_numpy_and_pandas() -> None:
    np = pytest.importorskip("numpy")
    pd = pytest.importorskip("pandas")
    values = {
        "int": np.int64(3),
        "uint": np.uint64(2**64 - 1),
        "float": np.float32(0.5),
        "double": np.float64(0.1),
        "long": np.longdouble(0.5),
        "bool": np.bool_(True),
        "str": np.str_("s"),
        "array": np.array([[1, 2], [3, 4]]),
        "zero": np.array(5),
        "days": np.array(["2026-01-02"], dtype="datetime64[D]"),
        "at": np.datetime64("2026-01-02T03:04:05.000000006", "ns"),
        "took": np.timedelta64(1500, "ms"),
        "stamp": pd.Timestamp("2026-01-02T03:04:05Z"),
        "delta": pd.Timedelta("1s"),
    }
    assert json.loads(codec.dumps(values, where=WHERE)) == {
        "int": 3,
        "uint": 2**64 - 1,
        "float": 0.5,
        "double": 0.1,
        "long": 0.5,
        "bool": True,
        "str": "s",
        "array": [[1, 2], [3, 4]],
        "zero": 5,
        "days": ["2026-01-02"],
        "at": "2026-01-02T03:04:05.000000006",
        "took": 1.5,
        "stamp": "2026-01-02T03:04:05+00:00",
        "delta": 1.0,
    }
    for bad in (np.float64("nan"), np.array([1, np.inf]), np.datetime64("NaT", "s"), pd.NaT):
        with pytest.raises(InvalidParameterError, match="JSON cannot hold"):
            codec.dumps({"a": [bad]}, where=WHERE)
    for bad in (pd.NA, np.complex128(1j), pd.Series([1])):
        with pytest.raises(InvalidParameterError, match="has no form in JSON"):
            codec.dumps({"a": [bad]}, where=WHERE)


class _Raises:
    def __fspath__(self) -> str:
        raise RuntimeError("no path today")


@dataclasses.dataclass
class _Nan:
    price: float = math.nan


REFUSED = [
    ({"orders": [0, 1, 2, {"price": math.nan}]}, r"payload\.orders\[3\]\.price is nan, which"),
    (math.inf, "payload is inf, which"),
    ([-math.inf], r"payload\[0\] is -inf, which"),
    ({"a": Real("nan")}, r"payload\.a is nan, which"),
    ({"a": [_Nan()]}, r"payload\.a\[0\]\.price is nan, which"),
    (Decimal("NaN"), "payload is NaN, which"),
    ({"x": {1: "a", "1": "b"}}, r"payload\.x has two keys that both become '1'"),
    ({"a b": object()}, r"payload\['a b'\] is of type object, which has no form in JSON"),
    ({"x" * 200: 1j}, r"payload\['x{80}'\.\.\.\] is of type complex"),
    ([iter(())], r"payload\[0\] is of type tuple_iterator"),
    ({"a": {(1, 2): 3}}, r"payload\.a has a key of type tuple"),
    ({math.nan: 1}, "payload has the key nan"),
    ({"p": _Raises()}, r"payload\.p is of type .*_Raises that raised .* no path today"),
    (int, "payload is of type type"),
]


@pytest.mark.parametrize(("value", "pattern"), REFUSED)
def test_refusals_name_the_key(value: Any, pattern: str) -> None:
    with pytest.raises(InvalidParameterError, match=pattern) as caught:
        codec.dumps(value, where=WHERE)
    assert str(caught.value).startswith(WHERE)
    assert isinstance(caught.value, TypeError)


def test_the_cause_of_a_refusal_is_kept() -> None:
    with pytest.raises(InvalidParameterError) as caught:
        codec.dumps([_Raises()], where=WHERE)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_cycles_are_refused() -> None:
    itself: list[Any] = []
    itself.append(itself)
    mapping: dict[str, Any] = {}
    mapping["a"] = [mapping]
    for cycle in (itself, mapping):
        with pytest.raises(InvalidParameterError, match="contains itself or is nested too deeply"):
            codec.dumps(cycle, where=WHERE)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_nesting_beyond_orjson() -> None:
    value = nested(300)
    with pytest.raises(TypeError):
        orjson.dumps(value)
    line = codec.dumps(value, where=WHERE)
    assert codec.loads(line) == value
    with pytest.raises(InvalidParameterError, match="nested too deeply"):
        codec.dumps(nested(100_000), where=WHERE)


def test_the_limit_of_what_is_sent_is_told() -> None:
    codec.dumps(nested(codec.MAX_NESTING_SENT), where=WHERE)
    with pytest.raises(InvalidParameterError, match=r"nested too deeply for JSON.* 500 levels"):
        codec.dumps(nested(codec.MAX_NESTING_SENT + 1), where=WHERE)


@pytest.mark.parametrize("chars", [10, 60])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a\nb", r"'a\nb'"),
        ({"a": 1}, "an object"),
        (nested(5000), "an array"),
        (None, "None"),
        (2.5, "2.5"),
        (1 << 20_000, "a value of type int"),
        (Text("x"), "'x'"),
    ],
    ids=range(7),
)
def test_a_value_shown_in_an_error(value: Any, expected: str, chars: int) -> None:
    assert codec.shown(value, chars) == expected


def test_long_values_are_cut_where_they_are_shown() -> None:
    assert codec.shown("x" * 10**6, 10) == "'xxxxxxxxxx'..."
    assert codec.shown(10**100, 10) == "1000000..."


def test_integers_with_too_many_digits() -> None:
    huge = 1 << 20_000
    with pytest.raises(InvalidParameterError, match=r"payload\.a\[1\] is an integer with too many"):
        codec.dumps({"a": [1, huge]}, where=WHERE)
    with pytest.raises(InvalidParameterError, match="too many digits"):
        codec.dumps({huge: 1}, where=WHERE)
    with pytest.raises(ValueError, match="too many digits"):
        codec.loads(b"1" * 5000)


def test_convert_makes_no_claim_about_what_is_inside() -> None:
    marker = object()
    assert codec.convert((marker,)) == [marker]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(2**80), max_value=2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=20,
)


@given(json_values)
def test_json_values_come_back_as_they_were(value: Any) -> None:
    line = codec.dumps(value, where=WHERE)
    back = codec.loads(line)
    assert back == value
    assert json.loads(line) == value
    assert codec.loads_exact(line) == value
    assert codec.plain(value, where=WHERE) == value


@given(
    st.dictionaries(
        st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.none(),
        st.integers(),
    )
)
def test_keys_are_those_of_the_standard_library(value: dict[Any, int]) -> None:
    expected = json.loads(json.dumps(value))
    assume(len(expected) == len(value))  # two keys that become one text are refused: see REFUSED
    assert json.loads(codec.dumps(value, where=WHERE)) == expected


@given(st.binary())
def test_bytes_can_be_recovered(value: bytes) -> None:
    assert base64.b64decode(codec.loads(codec.dumps(value, where=WHERE))) == value


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"a": 1180591620717411303424}', {"a": 2**70}),
        (b"-1180591620717411303424", -(2**70)),
        (b"18446744073709551615", 2**64 - 1),
        (b"9999999999999999999", 10**19 - 1),
        (b"-9999999999999999999", -(10**19) + 1),
        *(
            (str(n).encode(), n)
            for edge in (-(2**63), 2**63, 2**64)
            for n in range(edge - 2, edge + 3)
        ),
        (b"0.12345678901234567890123", 0.12345678901234567890123),
        (b'"\\ud800"', "\ud800"),
        (b"[Infinity, -Infinity]", [math.inf, -math.inf]),
        (b' {"a": 1} \r', {"a": 1}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        ("é".join('""').encode(), "é"),
        (b"[" * 500 + b"]" * 500, None),
    ],
)
def test_loads(line: bytes, expected: Any) -> None:
    for form in (line, bytearray(line), memoryview(line)):
        value = codec.loads(form)
        assert expected is None or value == expected
        assert type(value) is type(expected) or expected is None
        assert codec.loads_exact(form) == value


def test_loads_nan() -> None:
    assert math.isnan(codec.loads(b'{"a": NaN}')["a"])


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        (b"", "not JSON: Expecting value at column 1"),
        (b'{"a": "', "not JSON: Unterminated string starting at column 7"),
        (b'{"a": }', "not JSON: Expecting value at column 7"),
        (b'{"a": 1} x', "not JSON: Extra data at column 10"),
        (b'"\xff"', "invalid UTF-8: byte 0xff at offset 1"),
        (b'"\xed\xa0\x80"', "invalid UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "invalid UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'"a\nb"', "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b"\x00" * 10, "not JSON"),
    ],
)
def test_loads_refuses_with_a_reason(line: bytes, pattern: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        codec.loads(line)


@given(st.binary(max_size=60))
def test_loads_raises_nothing_but_value_error(line: bytes) -> None:
    try:
        expected = json.loads(line.decode())
    except ValueError:
        with pytest.raises(ValueError, match=r"not JSON|invalid UTF-8"):
            codec.loads(line)
    else:
        assert repr(codec.loads(line)) == repr(expected)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", False),
        (b"1" * 19, False),
        (b"-" + b"1" * 18, False),
        (b"-" + b"1" * 19, True),
        (b"1234567890" * 2, True),
        (b"1234567890 1234567890", False),
        (b'{"a":' + b"9" * 40 + b"}", True),
        ("٣".encode() * 30, False),
    ],
)
def test_has_long_digits(data: bytes, expected: bool) -> None:
    assert codec.has_long_digits(data) is expected
    assert codec.has_long_digits(memoryview(data)) is expected


def test_paths_of_this_system() -> None:
    assert codec.loads(codec.dumps(Path("a") / "b", where=WHERE)) == str(Path("a") / "b")


def test_numpy_is_not_imported() -> None:
    import subprocess

    program = (
        "import sys\nfrom asyncpipes.protocol import codec, metadata, exceptions, bootstrap, "
        "context\ncodec.dumps({'a': (1, b'x')}, where='x')\n"
        "print(*{'numpy', 'traceback', 'decimal', 'pathlib', 'asyncio'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []
