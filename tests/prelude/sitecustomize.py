"""Loaded by every Python that has this folder in PYTHONPATH: the guard, in scripts.

Where a script blocked its own loop inside asyncpipes, it ends with exit code 70 and the
place on stderr, even if the error was swallowed. See the fixture ``guarded_scripts``.
"""

from __future__ import annotations

import atexit
import os
import sys

from tests.blocking import Guard

_guard = Guard()
_scope = _guard.on()
_scope.__enter__()


@atexit.register  # before all that the script registers, so it runs last
def _judge() -> None:
    if calls := _guard.taken():
        print("the event loop was blocked", *calls, sep="\n\n", file=sys.stderr, flush=True)
        os._exit(70)
