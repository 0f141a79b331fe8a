"""asyncpipes.protocol.metadata: what labels may hold, and that a stock host takes it."""

from __future__ import annotations

import enum
import json
import math
import types
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpipes.errors import InvalidParameterError, MalformedMessageError
from asyncpipes.protocol import codec
from asyncpipes.protocol.metadata import (
    INFER,
    METADATA_TYPES,
    MetadataValue,
    decode_metadata,
    encode_metadata,
)

METHOD = "report_asset_materialization"
NOON = datetime(2026, 1, 2, 12, tzinfo=timezone.utc)
COLUMN = {
    "name": "id",
    "type": "int",
    "description": "the key",
    "tags": {"unit": "none"},
    "constraints": {"nullable": False, "unique": True, "other": ["> 0"]},
}
TABLE: dict[str, Any] = {
    "records": [{"id": 1, "name": "a", "price": 0.5, "sold": True, "note": None}],
    "schema": [COLUMN, {"name": "name", "type": "string"}],
}
LINEAGE = {
    "deps_by_column": {
        "id": [
            {"asset_key": "raw", "column_name": "id"},
            {"asset_key": ["raw", "b"], "column_name": "id"},
        ],
        "new": [],
    }
}


class Colour(enum.Enum):
    RED = "red"
    SINCE = NOON


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Summary:
    rows: int
    day: date


INFERRED = [
    pytest.param("text", INFER, "text", id="str"),
    pytest.param(3, INFER, 3, id="int"),
    pytest.param(2**70, INFER, 2**70, id="2**70"),
    pytest.param(1.5, INFER, 1.5, id="float"),
    pytest.param(True, INFER, True, id="bool"),
    pytest.param(None, INFER, None, id="None"),
    pytest.param("\ud800", INFER, "\ud800", id="lone surrogate"),
    pytest.param([1, (2,)], INFER, [1, [2]], id="list"),
    pytest.param((1, NOON), INFER, [1, "2026-01-02T12:00:00+00:00"], id="tuple"),
    pytest.param({"a": {"b": 1}}, "json", {"a": {"b": 1}}, id="nested dict"),
    pytest.param({"type": "x"}, "json", {"type": "x"}, id="dict with a type only"),
    pytest.param({}, "json", {}, id="empty dict"),
    pytest.param(types.MappingProxyType({1: 2}), "json", {"1": 2}, id="mapping"),
    pytest.param(Summary(2, date(2026, 1, 2)), "json", {"rows": 2, "day": "2026-01-02"}, id="data"),
    pytest.param({2, 1}, "json", [1, 2], id="set"),
    pytest.param(frozenset("a"), "json", ["a"], id="frozenset"),
    pytest.param(NOON, "timestamp", 1767355200.0, id="aware datetime"),
    pytest.param(datetime(2026, 1, 2), "text", "2026-01-02T00:00:00", id="naive datetime"),
    pytest.param(date(2026, 1, 2), "text", "2026-01-02", id="date"),
    pytest.param(time(3, 4), "text", "03:04:00", id="time"),
    pytest.param(timedelta(seconds=2), "float", 2.0, id="timedelta"),
    pytest.param(PurePosixPath("/a"), "path", "/a", id="path"),
    pytest.param(Decimal("0.1"), "float", 0.1, id="Decimal"),
    pytest.param(Decimal("1e400"), "text", "1E+400", id="Decimal beyond floats"),
    pytest.param(UUID(int=1), "text", str(UUID(int=1)), id="UUID"),
    pytest.param(b"ab", "text", "YWI=", id="bytes"),
    pytest.param(Colour.RED, INFER, "red", id="Enum"),
    pytest.param(Colour.SINCE, "timestamp", 1767355200.0, id="Enum of datetime"),
    pytest.param(Level.HIGH, INFER, 3, id="IntEnum"),
    pytest.param({"type": "md", "raw_value": "*x*"}, "md", "*x*", id="typed dict"),
]

