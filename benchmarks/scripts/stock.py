"""The same script with ``dagster_pipes``. Prints when it began to report."""

from __future__ import annotations

import sys
import time

from dagster_pipes import open_dagster_pipes

from benchmarks.message import payload

with open_dagster_pipes() as pipes:
    started = time.monotonic()
    for index in range(int(sys.argv[1])):
        pipes.report_custom_message(payload(index))
print(started)
