"""A script that reports the messages of a pattern, in bursts or one by one."""

from __future__ import annotations

import sys

from asyncpipes import open_pipes
from benchmarks.patterns import pattern

name, way, divisor = sys.argv[1:]
with open_pipes() as pipes:
    for payload in pattern(name).payloads(int(divisor)):
        pipes.report_custom_message(payload)
        if way == "single":
            pipes.flush()
