"""Our script under Dagster's own host, beside a stock script with the same body."""

from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_shared.record import replace

from tests.interop import scripts
from tests.interop.stock_host import StockRun, run_both, run_ours

value = dg.MetadataValue

MESSAGE_KEYS = {"__dagster_pipes_version", "method", "params"}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[StockRun, StockRun]:
    """Everything that both packages can report, once from each."""
    return run_both(
        tmp_path_factory.mktemp("reports"),
        scripts.REPORT,
        keys=scripts.REPORT_KEYS,
        checks=scripts.REPORT_CHECKS,
    )


@pytest.fixture(scope="module")
def stock(reports: tuple[StockRun, StockRun]) -> StockRun:
    return reports[0]


@pytest.fixture(scope="module")
def ours(reports: tuple[StockRun, StockRun]) -> StockRun:
    return reports[1]


def test_dagster_takes_all_of_it(stock: StockRun, ours: StockRun) -> None:
    for run in (stock, ours):
        assert run.ok
        assert run.reader_errors == []
        assert run.exceptions == []


def test_the_messages_are_those_of_a_stock_script(stock: StockRun, ours: StockRun) -> None:
    assert ours.messages() == stock.messages()
    assert len(ours.messages()) > 30
    # Equal in the order of keys too: what is left are white space and escapes.
    assert json.dumps(ours.messages()) == json.dumps(stock.messages())


def test_the_wire_is_pure_protocol_0_1(ours: StockRun) -> None:
    (wire,) = ours.wire
    assert wire.endswith(b"}\n")
    # Dagster reads the file as text, where a carriage return would end a line as well.
    assert b"\r" not in wire
    assert b"\n\n" not in wire
    for message in ours.messages():
        assert set(message) == MESSAGE_KEYS
        assert message["__dagster_pipes_version"] == "0.1"
    methods = [message["method"] for message in ours.messages()]
    assert methods[0] == "opened"
    assert methods[-1] == "closed"
    assert len(set(methods)) == 7


def test_each_metadata_type_arrives_as_dagsters_own(stock: StockRun, ours: StockRun) -> None:
    table = scripts.TYPED["table"]
    columns = dg.TableSchema(
        columns=[
            dg.TableColumn("item", "string"),
            dg.TableColumn(
                "price",
                "float",
                description="in euro",
                tags={"unit": "EUR"},
                constraints=dg.TableColumnConstraints(nullable=False, unique=True, other=["> 0"]),
            ),
        ]
    )
    lineage = dg.TableColumnLineage(
        {
            "price": [
                dg.TableColumnDep(dg.AssetKey("raw"), "cents"),
                dg.TableColumnDep(dg.AssetKey(["shop", "rates"]), "rate"),
            ]
        }
    )
    expected = {
        "__infer__": value.text("inferred"),
        "text": value.text("a text"),
        "url": value.url("https://example.org/a?b=c"),
        "path": value.path("/data/orders.csv"),
        "notebook": value.notebook("/data/orders.ipynb"),
        "json": value.json(scripts.TYPED["json"]),
        "md": value.md(scripts.TYPED["md"]),
        "float": value.float(1.5),
        "int": value.int(3),
        "bool": value.bool(True),
        "dagster_run": value.dagster_run(scripts.TYPED["dagster_run"]),
        "asset": value.asset(dg.AssetKey(["shop", "orders"])),
        "null": value.null(),
        "table": value.table([dg.TableRecord(row) for row in table["records"]], columns),
        "table_schema": value.table_schema(columns),
        "table_column_lineage": value.column_lineage(lineage),
        "timestamp": value.timestamp(1767225600.25),
    }
    assert len(expected) == 17
    assert ours.materializations[0].metadata == expected
    assert stock.materializations[0].metadata == expected


def test_untyped_values_arrive_as_from_a_stock_script(stock: StockRun, ours: StockRun) -> None:
    expected = {
        "str": value.text("ü 𝄞 \u2028 \x85 \r\n \x00"),
        "empty str": value.text(""),
        "int": value.int(-7),
        "int of 70 bits": value.int(2**70),
        "float": value.float(0.1),
        "float without fraction": value.float(3.0),
        "tiny float": value.float(5e-324),
        "bool": value.bool(False),
        "None": value.null(),
        "list": value.json([1, "a", [None, 2.5], {"k": [1, 2]}]),
        "empty list": value.json([]),
        "tuple": value.json([1, 2]),
    }
    assert ours.materializations[1].metadata == expected
    assert stock.materializations[1].metadata == expected


