"""examples/orders: what each step reports, and that by hand nothing changes."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from asyncpipes import LogEvent, RunResult, run

ORDERS = Path(__file__).parents[2] / "examples" / "orders"
STEPS = [
    "step_1.py",
    "step_2.py",
    "step_3_materialization.py",
    "step_3_check.py",
    "external_code.py",
]
LINE = "processing total 20 orders"

pytestmark = pytest.mark.usefixtures("guarded_scripts")


def run_by_hand(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=False
    )


async def run_step(name: str, **extras: str) -> tuple[RunResult, list[tuple[str, str]]]:
    logs: list[tuple[str, str]] = []

    def note(event: LogEvent) -> None:
        logs.append((event.level, event.message))

    result = await run(
        [sys.executable, str(ORDERS / name)],
        asset_keys=["orders"],
        extras=extras,
        subscribers=[(note, LogEvent)],
        forward_stdio=False,
    )
    return result, logs


def with_an_empty_item(folder: Path) -> Path:
    with (ORDERS / "orders.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    rows[3][2] = ""
    path = folder / "orders.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def test_the_orders_are_twenty_and_whole() -> None:
    with (ORDERS / "orders.csv").open(newline="", encoding="utf-8") as file:
        orders = list(csv.DictReader(file))
    assert list(orders[0]) == ["order_id", "customer", "item", "quantity", "price", "ordered_at"]
    assert len(orders) == len({order["order_id"] for order in orders}) == 20
    assert all(all(order.values()) for order in orders)


@pytest.mark.parametrize("step", STEPS)
def test_by_hand_a_step_prints_what_the_script_printed_before(step: str) -> None:
    before = run_by_hand(ORDERS / "step_0.py")
    after = run_by_hand(ORDERS / step)
    assert before.stdout == f"{LINE}\n"
    assert (after.returncode, after.stdout) == (0, before.stdout), after.stderr
    assert "Traceback" not in after.stderr


@pytest.mark.parametrize("step", STEPS)
async def test_a_step_reports_what_the_tutorial_says(step: str) -> None:
    result, logs = await run_step(step)
    assert result.outcome.ok, result.outcome.reasons
    assert ("INFO", LINE) in logs or step == "step_1.py"

    materialized = [(event.asset_key, event.metadata) for event in result.materializations]
    if step in ("step_3_materialization.py", "external_code.py"):
        assert [key for key, _ in materialized] == ["orders"]
        assert {label: value.raw_value for label, value in materialized[0][1].items()} == {
            "total_orders": 20
        }
    else:
        assert materialized == []

    checks = [(check.asset_key, check.check_name, check.passed) for check in result.checks]
    if step in ("step_3_check.py", "external_code.py"):
        assert checks == [("orders", "no_empty_order_check", True)]
    else:
        assert checks == []


async def test_an_order_without_an_item_fails_the_check(tmp_path: Path) -> None:
    orders = with_an_empty_item(tmp_path)
    result, logs = await run_step("external_code.py", orders=str(orders))
    assert [(check.check_name, check.passed) for check in result.checks] == [
        ("no_empty_order_check", False)
    ]
    assert ("DEBUG", f"reading {orders}") in logs
    assert result.outcome.ok, "a failed check is a finding, not a failed run"


def test_the_host_prints_what_it_received() -> None:
    done = run_by_hand(ORDERS / "host.py")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert LINE in lines, "the script's own output is shown"
    assert [line for line in lines if line.startswith(("INFO", "RESULT", "CHECK", "exit"))] == [
        f"INFO     {LINE}",
        "RESULT   orders was materialized: {'total_orders': 20}",
        "CHECK    orders: no_empty_order_check passed",
        "exit code 0, ok",
    ]


def test_the_first_step_knows_its_asset_under_a_host() -> None:
    done = run_by_hand(ORDERS / "host.py", str(ORDERS / "step_1.py"))
    assert done.returncode == 0, done.stderr
    assert "materializing orders" in done.stdout.splitlines()


def test_the_host_tells_why_a_run_failed(tmp_path: Path) -> None:
    missing = tmp_path / "no-orders.csv"
    done = run_by_hand(ORDERS / "host.py", "--orders", str(missing))
    assert done.returncode == 1
    assert "NOT OK" in done.stdout
    reasons = [line for line in done.stdout.splitlines() if line.startswith("- ")]
    assert any("FileNotFoundError" in reason and str(missing) in reason for reason in reasons)