TYPED = [
    ("text", "t", "t"),
    ("text", date(2026, 1, 2), "2026-01-02"),
    ("url", "https://example.org", "https://example.org"),
    ("path", "/a", "/a"),
    ("path", PurePosixPath("/a"), "/a"),
    ("notebook", PurePosixPath("/a.ipynb"), "/a.ipynb"),
    ("md", "*x*", "*x*"),
    ("dagster_run", "0c3f", "0c3f"),
    ("asset", "a/b", "a/b"),
    ("json", {"a": (1,)}, {"a": [1]}),
    ("json", [1], [1]),
    ("json", "x", "x"),
    ("json", None, None),
    ("float", 1.5, 1.5),
    ("float", 3, 3.0),
    ("int", 2**70, 2**70),
    ("bool", False, False),
    ("null", None, None),
    ("timestamp", 5, 5.0),
    ("timestamp", NOON, 1767355200.0),
    ("table", TABLE, TABLE),
    ("table", {"records": (), "schema": ()}, {"records": [], "schema": []}),
    ("table_schema", {"columns": [COLUMN]}, {"columns": [COLUMN]}),
    ("table_column_lineage", LINEAGE, LINEAGE),
    (INFER, "t", "t"),
    (INFER, {"a": 1}, {"a": 1}),
]


def encode_one(value: Any) -> dict[str, Any]:
    wire = encode_metadata({"label": value}, method=METHOD)
    assert wire is not None
    assert list(wire) == ["label"]
    return wire["label"]


@pytest.mark.parametrize(("value", "kind", "raw_value"), INFERRED)
def test_inference(value: Any, kind: str, raw_value: Any) -> None:
    encoded = encode_one(value)
    assert encoded == {"type": kind, "raw_value": raw_value}
    assert list(encoded) == ["raw_value", "type"]
    assert type(encoded["raw_value"]) is type(raw_value)


@pytest.mark.parametrize(("kind", "given_value", "raw_value"), TYPED)
def test_typed_values(kind: str, given_value: Any, raw_value: Any) -> None:
    expected = {"type": kind, "raw_value": raw_value}
    assert encode_one({"raw_value": given_value, "type": kind}) == expected
    assert encode_one(MetadataValue(kind, given_value)) == expected
    assert type(encode_one(MetadataValue(kind, given_value))["raw_value"]) is type(raw_value)


def test_every_type_is_covered() -> None:
    assert {kind for kind, _, _ in TYPED} == METADATA_TYPES
    assert len(METADATA_TYPES) == 17


@pytest.mark.host
@pytest.mark.parametrize(
    "value",
    [each.values[0] for each in INFERRED] + [MetadataValue(kind, raw) for kind, raw, _ in TYPED],
)
def test_a_stock_host_takes_it(value: Any) -> None:
    external = pytest.importorskip("dagster._core.definitions.metadata.external_metadata")
    wire = json.loads(codec.dumps({"label": encode_one(value)}, where=METHOD))
    assert set(wire["label"]) == external.EXTERNAL_METADATA_VALUE_KEYS
    received = external.metadata_map_from_external(wire)["label"]
    raw_value = wire["label"]["raw_value"]
    if wire["label"]["type"] not in ("null", "asset", *NESTED_TYPES):
        assert received.value == raw_value


NESTED_TYPES = ("table", "table_schema", "table_column_lineage")


@pytest.mark.host
def test_the_types_are_those_of_dagster() -> None:
    external = pytest.importorskip("dagster._core.definitions.metadata.external_metadata")
    assert external.EXTERNAL_METADATA_TYPES == METADATA_TYPES
    assert external.EXTERNAL_METADATA_TYPE_INFER == INFER


@pytest.mark.host
def test_a_table_arrives_whole() -> None:
    external = pytest.importorskip("dagster._core.definitions.metadata.external_metadata")
    table = external.metadata_value_from_external(TABLE, "table")
    assert dict(table.records[0].data) == TABLE["records"][0]
    assert table.schema.columns[0].constraints.other == ["> 0"]
    assert table.schema.columns[0].tags == {"unit": "none"}


@pytest.mark.host
@pytest.mark.parametrize("value", ["t", 3, 1.5, True, None, [1], {"type": "md", "raw_value": "x"}])
def test_what_a_stock_script_sends_is_sent(value: Any) -> None:
    stock = pytest.importorskip("dagster_pipes")
    assert {"label": encode_one(value)} == stock._normalize_param_metadata(
        {"label": value}, METHOD, "metadata"
    )


