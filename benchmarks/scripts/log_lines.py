"""A script that logs as fast as it can."""

from __future__ import annotations

import sys

from asyncpipes import open_pipes

with open_pipes() as pipes:
    for index in range(int(sys.argv[1])):
        pipes.log.info("line %d of the orders was read", index)
