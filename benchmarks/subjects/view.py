"""View: a script through ``run()``, and through the live view of the command.

One script logs lines; another reports materializations with a table each, and some lines
between them. The clock runs from before the launch to after the outcome, and after the view's
last line. The view is that of ``asyncpipes run``, called in this process so that no import is
measured. It draws on a pseudo-terminal, which a process of its own reads into a file, as a
terminal on another machine would have its own time. All lines and materializations are counted
on both sides, by the view in its summary.
"""

from __future__ import annotations

import asyncio
import os
import pty
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from typing import Any

from ..launching import environment, script
from ..message import LostMessageError
from .whole import numbers

Numbers = dict[str, float]

#: Log lines before each materialization of the script with tables.
LINES_BETWEEN = 9


def bare(messages: int) -> Numbers:
    """``run()`` with one sync subscriber that counts; log lines."""
    return asyncio.run(_bare(script("log_lines", messages), messages, 0))


def bare_tables(messages: int) -> Numbers:
    """The same; tables and log lines."""
    tables = _tables(messages)
    return asyncio.run(_bare(script("tables", tables), tables * LINES_BETWEEN, tables))


def live(messages: int) -> Numbers:
    """The view, as ``asyncpipes run`` has it on a terminal; log lines."""
    return _live(script("log_lines", messages), messages, 0)


def live_tables(messages: int) -> Numbers:
    """The same; tables and log lines."""
    tables = _tables(messages)
    return _live(script("tables", tables), tables * LINES_BETWEEN, tables)


def table(index: int) -> dict[str, Any]:
    """Table metadata, 20 rows of 4 columns: as many rows as the view shows."""
    records = [
        {"order": 1000 * index + row, "item": f"item {row}", "price": 0.25 * row, "open": row > 9}
        for row in range(20)
    ]
    types = {"order": "int", "item": "string", "price": "float", "open": "bool"}
    schema = [{"name": name, "type": kind} for name, kind in types.items()]
    return {"type": "table", "raw_value": {"records": records, "schema": schema}}


def _tables(messages: int) -> int:
    return max(1, messages // (LINES_BETWEEN + 1))


async def _bare(command: list[str], lines: int, tables: int) -> Numbers:
    from asyncpipes import Event, LogEvent, MaterializationEvent, run

    kinds: Counter[type[Event]] = Counter()

    def subscriber(event: Event) -> None:
        kinds[type(event)] += 1

    started = time.perf_counter()
    await run(
        command,
        env=environment(),
        collect="none",
        subscribers=[(subscriber, LogEvent, MaterializationEvent)],
    )
    ended = time.perf_counter()
    check(kinds[LogEvent], lines, "lines")
    check(kinds[MaterializationEvent], tables, "materializations")
    return numbers(lines + tables, ended - started)


def _live(command: list[str], lines: int, tables: int) -> Numbers:
    from asyncpipes.cli import live  # noqa: F401  # rich takes 0.1 s to import
    from asyncpipes.cli.commands import cli

    os.environ.update(environment(), TERM="xterm-256color")
    os.environ.pop("NO_COLOR", None)
    master, slave = pty.openpty()
    with tempfile.TemporaryFile() as shown:
        with subprocess.Popen(["cat"], stdin=master, stdout=shown, stderr=subprocess.DEVNULL):
            os.close(master)
            stdout = sys.stdout
            with open(slave, "w", encoding="utf-8") as sys.stdout:
                started = time.perf_counter()
                try:
                    cli(["run", "--", *command])
                except SystemExit as end:
                    ended = time.perf_counter()
                    code = end.code
            sys.stdout = stdout
        shown.seek(0)
        text = shown.read().decode()
    if code != 0:
        raise RuntimeError(f"the command ended with {code}: {text[-1000:]}")
    check(counted(text, "log line"), lines, "lines")
    check(counted(text, "materialization"), tables, "materializations")
    return numbers(lines + tables, ended - started)


def counted(text: str, what: str) -> int:
    """What the summary, which is the last, says of it."""
    found = re.findall(rf"([\d,]+) {what}", text)
    return int(found[-1].replace(",", "")) if found else 0


def check(count: int, reported: int, what: str) -> None:
    if count != reported:
        raise LostMessageError(f"{count} {what} were counted, and {reported} were reported")