def test_materializations_are_equal_objects(stock: StockRun, ours: StockRun) -> None:
    def comparable(run: StockRun) -> list[Any]:
        # Tags are left out: Dagster makes up data versions, new ones in each run.
        return [
            (each.asset_key, each.metadata, each.description, each.partition)
            for each in run.materializations
        ]

    assert comparable(ours) == comparable(stock)
    assert [each.asset_key.path for each in ours.materializations] == [
        ["orders"],
        ["shop", "it/em"],
        ["bare"],
    ]
    for run in (stock, ours):
        assert (run.materializations[0].tags or {})["dagster/data_version"] == "version 1"


def test_checks_are_equal_objects(stock: StockRun, ours: StockRun) -> None:
    def comparable(run: StockRun) -> list[dg.AssetCheckEvaluation]:
        # The materialization that was checked is another one in each run.
        return [replace(each, target_materialization_data=None) for each in run.checks]

    assert comparable(ours) == comparable(stock)
    assert [(each.check_name, each.passed, each.severity.value) for each in ours.checks] == [
        ("warn_true", True, "WARN"),
        ("warn_false", False, "WARN"),
        ("error_true", True, "ERROR"),
        ("error_false", False, "ERROR"),
        ("bare", True, "ERROR"),
    ]
    assert ours.checks[0].metadata == {
        "rows": dg.MetadataValue.int(3),
        "typed": dg.MetadataValue.md("**x**"),
    }


def test_logs_arrive_at_their_level(stock: StockRun, ours: StockRun) -> None:
    assert ours.logs == stock.logs
    assert ours.logs == [
        ("DEBUG", "debug one of 5"),
        ("INFO", "info"),
        ("WARNING", "warning \u2028 \x85 \r\n second line"),
        ("ERROR", "error 𝄞"),
        ("CRITICAL", "critical"),
        ("INFO", "by number"),
    ]


def test_custom_messages_are_equal(stock: StockRun, ours: StockRun) -> None:
    assert ours.custom_messages == stock.custom_messages
    (messages,) = ours.custom_messages
    assert messages[5] == 2**70
    assert messages[-1] == {"1": "a", "null": "b"}


# What a stock script cannot send, as an expression, and what becomes of it.
ONLY_OURS: dict[str, tuple[str, Any]] = {
    "dict": ("{'a': {'b': (1, None)}}", value.json({"a": {"b": [1, None]}})),
    "empty dict": ("{}", value.json({})),
    "dict of two keys": ("{'type': 'md', 'value': 1}", value.json({"type": "md", "value": 1})),
    "dataclass": ("Point(1, 2.5)", value.json({"x": 1, "y": 2.5})),
    "set": ("{3, 1, 2}", value.json([1, 2, 3])),
    "frozenset": ("frozenset('ba')", value.json(["a", "b"])),
    "aware datetime": (
        "datetime(2026, 1, 1, 2, 0, 0, 250000, tzinfo=timezone(timedelta(hours=2)))",
        value.timestamp(datetime(2026, 1, 1, 0, 0, 0, 250000, tzinfo=timezone.utc)),
    ),
    "naive datetime": (
        "datetime(2026, 1, 1, 2)",
        value.text(datetime(2026, 1, 1, 2).isoformat()),
    ),
    "date": ("date(2026, 1, 31)", value.text(date(2026, 1, 31).isoformat())),
    "time": ("time(12, 30)", value.text(time(12, 30).isoformat())),
    "timedelta": (
        "timedelta(minutes=1, milliseconds=500)",
        value.float(timedelta(minutes=1, milliseconds=500).total_seconds()),
    ),
    "Path": ("Path('/data') / 'orders.csv'", value.path("/data/orders.csv")),
    "Decimal, exact": ("Decimal('1.25')", value.float(1.25)),
    "Decimal, inexact": (
        "Decimal('0.12345678901234567890')",
        value.text("0.12345678901234567890"),
    ),
    "UUID": ("UUID(int=1)", value.text("00000000-0000-0000-0000-000000000001")),
    "bytes": (r"b'\x00\xff'", value.text("AP8=")),
    "Enum": ("Colour.RED", value.text("red")),
    "Enum of a Decimal": ("Colour.COSTLY", value.float(2.5)),
    "numpy.int64": ("numpy.int64(-5)", value.int(-5)),
    "numpy.float32": ("numpy.float32(0.5)", value.float(0.5)),
    "numpy.bool": ("numpy.bool_(True)", value.bool(True)),
    "numpy.str_": ("numpy.str_('n')", value.text("n")),
    "numpy.ndarray": ("numpy.array([[1, 2], [3, 4]])", value.json([[1, 2], [3, 4]])),
    "numpy.datetime64": (
        "numpy.datetime64('2026-01-01T00:00:00')",
        value.text("2026-01-01T00:00:00"),
    ),
    "list of all that": (
        "[date(2026, 1, 1), Path('/p'), UUID(int=1), b'a', {2}, Decimal('0.5'), Point(0, 0)]",
        value.json(
            [
                "2026-01-01",
                "/p",
                "00000000-0000-0000-0000-000000000001",
                "YQ==",
                [2],
                0.5,
                {"x": 0, "y": 0},
            ]
        ),
    ),
    "MetadataValue": (
        "MetadataValue('url', 'https://example.org')",
        value.url("https://example.org"),
    ),
    "typed path": ("MetadataValue('path', Path('/data'))", value.path("/data")),
    "typed datetime": (
        "{'type': 'timestamp', 'raw_value': datetime(2026, 1, 1, tzinfo=timezone.utc)}",
        value.timestamp(datetime(2026, 1, 1, tzinfo=timezone.utc)),
    ),
}
ONLY_OURS_BODY = """
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from uuid import UUID
import numpy
from asyncpipes import MetadataValue

@dataclass
class Point:
    x: float
    y: float

class Colour(Enum):
    RED = "red"
    COSTLY = Decimal("2.5")

with open_pipes() as pipes:
    metadata = {METADATA}
    pipes.report_asset_materialization(metadata)
    pipes.report_asset_check("numpy", numpy.bool_(False), "WARN", metadata)
""".replace("METADATA", ", ".join(f"{name!r}: {source}" for name, (source, _) in ONLY_OURS.items()))


