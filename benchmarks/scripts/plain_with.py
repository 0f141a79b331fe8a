"""A script without a loop. Prints when it began to report."""

from __future__ import annotations

import sys
import time

from asyncpipes import open_pipes
from benchmarks.message import payload

with open_pipes() as pipes:
    started = time.monotonic()
    for index in range(int(sys.argv[1])):
        pipes.report_custom_message(payload(index))
print(started)
