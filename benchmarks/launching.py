"""Processes of a benchmark: the environment they get, and the scripts they run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from asyncpipes.protocol.bootstrap import Bootstrap, to_environment

_HERE = Path(__file__).parent


def environment() -> dict[str, str]:
    """This process's environment, with this package importable and no host in it."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("DAGSTER_PIPES_")}
    paths = [str(_HERE.parent), *filter(None, [variables.get("PYTHONPATH")])]
    return {**variables, "PYTHONPATH": os.pathsep.join(paths)}


def bootstrap(path: str, *, ours: bool, **context: Any) -> dict[str, str]:
    """What a host hands over to a script that is to write to ``path``.

    ``ours`` makes it a host of ours, which understands the extension of the protocol.
    ``context`` takes the place of what the script would else know of its run: nothing.
    """
    messages = {"path": path, "include_stdio_in_messages": False}
    offer = {"asyncpipes": {"v": 1}} if ours else {}
    return to_environment(Bootstrap({"data": {**_CONTEXT, **context}}, {**messages, **offer}))


_CONTEXT: dict[str, Any] = {
    "asset_keys": None,
    "code_version_by_asset_key": None,
    "provenance_by_asset_key": None,
    "partition_key": None,
    "partition_key_range": None,
    "partition_time_window": None,
    "run_id": "benchmark",
    "job_name": "benchmark",
    "retry_number": 0,
    "extras": {},
}


def script(name: str, size: int) -> list[str]:
    """The command that runs ``benchmarks/scripts/NAME.py``."""
    return [sys.executable, str(_HERE / "scripts" / f"{name}.py"), str(size)]
