"""A script that reports materializations with a table each, and logs between them."""

from __future__ import annotations

import sys

from asyncpipes import open_pipes
from benchmarks.subjects.view import LINES_BETWEEN, table

with open_pipes() as pipes:
    for index in range(int(sys.argv[1])):
        for line in range(LINES_BETWEEN):
            pipes.log.info("line %d of part %d was read", line, index)
        pipes.report_asset_materialization(
            asset_key=f"part_{index}", metadata={"rows": 20, "orders": table(index)}
        )
