"""An async script that awaits every hundredth report. Prints when it began to report."""

from __future__ import annotations

import asyncio
import sys
import time

from asyncpipes import open_pipes
from benchmarks.message import payload


async def main(messages: int) -> None:
    """Report ``messages`` messages."""
    async with open_pipes() as pipes:
        started = time.monotonic()
        for index in range(messages):
            room = pipes.report_custom_message(payload(index))
            if index % 100 == 99:
                await room
    print(started)


asyncio.run(main(int(sys.argv[1])))
