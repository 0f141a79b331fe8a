"""The same with ``dagster_pipes``."""

from __future__ import annotations

import sys
import time

from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    for index in range(int(sys.argv[1])):
        pipes.report_custom_message({"index": index, "at": time.monotonic()})
        time.sleep(0.002)
