"""Metadata: what fits arrives; for anything else there is an error with its label."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

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
from tests.protocol.strategies import as_received, deep_values, integers, json_values, texts

METHOD = "report_asset_materialization"

columns = st.fixed_dictionaries(
    {"name": texts, "type": texts},
    optional={
        "description": texts | st.none(),
        "tags": st.dictionaries(texts, texts, max_size=2) | st.none(),
        "constraints": st.fixed_dictionaries(
            {},
            optional={
                "nullable": st.booleans(),
                "unique": st.booleans(),
                "other": st.lists(texts, max_size=2),
            },
        ),
    },
)
dependencies = st.fixed_dictionaries({"asset_key": st.lists(texts), "column_name": texts})
cells = st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False)

RAW_VALUES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("text", "url", "path", "notebook", "md", "dagster_run", "asset"), texts),
    INFER: texts | integers | st.lists(json_values, max_size=3) | st.none() | st.booleans(),
    "json": deep_values.filter(lambda value: not isinstance(value, (bool, int, float))),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "int": integers,
    "bool": st.booleans(),
    "null": st.none(),
    "timestamp": st.floats(allow_nan=False, allow_infinity=False),
    "table": st.fixed_dictionaries(
        {
            "records": st.lists(st.dictionaries(texts, cells | texts, max_size=3), max_size=3),
            "schema": st.lists(columns, max_size=3),
        }
    ),
    "table_schema": st.fixed_dictionaries({"columns": st.lists(columns, max_size=3)}),
    "table_column_lineage": st.fixed_dictionaries(
        {
            "deps_by_column": st.dictionaries(
                texts, st.lists(dependencies, max_size=3, unique_by=repr), max_size=2
            )
        }
    ),
}


def test_every_type_is_drawn() -> None:
    assert set(RAW_VALUES) == METADATA_TYPES


typed = st.sampled_from(sorted(RAW_VALUES)).flatmap(
    lambda kind: st.builds(MetadataValue, st.just(kind), RAW_VALUES[kind])
)


@given(texts, typed)
def test_what_fits_its_type_arrives(label: str, value: MetadataValue) -> None:
    wire = encode_metadata({label: value}, method=METHOD)
    received = decode_metadata(codec.loads(codec.dumps(wire, where=METHOD)))
    assert list(received) == [as_received(label)]
    [arrived] = received.values()
    assert arrived.type == value.type
    assert repr(arrived.raw_value) == repr(as_received(value.raw_value))
    # And as a dict, the way the stock package takes it.
    assert (
        encode_metadata({label: {"type": value.type, "raw_value": value.raw_value}}, method=METHOD)
        == wire
    )


# Values whose own code misbehaves at every turn.


class Hostile:
    """Each special method raises; so does what isinstance() asks for."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no")

    __repr__ = __str__ = __fspath__ = __iter__ = __len__ = __bool__ = __index__ = _refuse
    __eq__ = __hash__ = __float__ = __int__ = __getitem__ = __contains__ = _refuse
    __class__ = property(_refuse)


class HostileButHashable(Hostile):
    __hash__ = object.__hash__


class HostileAttributes:
    def __getattribute__(self, name: str) -> Any:
        raise KeyError(name)


class HostilePath:
    def __fspath__(self) -> Any:
        return self


