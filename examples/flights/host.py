"""Launch ``external_code.py``, show its progress live, and keep all it reports in SQLite.

    python host.py [--database FILE] [MONTH ...]        # months as 2013-02; all by default

The exit code is 0 when the run went well and nothing was lost on the way. The
check that finds cancelled flights fails with severity WARN, which is a finding
about the data, not a failure of the run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import sys
import uuid
from contextlib import closing
from pathlib import Path

from asyncpipes import (
    AssetCheckEvent,
    CustomMessageEvent,
    Event,
    ExternalStreamEvent,
    LogEvent,
    MaterializationEvent,
    RunResult,
    open_pipes_session,
)

SCRIPT = Path(__file__).with_name("external_code.py")
MONTHS = [f"2013-{month:02}" for month in range(1, 13)]

SCHEMA = """
CREATE TABLE IF NOT EXISTS logs (run_id, received_at REAL, level, message);
CREATE TABLE IF NOT EXISTS materializations (run_id, received_at REAL, asset_key);
CREATE TABLE IF NOT EXISTS checks
    (run_id, received_at REAL, asset_key, check_name, passed INTEGER, severity);
-- Of materializations (check_name is null) and of checks; values as JSON.
CREATE TABLE IF NOT EXISTS metadata (run_id, asset_key, check_name, label, type, value);
CREATE TABLE IF NOT EXISTS output (run_id, received_at REAL, stream, text);
CREATE TABLE IF NOT EXISTS progress
    (run_id, received_at REAL, asset_key, done INTEGER, total INTEGER);
"""


class Database:
    """A subscriber that writes each event to the table of its kind, as it comes."""

    def __init__(self, path: Path, run_id: str) -> None:
        self.run_id = run_id
        # Made here and used in the subscriber's thread, one call after another.
        self.connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = NORMAL")
        self.connection.executescript(SCHEMA)

    def store(self, event: Event) -> None:
        match event:
            case LogEvent(level=level, message=message):
                self.insert("logs", event.received_at, level, message)
            case ExternalStreamEvent(stream=stream, text=text):
                self.insert("output", event.received_at, stream, text)
            case MaterializationEvent(asset_key=key):
                self.insert("materializations", event.received_at, key)
                self.insert_metadata(event, None)
            case AssetCheckEvent(asset_key=key, check_name=name):
                self.insert("checks", event.received_at, key, name, event.passed, event.severity)
                self.insert_metadata(event, name)
            case CustomMessageEvent(payload={"progress": {"description": key, **rest}}):
                done, total = rest["completed"], rest["total"]
                self.insert("progress", event.received_at, key, done, total)

    def insert(self, table: str, *values: object) -> None:
        marks = ", ".join("?" * (len(values) + 1))
        self.connection.execute(f"INSERT INTO {table} VALUES ({marks})", (self.run_id, *values))

    def insert_metadata(
        self, event: MaterializationEvent | AssetCheckEvent, check: str | None
    ) -> None:
        for label, value in event.metadata.items():
            text = json.dumps(value.raw_value)
            self.insert("metadata", event.asset_key, check, label, value.type, text)

    def close(self) -> None:
        self.connection.close()


class Progress:
    """How far all months are together: one line that moves, or one line every tenth."""

    def __init__(self, assets: int) -> None:
        self.assets = assets
        self.shares: dict[str, float] = {}
        self.shown = -1
        self.moves = sys.stdout.isatty()
        self.start_of_line = "\r\033[K" if self.moves else ""

    def show(self, event: CustomMessageEvent) -> None:
        match event.payload:
            case {"progress": {"description": str(key), "completed": done, "total": total}}:
                self.shares[key] = done / total
            case _:
                return
        percent = int(100 * sum(self.shares.values()) / self.assets)
        done_assets = sum(share == 1 for share in self.shares.values())
        text = f"{percent:3} %  {done_assets} of {self.assets} months"
        if self.moves:
            print(f"{self.start_of_line}{text}", end="\n" if percent == 100 else "", flush=True)
        elif percent // 10 > self.shown // 10:
            print(text, flush=True)
        self.shown = percent

    def print_output(self, event: ExternalStreamEvent) -> None:
        print(f"{self.start_of_line}{event.text}", end="", flush=True)

    def print_log(self, event: LogEvent) -> None:
        print(f"{self.start_of_line}{event.level:<8} {event.message}", flush=True)


def print_summary(result: RunResult) -> None:
    checks: dict[str, list[AssetCheckEvent]] = {}
    for check in result.checks:
        checks.setdefault(check.asset_key, []).append(check)
    print(f"\n{'asset':<16} {'flights':>8}  checks")
    rows = 0
    for event in sorted(result.materializations, key=lambda event: event.asset_key):
        count = int(event.metadata["rows"].raw_value)
        rows += count
        of_asset = checks.get(event.asset_key, [])
        print(f"{event.asset_key:<16} {count:>8}  {describe_checks(of_asset)}")
    print(f"{'total':<16} {rows:>8}")
    failed = sum(not check.passed for check in result.checks)
    print(
        f"\n{len(result.materializations)} materializations, "
        f"{len(result.checks)} checks: {len(result.checks) - failed} passed, {failed} failed"
    )


def describe_checks(checks: list[AssetCheckEvent]) -> str:
    failed = [
        f"{check.check_name} FAILED ({check.severity}: {describe(check)})"
        for check in checks
        if not check.passed
    ]
    return ", ".join([f"{len(checks) - len(failed)} passed", *failed])


def describe(check: AssetCheckEvent) -> str:
    return ", ".join(f"{label} {value.raw_value:.4g}" for label, value in check.metadata.items())


async def main(months: list[str], database_path: Path) -> int:
    run_id = str(uuid.uuid4())
    progress = Progress(len(months))
    with closing(Database(database_path, run_id)) as database:
        async with open_pipes_session(
            asset_keys=[f"flights/{month}" for month in months],
            run_id=run_id,
            forward_stdio="events",
            strict=False,
        ) as session:
            # SQLite blocks while it writes: not on the loop's thread.
            session.subscribe(database.store, in_thread=True)
            session.subscribe(progress.show, CustomMessageEvent)
            session.subscribe(progress.print_log, LogEvent, min_level="INFO")
            session.subscribe(progress.print_output, ExternalStreamEvent)
            process = await session.launch([sys.executable, str(SCRIPT)])
            await process.wait()

    print_summary(session.result)
    outcome = session.outcome
    print(f"outcome: {'ok' if outcome.ok else 'NOT OK'}, after {outcome.duration:.1f} s")
    for reason in outcome.reasons:
        print(f"- {reason}")
    print(f"everything that was received is in {database_path}")
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Process the flights of 2013 and follow it live.")
    parser.add_argument("months", nargs="*", default=MONTHS, metavar="MONTH")
    parser.add_argument("--database", type=Path, default=Path("flights.sqlite"))
    arguments = parser.parse_args()
    sys.exit(asyncio.run(main(arguments.months, arguments.database)))
