"""Metadata of materializations and checks: labels with typed values.

On the wire each is ``{"raw_value": ..., "type": ...}`` (Dagster Pipes 0.1,
``PipesMetadataValue``). What is encoded here never breaks a stock host: its
``metadata_value_from_external`` accepts every value that passed.

Untyped values become:

=============================== ====================== ===================================
Python                          type                   raw value
=============================== ====================== ===================================
str, int, float, bool, None     ``__infer__``          itself; the host infers its own type
list, tuple                     ``__infer__``          array
other mappings, dataclasses     ``json``               object
set, frozenset, numpy array     ``json``               array
aware datetime                  ``timestamp``          seconds since the epoch, a float
naive datetime, date, time      ``text``               ISO 8601
timedelta                       ``float``              seconds
os.PathLike                     ``path``               text
Decimal                         ``float`` or ``text``  number if a float holds it exactly
UUID, bytes                     ``text``               text, base64
Enum, numpy scalar              as its value           as its value
=============================== ====================== ===================================

Inside arrays and objects the table of :mod:`.codec` applies. A value is typed by
giving a :class:`MetadataValue`, or a dict with exactly ``type`` and ``raw_value``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import Enum
from typing import Any, Literal, get_args

from ..errors import InvalidParameterError, MalformedMessageError
from . import codec

MetadataType = Literal[
    "__infer__",
    "text",
    "url",
    "path",
    "notebook",
    "json",
    "md",
    "float",
    "int",
    "bool",
    "dagster_run",
    "asset",
    "null",
    "table",
    "table_schema",
    "table_column_lineage",
    "timestamp",
]

#: The seventeen types of protocol 0.1.
METADATA_TYPES: frozenset[str] = frozenset(get_args(MetadataType))

#: The type that leaves it to the host to infer one from the raw value.
INFER = "__infer__"


@dataclass(frozen=True, slots=True)
class MetadataValue:
    """One metadata value.

    ======================================= ====================================================
    type                                    raw value
    ======================================= ====================================================
    text url notebook md dagster_run asset  str
    path                                    str, or os.PathLike when reported
    json                                    object, array, str or None
    float int bool null                     itself
    timestamp                               seconds since the epoch, or an aware datetime
    table                                   {"records": [{column: scalar}], "schema": [C]}
    table_schema                            {"columns": [C]}
    table_column_lineage                    {"deps_by_column": {column: [D]}}
    ======================================= ====================================================

    with C ``{"name", "type"}`` and, where wanted, ``description``, ``tags`` (str
    by str) and ``constraints`` (``nullable``, ``unique``, ``other``), and with D
    ``{"asset_key", "column_name"}``.

    Attributes:
        type: one of the seventeen :data:`METADATA_TYPES`.
        raw_value: what fits that type, a plain JSON value once it was received.
    """

    type: str
    raw_value: Any


class _Unfit(Exception):
    """The raw value does not fit its type; the text continues "LABEL ..."."""


def encode_metadata(
    metadata: Mapping[str, Any] | None, *, method: str
) -> dict[str, dict[str, Any]] | None:
    """Turn a user's metadata into the wire's form, of plain JSON values only.

    Returns None for None and for an empty mapping, as ``dagster_pipes`` does.

    Args:
        metadata: values by label, typed or to be inferred as the module's table says.
        method: the reporting method, for errors.

    Raises:
        InvalidParameterError: no mapping, a label that is no str, an unknown type, a
            value that does not fit its type, or one that JSON cannot hold; names
            method and label.
    """
    if metadata is None:
        return None
    wire: dict[str, dict[str, Any]] = {}
    for label, value in _items(metadata, method):
        if not issubclass(type(label), str):  # isinstance() may run the label's own code
            raise InvalidParameterError(
                f"{method}: metadata labels must be str; {codec.shown(label, 80)} is "
                f"{type(label).__name__}"
            )
        where = f"{method}: metadata[{codec.shown(label, 80)}]"
        try:
            kind, raw_value = _encode_value(value, where)
        except _Unfit as exc:
            raise InvalidParameterError(f"{where} {exc}") from None
        except InvalidParameterError:
            raise
        except Exception as exc:  # the value's own code: a time zone, a property
            raise InvalidParameterError(
                f"{where} raised {type(exc).__name__} while it was read"
            ) from exc
        wire[str.__str__(label)] = {"raw_value": raw_value, "type": kind}
    return wire or None


def _items(metadata: Mapping[str, Any], method: str) -> list[tuple[str, Any]]:
    try:
        if isinstance(metadata, Mapping):
            return list(metadata.items())
    except Exception as exc:  # the mapping's own code
        raise InvalidParameterError(
            f"{method}: metadata raised {type(exc).__name__} while it was read"
        ) from exc
    raise InvalidParameterError(
        f"{method}: metadata must be a mapping of labels to values, not {type(metadata).__name__}"
    )


def _encode_value(value: Any, where: str) -> tuple[str, Any]:
    if isinstance(value, MetadataValue):
        return _typed(value.type, value.raw_value, where)
    if isinstance(value, dict) and len(value) == 2 and "type" in value and "raw_value" in value:
        return _typed(value["type"], value["raw_value"], where)
    return _infer(value, where)


def _infer(value: Any, where: str) -> tuple[str, Any]:
    if isinstance(value, Enum):
        return _infer(value.value, where)
    if value is None or isinstance(value, (str, int, float, list, tuple)):
        return INFER, codec.plain(value, where=where)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return "timestamp", value.timestamp()
    if isinstance(value, (datetime, date, time)):
        return "text", codec.plain(value, where=where)
    if isinstance(value, timedelta):
        return "float", timedelta.total_seconds(value)
    if codec.is_path(value):
        return "path", codec.plain(value, where=where)
    if codec.is_numpy(value) and not getattr(value, "ndim", 0):
        return _infer(codec.plain(value, where=where), where)
    raw_value = codec.plain(value, where=where)
    if isinstance(raw_value, (dict, list)):
        return "json", raw_value
    return "float" if isinstance(raw_value, float) else "text", raw_value


def _typed(kind: Any, raw_value: Any, where: str) -> tuple[str, Any]:
    if not isinstance(kind, str) or kind not in METADATA_TYPES:
        raise _Unfit(
            f"has the unknown type {codec.shown(kind, 80)}; the types are "
            f"{', '.join(sorted(METADATA_TYPES))}"
        )
    if kind == INFER:
        if isinstance(raw_value, dict):
            return INFER, codec.plain(raw_value, where=f"{where}.raw_value")
        return _infer(raw_value, where)
    if isinstance(raw_value, datetime) and kind == "timestamp":
        if raw_value.tzinfo is None:
            raise _Unfit("is a datetime without a time zone; a timestamp needs one (tzinfo)")
        return kind, raw_value.timestamp()
    if codec.is_path(raw_value) and kind not in ("path", "notebook"):
        raise _Unfit(f"is of type {kind}, which takes no path; use str() of it, or type path")
    return kind, _FITTERS[kind](codec.plain(raw_value, where=f"{where}.raw_value"), kind)


def _unfit(kind: str, expected: str, value: Any) -> _Unfit:
    name = {dict: "an object", list: "an array", type(None): "None"}.get(
        type(value), f"a {type(value).__name__}"
    )
    return _Unfit(f"is of type {kind}, whose raw_value must be {expected}, not {name}")


def _text(value: Any, kind: str) -> str:
    if not isinstance(value, str):
        raise _unfit(kind, "a str", value)
    return value


def _integer(value: Any, kind: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _unfit(kind, "an int", value)
    return value


def _number(value: Any, kind: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _unfit(kind, "a float or an int", value)
    try:
        return float(value)
    except OverflowError:
        raise _Unfit(f"is of type {kind}, and too large for a float; use type int") from None


def _boolean(value: Any, kind: str) -> bool:
    if not isinstance(value, bool):
        raise _unfit(kind, "a bool", value)
    return value


def _null(value: Any, kind: str) -> None:
    if value is not None:
        raise _unfit(kind, "None", value)


def _json(value: Any, kind: str) -> Any:
    # Dagster's JsonMetadataValue refuses bare numbers and booleans, and its reader dies of it.
    if isinstance(value, (bool, int, float)):
        raise _Unfit(
            f"is of type {kind}, which on the host holds no bare {type(value).__name__}; "
            f"use type {type(value).__name__}"
        )
    return value


def _object(value: Any, kind: str, name: str, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Unfit(f"is of type {kind}: {name} must be an object")
    for key in keys:
        if key not in value:
            raise _Unfit(f"is of type {kind}: {name} lacks the key {key!r}")
    return value


def _array(value: Any, kind: str, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise _Unfit(f"is of type {kind}: {name} must be an array")
    return value


def _table(value: Any, kind: str) -> Any:
    table = _object(value, kind, "raw_value", ("records", "schema"))
    for index, record in enumerate(_array(table["records"], kind, "records")):
        cells = _object(record, kind, f"records[{index}]", ())
        for column, cell in cells.items():
            if isinstance(cell, (dict, list)):
                raise _Unfit(
                    f"is of type {kind}: records[{index}][{codec.shown(column, 80)}] must be a "
                    f"str, a number, a bool or None"
                )
    _columns(table["schema"], kind, "schema")
    return table


def _table_schema(value: Any, kind: str) -> Any:
    schema = _object(value, kind, "raw_value", ("columns",))
    _columns(schema["columns"], kind, "columns")
    return schema


def _columns(value: Any, kind: str, name: str) -> None:
    for index, each in enumerate(_array(value, kind, name)):
        path = f"{name}[{index}]"
        column = _object(each, kind, path, ("name", "type"))
        for key in ("name", "type", "description"):
            text = column.get(key, "")
            if not isinstance(text, str) and not (key == "description" and text is None):
                raise _Unfit(f"is of type {kind}: {path}.{key} must be a str")
        tags = column.get("tags")
        if tags is not None and not (
            isinstance(tags, dict) and all(isinstance(tag, str) for tag in tags.values())
        ):
            raise _Unfit(f"is of type {kind}: {path}.tags must be an object of str")
        if column.get("constraints") is not None:
            _constraints(column["constraints"], kind, f"{path}.constraints")


def _constraints(value: Any, kind: str, path: str) -> None:
    for key, each in _object(value, kind, path, ()).items():
        if key in ("nullable", "unique"):
            good = isinstance(each, bool)
        elif key == "other":
            good = isinstance(each, list) and all(isinstance(text, str) for text in each)
        else:
            raise _Unfit(
                f"is of type {kind}: {path} has the unknown key {codec.shown(key, 80)}; "
                f"the keys are nullable, unique, other"
            )
        if not good:
            expected = "an array of str" if key == "other" else "a bool"
            raise _Unfit(f"is of type {kind}: {path}.{key} must be {expected}")


def _lineage(value: Any, kind: str) -> Any:
    lineage = _object(value, kind, "raw_value", ("deps_by_column",))
    for column, deps in _object(lineage["deps_by_column"], kind, "deps_by_column", ()).items():
        path = f"deps_by_column[{codec.shown(column, 80)}]"
        seen: set[tuple[tuple[str, ...], str]] = set()
        for index, each in enumerate(_array(deps, kind, path)):
            dep = _object(each, kind, f"{path}[{index}]", ("asset_key", "column_name"))
            key, name = dep["asset_key"], dep["column_name"]
            parts = [key] if isinstance(key, str) else key
            if (
                len(dep) != 2
                or not isinstance(name, str)
                or not isinstance(parts, list)
                or not all(isinstance(part, str) for part in parts)
            ):
                raise _Unfit(
                    f"is of type {kind}: {path}[{index}] must be an object of asset_key "
                    f"(a str or an array of str) and column_name (a str)"
                )
            if (tuple(parts), name) in seen:
                raise _Unfit(
                    f"is of type {kind}: {path} names {codec.shown(key, 80)} "
                    f"{codec.shown(name, 80)} twice"
                )
            seen.add((tuple(parts), name))
    return lineage


_FITTERS: dict[str, Callable[[Any, str], Any]] = {
    "text": _text,
    "url": _text,
    "path": _text,
    "notebook": _text,
    "md": _text,
    "dagster_run": _text,
    "asset": _text,
    "json": _json,
    "float": _number,
    "int": _integer,
    "bool": _boolean,
    "null": _null,
    "table": _table,
    "table_schema": _table_schema,
    "table_column_lineage": _lineage,
    "timestamp": _number,
}


def decode_metadata(raw: Any) -> dict[str, MetadataValue]:
    """Turn the wire's form into typed values; None becomes an empty dict.

    Checks the shape and the type's name, not whether the raw value fits: what a
    script sent is shown as it was sent.

    Raises:
        MalformedMessageError: no object, a value without ``type`` and ``raw_value``,
            or an unknown type; names the label.
    """
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise MalformedMessageError(f"metadata is no object but {type(raw).__name__}")
    values: dict[str, MetadataValue] = {}
    for label, value in raw.items():
        try:
            kind = value["type"]
            raw_value = value["raw_value"]
            known = kind in METADATA_TYPES
        except (TypeError, KeyError):
            raise MalformedMessageError(
                f"metadata[{codec.shown(label, 80)}] is no object with a 'type' that is a text "
                f"and a 'raw_value'"
            ) from None
        if not known:
            raise MalformedMessageError(
                f"metadata[{codec.shown(label, 80)}] has unknown type {codec.shown(kind, 80)}"
            )
        values[label] = MetadataValue(kind, raw_value)
    return values
