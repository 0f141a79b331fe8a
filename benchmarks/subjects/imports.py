"""Import: what a script pays before its first line, in a fresh interpreter.

The clock is inside that interpreter, around the import statement alone. Bytecode is
there for all of them: a first import, which is thrown away, writes it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from statistics import median

from ..launching import environment

Numbers = dict[str, float]

_PROGRAM = """
import time
started = time.perf_counter()
{statement}
print(time.perf_counter() - started)
"""


def ours(repeats: int) -> Numbers:
    """Our external side."""
    return _measure("import asyncio; from asyncpipes import open_pipes, PipesContext", repeats)


def stock(repeats: int) -> Numbers:
    """An async script's use of ``dagster_pipes``."""
    return _measure("import asyncio, dagster_pipes", repeats)


def _measure(statement: str, repeats: int) -> Numbers:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as bytecode:
        variables = {**environment(), "PYTHONPYCACHEPREFIX": bytecode}
        variables.pop("PYTHONDONTWRITEBYTECODE", None)
        _once(statement, variables)
        times = [_once(statement, variables) for _ in range(repeats)]
    return {"repeats": repeats, "median_ms": median(times) * 1e3, "max_ms": max(times) * 1e3}


def _once(statement: str, variables: dict[str, str]) -> float:
    command = [sys.executable, "-c", _PROGRAM.format(statement=statement)]
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, check=True)
    return float(done.stdout.decode().split(os.linesep)[0])
