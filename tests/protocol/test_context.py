"""asyncpipes.protocol.context: real hosts' nulls, hosts' mistakes, and asset keys."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpipes.errors import BootstrapEncodingError, InvalidParameterError
from asyncpipes.protocol.context import (
    ContextData,
    build_context,
    from_asset_key_path,
    to_asset_key_path,
)

WIRE: dict[str, Any] = {
    "asset_keys": ["orders", "a/b"],
    "code_version_by_asset_key": {"orders": "v1", "a/b": None},
    "provenance_by_asset_key": {
        "orders": {
            "code_version": "v0",
            "input_data_versions": {"raw": "1"},
            "is_user_provided": True,
        },
        "a/b": None,
    },
    "partition_key": "2026-01-01",
    "partition_key_range": {"start": "2026-01-01", "end": "2026-01-01"},
    "partition_time_window": {
        "start": "2026-01-01T00:00:00+00:00",
        "end": "2026-01-02T00:00:00+00:00",
    },
    "run_id": "0c3f",
    "job_name": "nightly",
    "retry_number": 2,
    "extras": {"day": 1, "nested": {"a": None}},
}


def test_every_key_both_ways() -> None:
    context = ContextData.from_wire(WIRE)
    assert context.asset_keys == ("orders", "a/b")
    assert context.retry_number == 2
    assert context.partition_key_range is not None
    assert context.partition_key_range["start"] == "2026-01-01"
    assert context.partition_time_window is not None
    assert context.partition_time_window["end"] == "2026-01-02T00:00:00+00:00"
    assert context.provenance_by_asset_key is not None
    provenance = context.provenance_by_asset_key["orders"]
    assert provenance is not None
    assert provenance["input_data_versions"] == {"raw": "1"}
    assert context.to_wire() == WIRE
    assert ContextData.from_wire(context.to_wire()) == context


@pytest.mark.host
def test_the_keys_are_those_of_dagster() -> None:
    stock = pytest.importorskip("dagster_pipes")
    assert set(ContextData().to_wire()) == set(stock.PipesContextData.__annotations__)


@pytest.mark.parametrize("raw", [None, {}, dict.fromkeys(WIRE), {"from_the_future": 1}])
def test_nulls_and_missing_keys_are_defaults(raw: Any) -> None:
    context = ContextData.from_wire(raw)
    assert context == ContextData()
    assert context.to_wire() == {
        **dict.fromkeys(WIRE),
        "run_id": "",
        "retry_number": 0,
        "extras": {},
    }


@pytest.mark.parametrize("key", WIRE)
def test_each_key_may_be_null_or_missing(key: str) -> None:
    without = {name: value for name, value in WIRE.items() if name != key}
    assert ContextData.from_wire(without) == ContextData.from_wire({**WIRE, key: None})


def test_nulls_inside_provenance() -> None:
    nulls = dict.fromkeys(("code_version", "input_data_versions", "is_user_provided"))
    context = ContextData.from_wire({"provenance_by_asset_key": {"orders": nulls}})
    assert context.provenance_by_asset_key == {"orders": nulls}


WRONG = [
    ("asset_keys", "orders", "asset_keys must be a list of str, not str"),
    ("asset_keys", ["a", 1], r"asset_keys\[1\] must be a str, not int"),
    ("code_version_by_asset_key", ["v1"], "code_version_by_asset_key must be a mapping"),
    ("code_version_by_asset_key", {"orders": 1}, r"asset_key\['orders'\] must be a str, not int"),
    ("provenance_by_asset_key", {"orders": 1}, r"asset_key\['orders'\] must be a mapping"),
    ("provenance_by_asset_key", {"orders": {"code_version": 1}}, r"\.code_version must be a str"),
    ("provenance_by_asset_key", {"orders": {"is_user_provided": 1}}, "must be a bool, not int"),
    ("provenance_by_asset_key", {"orders": {"input_data_versions": []}}, "must be a mapping"),
    ("partition_key", 3, "partition_key must be a str, not int"),
    ("partition_key_range", ["a", "b"], "partition_key_range must be a mapping, not list"),
    ("partition_key_range", {"start": "a"}, "partition_key_range has no 'end'"),
    ("partition_key_range", {"start": "a", "end": 1}, r"partition_key_range\.end must be a str"),
    ("partition_time_window", {"end": "a"}, "partition_time_window has no 'start'"),
    ("run_id", 5, "run_id must be a str"),
    ("job_name", [], "job_name must be a str, not list"),
    ("retry_number", "1", "retry_number must be an int, not str"),
    ("retry_number", True, "retry_number must be an int, not bool"),
    ("retry_number", -1, "retry_number must be 0 or more"),
    ("extras", [1], "extras must be a mapping, not list"),
]


@pytest.mark.parametrize(("key", "value", "pattern"), WRONG)
def test_wrong_types_on_the_wire(key: str, value: Any, pattern: str) -> None:
    with pytest.raises(BootstrapEncodingError, match=pattern) as caught:
        ContextData.from_wire({**WIRE, key: value})
    assert key in str(caught.value)


@pytest.mark.parametrize("raw", [[], "x", 1])
def test_what_is_no_context(raw: Any) -> None:
    with pytest.raises(BootstrapEncodingError, match="context data must be a mapping"):
        ContextData.from_wire(raw)


def test_build_without_anything() -> None:
    context = build_context()
    assert UUID(context.run_id).version == 4
    assert context.run_id != build_context().run_id
    assert context == ContextData(run_id=context.run_id)


def test_build_fills_in_what_dagster_would() -> None:
    context = build_context(
        asset_keys=["orders", "items"],
        code_version_by_asset_key={"orders": "v1"},
        partition_key="p",
        run_id="r",
        extras=MappingProxyType({"a": 1}),
    )
    assert context.to_wire() == {
        "asset_keys": ["orders", "items"],
        "code_version_by_asset_key": {"orders": "v1", "items": None},
        "provenance_by_asset_key": {"orders": None, "items": None},
        "partition_key": "p",
        "partition_key_range": {"start": "p", "end": "p"},
        "partition_time_window": None,
        "run_id": "r",
        "job_name": None,
        "retry_number": 0,
        "extras": {"a": 1},
    }


def test_build_takes_every_field() -> None:
    assert build_context(**WIRE).to_wire() == WIRE
    assert build_context(asset_keys=("a",)).asset_keys == ("a",)


def test_a_given_range_is_kept() -> None:
    context = build_context(partition_key_range={"start": "a", "end": "b"})
    assert context.partition_key is None
    assert context.partition_key_range == {"start": "a", "end": "b"}


@pytest.mark.parametrize(
    ("key", "value", "pattern"),
    [
        *(each for each in WRONG if each[:2] != ("asset_keys", "orders")),
        ("asset_keys", "orders", r"asset_keys is the str 'orders'; write \['orders'\]"),
        ("asset_keys", {"orders"}, "asset_keys must be a list of str, not set"),
        ("asset_keys", ["a", "a"], "asset_keys names an asset twice"),
        ("asset_keys", ["a", ""], "asset_keys holds an empty key"),
        ("extras", {1: 2}, "each key of extras must be a str, not int"),
        ("code_version_by_asset_key", {"other": "v"}, "names 'other', which is not among"),
        ("provenance_by_asset_key", {"other": None}, "names 'other', which is not among"),
    ],
)
def test_wrong_parameters(key: str, value: Any, pattern: str) -> None:
    with pytest.raises(InvalidParameterError, match=f"^context: .*{pattern}") as caught:
        build_context(**{"asset_keys": ["orders"], key: value})
    assert key in str(caught.value)


def test_versions_without_assets() -> None:
    with pytest.raises(InvalidParameterError, match="not among asset_keys"):
        build_context(code_version_by_asset_key={"orders": "v"})


def test_contexts_are_immutable() -> None:
    with pytest.raises(AttributeError):
        ContextData().run_id = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("orders", ["orders"]),
        ("a/b", ["a", "b"]),
        (r"a\/b/c", ["a/b", "c"]),
        (r"a\\/b", ["a\\", "b"]),
        (r"\x", ["x"]),
        ("/a", ["", "a"]),
        ("a//b", ["a", "", "b"]),
    ],
)
def test_asset_key_paths(key: str, parts: list[str]) -> None:
    assert to_asset_key_path(key) == parts
    assert to_asset_key_path(from_asset_key_path(parts)) == parts


@pytest.mark.host
@given(st.text("ab/\\é"), st.lists(st.text("ab/\\é", min_size=1), min_size=1))
def test_asset_keys_are_those_of_dagster(key: str, parts: list[str]) -> None:
    stock = pytest.importorskip("dagster_pipes")
    dagster = pytest.importorskip("dagster")
    assert to_asset_key_path(key) == stock.to_asset_key_path(key)
    assert from_asset_key_path(parts) == dagster.AssetKey(parts).to_escaped_user_string()
    assert to_asset_key_path(from_asset_key_path(parts)) == parts


@pytest.mark.parametrize("parts", ["orders", ["a", 1], 5])
def test_what_is_no_path(parts: Any) -> None:
    with pytest.raises(InvalidParameterError, match="parts"):
        from_asset_key_path(parts)
