"""Cases 21 to 23: Python values, both packages with each other, and large extras."""

from __future__ import annotations

from typing import Any

from tests.faults.cases import case
from tests.faults.subjects import Subject

# 21.

#: A value, what arrives as metadata, and what as a custom message where that differs.
_MATRIX: dict[str, tuple[str, Any] | tuple[str, Any, Any]] = {
    "str": ("'ü 𝄞 \\x00'", "ü 𝄞 \x00"),
    "surrogate": ("'\\ud800 alone'", "\ud800 alone"),
    "bool": ("True", True),
    "none": ("None", None),
    "int": ("-7", -7),
    "2**70": ("2**70", 2**70),
    "float": ("0.1", 0.1),
    "bytes": ("b'\\x00\\xff'", "AP8="),
    "bytearray": ("bytearray(b'a')", "YQ=="),
    "list": ("[1, 'a', None]", [1, "a", None]),
    "tuple": ("(1, (2, 3))", [1, [2, 3]]),
    "set": ("{3, 1, 2}", [1, 2, 3]),
    "frozenset": ("frozenset({1})", [1]),
    "range": ("list(range(3))", [0, 1, 2]),
    "nested dict": ("{'a': {'b': (1, {'c': 2**70})}}", {"a": {"b": [1, {"c": 2**70}]}}),
    "int keys": ("{1: {2: 3}}", {"1": {"2": 3}}),
    "dataclass": ("Point(1, 2)", {"x": 1, "y": 2}),
    "named tuple": ("Pair(1, 2)", [1, 2]),
    "enum": ("Color.RED", "red"),
    "int enum": ("Number.ONE", 1),
    "decimal": ("Decimal('0.5')", 0.5),
    "long decimal": ("Decimal('0.1234567890123456789')", "0.1234567890123456789"),
    "uuid": ("UUID(int=1)", "00000000-0000-0000-0000-000000000001"),
    "path": ("Path('/a/b')", "/a/b"),
    "date": ("date(2026, 1, 2)", "2026-01-02"),
    "time": ("dtime(3, 4)", "03:04:00"),
    "naive datetime": ("datetime(2026, 1, 2, 3)", "2026-01-02T03:00:00"),
    "aware datetime": (
        "datetime(2026, 1, 1, tzinfo=timezone.utc)",
        1767225600.0,
        "2026-01-01T00:00:00+00:00",
    ),
    "timedelta": ("timedelta(minutes=1)", 60.0),
    "numpy int": ("np.int64(7)", 7),
    "numpy float": ("np.float32(0.5)", 0.5),
    "numpy bool": ("np.bool_(True)", True),
    "numpy array": ("np.array([[1, 2]])", [[1, 2]]),
}
#: What no JSON has: refused, and the message says where it is.
_REFUSED = {
    "nan": "float('nan')",
    "infinity": "[1.0, float('inf')]",
    "numpy nan": "np.float64('nan')",
    "object": "object()",
    "function": "len",
    "complex": "1j",
}
_VALUES = """
import numpy as np
from collections import namedtuple
from dataclasses import dataclass
from datetime import date, datetime, time as dtime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from uuid import UUID

@dataclass
class Point:
    x: int
    y: int

Pair = namedtuple("Pair", "a b")
class Color(Enum):
    RED = "red"
class Number(IntEnum):
    ONE = 1
"""


def _told(value: Any) -> Any:
    """An integer's type is a part of it: 1 is not 1.0, nor True."""
    if isinstance(value, dict):
        return {key: _told(inner) for key, inner in value.items()}
    return [*map(_told, value)] if isinstance(value, list) else (type(value).__name__, value)


@case(
    21,
    fails="of many types it raises a bare TypeError, which ends the script",
    mutants=["reads_integers_as_floats"],
)
async def test_case_21_metadata_of_all_types(subject: Subject) -> None:
    # The text with a surrogate in one of its own: it has the whole line read another way.
    names = [name for name in _MATRIX if name != "surrogate"]
    values = ", ".join(f"{name!r}: {_MATRIX[name][0]}" for name in names)
    body = f"""{_VALUES}
with open_pipes() as pipes:
    pipes.report_asset_materialization({{{values}}}, asset_key="orders")
    pipes.report_asset_materialization({{"text": {_MATRIX["surrogate"][0]}}}, asset_key="other")
"""
    report = await subject.run(body, keys=["orders", "other"])
    assert report.ok, report.problems
    first, second = report.materializations
    assert _told(first[1]) == _told({name: _MATRIX[name][1] for name in names})
    assert second == ("other", {"text": _MATRIX["surrogate"][1]})


@case(
    21,
    fails="of many types it raises a bare TypeError, which ends the script",
    mutants=["reads_integers_as_floats"],
)
async def test_case_21_custom_messages_of_all_types(subject: Subject) -> None:
    values = ", ".join(entry[0] for entry in _MATRIX.values())
    body = f"""{_VALUES}
with open_pipes() as pipes:
    for value in ({values}):
        pipes.report_custom_message(value)
"""
    report = await subject.run(body)
    assert report.ok, report.problems
    assert _told(report.custom) == _told([entry[-1] for entry in _MATRIX.values()])