class HostileMapping(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise OSError("gone")

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


class HostileText(str):
    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


class HostileZone(tzinfo):
    def utcoffset(self, when: datetime | None) -> timedelta:
        raise LookupError("no such zone")

    def dst(self, when: datetime | None) -> timedelta | None:
        return None

    def tzname(self, when: datetime | None) -> str | None:
        return None


class HostileSpan(timedelta):
    def total_seconds(self) -> float:
        return float("nan")


class HostileMeta(type):
    def __instancecheck__(cls, instance: object) -> bool:
        raise RuntimeError("no")

    def __getattr__(cls, name: str) -> Any:
        raise RuntimeError(name)


class OfHostileMeta(metaclass=HostileMeta):
    pass


class Array:
    """Says it is numpy's, and is not."""

    dtype = property(lambda self: 1 / 0)


Array.__module__ = "numpy.core"


@dataclass
class Record:
    value: Any


class Choice(enum.Enum):
    OBJECT = object()
    TEXT = "text"
    ITSELF = Hostile


def endless() -> Iterator[int]:
    while True:
        yield 1


#: Made anew for each example, since some can be read only once.
HOSTILE: list[Callable[[], Any]] = [
    Hostile, HostileAttributes, HostilePath, HostileMapping, OfHostileMeta, Array, object,
    endless, HostileSpan, lambda: HostileText("x"), lambda: HostileSpan(1), lambda: Hostile,
    lambda: datetime(2026, 1, 1, tzinfo=HostileZone()), lambda: OfHostileMeta, lambda: iter([]),
    lambda: Choice.OBJECT, lambda: Choice.TEXT, lambda: Choice.ITSELF, lambda: print,
    lambda: type, lambda: 1j, lambda: Ellipsis, lambda: range(3), lambda: BaseException("x"),
    lambda: Decimal("sNaN"), lambda: Decimal("NaN"), lambda: Decimal("1e999999"),
    lambda: float("nan"), lambda: float("-inf"), lambda: 10**5000, lambda: -(10**4300),
    lambda: uuid.UUID(int=0), lambda: PurePosixPath("/x"), lambda: b"\xff", lambda: bytearray(b"x"),
    lambda: memoryview(b"x"), lambda: datetime.min.replace(tzinfo=timezone.utc),
    lambda: datetime.max, lambda: timedelta.max, lambda: {1}, lambda: {1, "a"},
    lambda: frozenset({frozenset({1})}), lambda: (1, (2, object())),
]  # fmt: skip
# By number, so that hypothesis need not show them.
hostile = st.integers(0, len(HOSTILE) - 1).map(lambda number: HOSTILE[number]())


def nest(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(texts | st.integers() | st.none() | st.booleans(), inner, max_size=2)
        | st.builds(Record, inner)
        | st.builds(MetadataValue, st.sampled_from(sorted(METADATA_TYPES)) | texts, inner)
        | st.builds(lambda kind, raw: {"type": kind, "raw_value": raw}, inner, inner)
    )


objects = st.recursive(hostile | json_values, nest, max_leaves=6)


@given(st.dictionaries(texts | texts.map(HostileText), objects, min_size=1, max_size=2))
def test_any_object_is_taken_or_refused_with_its_label(metadata: dict[str, Any]) -> None:
    try:
        wire = encode_metadata(metadata, method=METHOD)
    except InvalidParameterError as error:
        labels = [codec.shown(label, 80) for label in metadata]
        assert str(error).startswith(tuple(f"{METHOD}: metadata[{label}]" for label in labels))
        return
    assert wire is not None
    assert len(wire) == len(metadata)
    # Then it is plain, and the host takes it.
    received = decode_metadata(codec.loads(codec.dumps(wire, where=METHOD)))
    assert len(received) == len({as_received(label) for label in wire})


@given(st.dictionaries(texts, objects, max_size=2) | hostile, st.booleans())
def test_any_payload_is_taken_or_refused_with_its_path(payload: Any, wrapped: bool) -> None:
    where = "report_custom_message: payload"
    value = {"key": payload} if wrapped else payload
    try:
        line = codec.dumps(value, where=where)
    except InvalidParameterError as error:
        assert str(error).startswith(where)
        with pytest.raises(InvalidParameterError) as again:
            codec.plain(value, where=where)
            codec.dumps(codec.plain(value, where=where), where=where)
        assert str(again.value) == str(error)
    else:
        assert codec.loads(line) == codec.loads(
            codec.dumps(codec.plain(value, where=where), where=where)
        )


def test_anything_but_a_mapping() -> None:
    values: list[Any] = [HostileMapping(), 5, "text", ["a"], Hostile, Hostile(), object()]
    for metadata in values:
        with pytest.raises(InvalidParameterError, match=f"^{METHOD}: metadata"):
            encode_metadata(metadata, method=METHOD)


def test_a_label_that_is_no_text() -> None:
    for label in (1, None, b"x", Hostile, 10**5000, ("a",), HostileButHashable()):
        with pytest.raises(InvalidParameterError, match=f"^{METHOD}: metadata labels must be str;"):
            encode_metadata({label: 1}, method=METHOD)  # type: ignore[dict-item]  # the point


@given(deep_values)
def test_any_json_is_decoded_or_malformed(raw: Any) -> None:
    for value in (raw, {"label": raw}, {"label": {"type": raw, "raw_value": raw}}):
        try:
            decode_metadata(value)
        except MalformedMessageError as error:
            assert str(error).startswith("metadata")
            assert len(str(error)) < 300