@pytest.mark.host
def test_numpy() -> None:
    np = pytest.importorskip("numpy")
    pd = pytest.importorskip("pandas")
    metadata = {
        "int": np.int64(3),
        "float": np.float32(0.5),
        "double": np.float64(0.1),
        "bool": np.bool_(True),
        "str": np.str_("s"),
        "array": np.array([1, 2]),
        "stamp": pd.Timestamp("2026-01-02T12:00:00Z"),
        "typed": MetadataValue("int", np.int64(4)),
        "at": np.datetime64("2026-01-02"),
        "took": np.timedelta64(1500, "ms"),
    }
    assert encode_metadata(metadata, method=METHOD) == {
        "int": {"raw_value": 3, "type": INFER},
        "float": {"raw_value": 0.5, "type": INFER},
        "double": {"raw_value": 0.1, "type": INFER},
        "bool": {"raw_value": True, "type": INFER},
        "str": {"raw_value": "s", "type": INFER},
        "array": {"raw_value": [1, 2], "type": "json"},
        "stamp": {"raw_value": 1767355200.0, "type": "timestamp"},
        "typed": {"raw_value": 4, "type": "int"},
        "at": {"raw_value": "2026-01-02", "type": INFER},
        "took": {"raw_value": 1.5, "type": INFER},
    }
    with pytest.raises(InvalidParameterError, match=r"metadata\['when'\] is NaT"):
        encode_metadata({"when": pd.NaT}, method=METHOD)


@pytest.mark.parametrize("nothing", [None, {}, types.MappingProxyType({})])
def test_no_metadata(nothing: Any) -> None:
    assert encode_metadata(nothing, method=METHOD) is None


def column(**changes: Any) -> MetadataValue:
    return MetadataValue("table_schema", {"columns": [{**COLUMN, **changes}]})


def lineage(deps: Any) -> MetadataValue:
    return MetadataValue("table_column_lineage", {"deps_by_column": {"c": deps}})


UNFIT = [
    (object(), "is of type object, which has no form in JSON"),
    (math.nan, "is nan, which JSON cannot hold"),
    ({"a": [math.inf]}, r"\.a\[0\] is inf"),
    (Decimal("sNaN"), "is sNaN"),
    (MetadataValue("float", math.nan), "raw_value is nan"),
    ({"type": "magic", "raw_value": 1}, "unknown type 'magic'; the types are __infer__"),
    ({"type": ["text"], "raw_value": 1}, "unknown type"),
    (MetadataValue("text", 5), "is of type text, whose raw_value must be a str, not a int"),
    (MetadataValue("url", None), "must be a str, not None"),
    (MetadataValue("md", ["x"]), "must be a str, not an array"),
    (MetadataValue("url", PurePosixPath("/")), "is of type url, which takes no path"),
    (MetadataValue("int", True), "must be an int, not a bool"),
    (MetadataValue("int", 1.0), "must be an int, not a float"),
    (MetadataValue("float", "1"), "must be a float or an int, not a str"),
    (MetadataValue("float", False), "must be a float or an int, not a bool"),
    (MetadataValue("float", 10**400), "too large for a float"),
    (MetadataValue("bool", 1), "must be a bool, not a int"),
    (MetadataValue("null", 0), "must be None, not a int"),
    (MetadataValue("json", 5), "holds no bare int; use type int"),
    (MetadataValue("timestamp", "now"), "must be a float or an int"),
    (MetadataValue("timestamp", datetime(2026, 1, 2)), "datetime without a time zone"),
    (MetadataValue("table", []), "raw_value must be an object"),
    (MetadataValue("table", {"records": []}), "raw_value lacks the key 'schema'"),
    (MetadataValue("table", {"records": {}, "schema": []}), "records must be an array"),
    (MetadataValue("table", {"records": [[]], "schema": []}), r"records\[0\] must be an object"),
    (MetadataValue("table", {"records": [{"a": [1]}], "schema": []}), r"records\[0\]\['a'\] must"),
    (MetadataValue("table", {"records": [], "schema": [{"name": "a"}]}), "lacks the key 'type'"),
    (MetadataValue("table_schema", {"columns": {}}), "columns must be an array"),
    (column(name=1), r"columns\[0\]\.name must be a str"),
    (column(description=1), r"columns\[0\]\.description must be a str"),
    (column(tags={"a": 1}), r"columns\[0\]\.tags must be an object of str"),
    (column(constraints=[]), r"columns\[0\]\.constraints must be an object"),
    (column(constraints={"nullable": None}), r"constraints\.nullable must be a bool"),
    (column(constraints={"other": "x"}), r"constraints\.other must be an array of str"),
    (column(constraints={"primary": True}), "unknown key 'primary'"),
    (lineage({}), "must be an array"),
    (lineage([{"asset_key": "a"}]), "lacks the key 'column_name'"),
    (lineage([{"asset_key": 1, "column_name": "b"}]), "must be an object of asset_key"),
    (lineage([{"asset_key": "a", "column_name": 1}]), "must be an object of asset_key"),
    (lineage([{"asset_key": "a", "column_name": "b", "x": 1}]), "must be an object of asset_key"),
    (lineage([{"asset_key": k, "column_name": "b"} for k in ("a", ["a"])]), "twice"),
]