@case(
    21,
    fails="it sends NaN, which JSON has not, and names no key of what it refuses",
    mutants=["sends_nan"],
)
async def test_case_21_what_has_no_form_is_refused_by_name(subject: Subject) -> None:
    values = ", ".join(f"{name!r}: {value}" for name, value in _REFUSED.items())
    body = f"""{_VALUES}
with open_pipes() as pipes:
    for name, value in {{{values}}}.items():
        for report in (
            lambda: pipes.report_asset_materialization({{name: value}}),
            lambda: pipes.report_asset_check("fresh", True, metadata={{name: [value]}}),
            lambda: pipes.report_custom_message({{name: value}}),
        ):
            try:
                report()
            except TypeError as error:
                pipes.log.info("%s: %s", name, name in str(error))
            else:
                pipes.log.info("%s: taken", name)
    pipes.report_asset_materialization({{"rows": 1}})
"""
    report = await subject.run(body, checks=["fresh"])
    assert report.logs == [("INFO", f"{name}: True") for name in _REFUSED for _ in range(3)]
    assert report.custom == []
    assert report.checks == []
    assert report.materializations == [("orders", {"rows": 1})]
    assert report.ok, report.problems


# 22.

_EVERYTHING = """
with open_pipes() as pipes:
    assert pipes.asset_key == "orders"
    assert PipesContext.get() is pipes
    assert pipes.get_extra("day") == "2026-01-01"
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(pipes.log, level)("at %s", level)
    pipes.report_asset_check("fresh", True, "WARN", {"rows": 3})
    pipes.report_asset_check("full", False, metadata={"typed": {"raw_value": "x", "type": "md"}})
    pipes.report_asset_materialization({"rows": 2, "price": 0.5, "none": None}, "v1")
    pipes.report_custom_message({"big": 2**70, "text": "ü\\u2028\\n"})
"""


async def _everything(subject: Subject) -> None:
    report = await subject.run(_EVERYTHING, checks=["fresh", "full"], extras={"day": "2026-01-01"})
    assert report.ok, report.problems
    assert report.opened
    assert report.closed
    assert report.logs == [
        (level, f"at {level.lower()}")
        for level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    ]
    assert report.checks == [("orders", "fresh", True), ("orders", "full", False)]
    assert report.materializations == [("orders", {"rows": 2, "price": 0.5, "none": None})]
    assert _told(report.custom) == _told([{"big": 2**70, "text": "ü\u2028\n"}])


@case(22, stock="script", mutants=["reads_integers_as_floats", "reads_messages_with_numbers_only"])
async def test_case_22_a_stock_script_under_our_host(subject: Subject) -> None:
    await _everything(subject)


@case(22, stock="host", mutants=["sends_no_checks"])
async def test_case_22_our_script_under_a_stock_host(subject: Subject) -> None:
    await _everything(subject)


_FAILS = """
with open_pipes() as pipes:
    pipes.report_custom_message("before")
    raise KeyError("mine")
"""


async def _failure(subject: Subject) -> None:
    report = await subject.run(_FAILS)
    assert not report.ok
    assert report.closed
    assert report.exception is not None
    assert "KeyError" in report.exception
    assert "mine" in report.exception


@case(22, stock="script", mutants=["closes_without_the_exception"])
async def test_case_22_a_stock_script_that_fails_under_our_host(subject: Subject) -> None:
    await _failure(subject)


@case(22, stock="host", mutants=["closes_without_the_exception"])
async def test_case_22_our_script_that_fails_under_a_stock_host(subject: Subject) -> None:
    await _failure(subject)


# 23.

_EXTRAS = """
import hashlib, json
with open_pipes() as pipes:
    text = json.dumps(dict(pipes.extras), sort_keys=True)
    pipes.report_custom_message([len(text), hashlib.sha256(text.encode()).hexdigest()])
"""


async def _extras(subject: Subject, size: int) -> None:
    import hashlib
    import json
    import random

    letters = random.Random(size)  # which cannot be compressed to next to nothing
    extras = {"items": [letters.randbytes(50).hex() for _ in range(size // 100)], "ü": "é"}
    text = json.dumps(extras, sort_keys=True)
    report = await subject.run(_EXTRAS, extras=extras)
    assert report.ok, report.problems
    assert report.custom == [[len(text), hashlib.sha256(text.encode()).hexdigest()]]


@case(23, mutants=["leaves_a_large_context_out"])
async def test_case_23_300_kb_of_extras(subject: Subject) -> None:
    await _extras(subject, 300_000)


@case(23, mutants=["leaves_a_large_context_out", "cuts_off_a_large_context"])
async def test_case_23_5_mb_of_extras(subject: Subject) -> None:
    await _extras(subject, 5_000_000)


@case(23, stock="script", mutants=["leaves_a_large_context_out"])
async def test_case_23_5_mb_of_extras_for_either_script(subject: Subject) -> None:
    await _extras(subject, 5_000_000)