def test_values_that_a_stock_script_cannot_send(tmp_path: Path) -> None:
    run = run_ours(tmp_path, ONLY_OURS_BODY, checks={"orders": ["numpy"]})
    assert run.ok
    assert run.reader_errors == []
    expected = {name: arrived for name, (_, arrived) in ONLY_OURS.items()}
    assert run.materializations[0].metadata == expected
    assert run.checks[0].metadata == expected
    assert run.checks[0].passed is False


def test_an_asynchronous_script_arrives_whole(tmp_path: Path) -> None:
    body = """
import asyncio

async def part(pipes, number):
    pipes.log.info("part %d", number)
    await pipes.report_custom_message(number)

async def main():
    async with open_pipes() as pipes:
        await asyncio.gather(*(part(pipes, number) for number in range(50)))
        await asyncio.to_thread(pipes.log.warning, "from a thread")
        await pipes.flush()
        pipes.report_asset_materialization({"parts": 50})

asyncio.run(main())
"""
    run = run_ours(tmp_path, body)
    assert run.ok
    assert run.reader_errors == []
    assert run.custom_messages == [list(range(50))]
    assert run.logs == [("INFO", f"part {number}") for number in range(50)] + [
        ("WARNING", "from a thread")
    ]
    assert run.materializations[0].metadata == {"parts": dg.MetadataValue.int(50)}


def test_what_logging_knows_beyond_the_protocol_is_in_the_message(tmp_path: Path) -> None:
    body = """
with open_pipes() as pipes:
    try:
        {}["missing"]
    except KeyError:
        pipes.log.exception("no such %s", "key")
    pipes.log.log(25, "between INFO and WARNING")
    pipes.log.log(5, "below DEBUG")
    pipes.log.info("with its stack", stack_info=True)
    pipes.log.info("with extra", extra={"rows": 3})
    pipes.report_custom_message("the reader lives")
"""
    run = run_ours(tmp_path, body)
    assert run.ok
    assert run.reader_errors == []
    assert run.custom_messages == [["the reader lives"]]
    assert all(set(message) == MESSAGE_KEYS for message in run.messages())
    levels = [level for level, _ in run.logs]
    exception, between, below, stack, extra = [message for _, message in run.logs]
    assert levels == ["ERROR", "INFO", "DEBUG", "INFO", "INFO"]
    assert exception.startswith("no such key\nTraceback (most recent call last):\n")
    assert exception.endswith("KeyError: 'missing'")
    assert (between, below, extra) == ("between INFO and WARNING", "below DEBUG", "with extra")
    assert stack.startswith("with its stack\nStack (most recent call last):\n")