@pytest.mark.parametrize(("value", "pattern"), UNFIT)
def test_what_does_not_fit_is_refused_by_name(value: Any, pattern: str) -> None:
    with pytest.raises(InvalidParameterError, match=pattern) as caught:
        encode_metadata({"good": 1, "bad label": value}, method=METHOD)
    assert str(caught.value).startswith(f"{METHOD}: metadata['bad label']")


@pytest.mark.parametrize(
    ("metadata", "pattern"),
    [
        ([("a", 1)], "metadata must be a mapping of labels to values, not list"),
        ("a", "must be a mapping"),
        ({1: "a"}, "labels must be str; 1 is int"),
    ],
)
def test_what_is_no_metadata(metadata: Any, pattern: str) -> None:
    with pytest.raises(InvalidParameterError, match=f"^{METHOD}: .*{pattern}"):
        encode_metadata(metadata, method=METHOD)


def test_later_mutation_changes_nothing() -> None:
    rows = [{"a": 1}]
    wire = encode_metadata({"rows": rows}, method=METHOD)
    rows[0]["a"] = 2
    assert wire == {"rows": {"raw_value": [{"a": 1}], "type": INFER}}


raw_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), raw_json.filter(lambda v: not isinstance(v, dict)), min_size=1))
def test_round_trip(metadata: dict[str, Any]) -> None:
    wire = encode_metadata(metadata, method=METHOD)
    received = decode_metadata(codec.loads(codec.dumps(wire, where=METHOD)))
    assert received == {label: MetadataValue(INFER, value) for label, value in metadata.items()}
    # What was received may be reported again as it is.
    assert encode_metadata(received, method=METHOD) == wire


@pytest.mark.host
@given(st.sampled_from(sorted(METADATA_TYPES)), raw_json)
def test_what_passes_never_breaks_a_stock_host(kind: str, raw_value: Any) -> None:
    external = pytest.importorskip("dagster._core.definitions.metadata.external_metadata")
    try:
        wire = encode_metadata({"label": MetadataValue(kind, raw_value)}, method=METHOD)
    except InvalidParameterError:
        return
    assert wire is not None
    received = external.metadata_map_from_external(json.loads(codec.dumps(wire, where=METHOD)))
    assert list(received) == ["label"]


def test_decode() -> None:
    assert decode_metadata(None) == {}
    assert decode_metadata({}) == {}
    raw = {"a": {"raw_value": [1], "type": "json"}, "b": {"raw_value": 5, "type": "text", "x": 1}}
    assert decode_metadata(raw) == {
        "a": MetadataValue("json", [1]),
        "b": MetadataValue("text", 5),
    }


@pytest.mark.parametrize(
    ("raw", "pattern"),
    [
        ([], "metadata is no object but list"),
        ("x", "metadata is no object but str"),
        ({"a": 1}, r"metadata\['a'\] is no object"),
        ({"a": None}, r"metadata\['a'\] is no object"),
        ({"a": "type"}, r"metadata\['a'\] is no object"),
        ({"a": []}, r"metadata\['a'\] is no object"),
        ({"a": {"type": "text"}}, r"metadata\['a'\] is no object .* 'raw_value'"),
        ({"a": {"raw_value": 1}}, r"metadata\['a'\] is no object"),
        ({"a": {"raw_value": 1, "type": "magic"}}, r"metadata\['a'\] has unknown type 'magic'"),
        ({"a": {"raw_value": 1, "type": None}}, r"metadata\['a'\] has unknown type None"),
        ({"a": {"raw_value": 1, "type": []}}, r"metadata\['a'\] is no object .* is a text"),
    ],
)
def test_decode_refuses_by_name(raw: Any, pattern: str) -> None:
    with pytest.raises(MalformedMessageError, match=pattern):
        decode_metadata(raw)


def test_values_are_immutable() -> None:
    value = MetadataValue("text", "a")
    with pytest.raises(AttributeError):
        value.type = "md"  # type: ignore[misc]
