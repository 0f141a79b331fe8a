"""An async script that reports one message in 2 ms, with the time in it."""

from __future__ import annotations

import asyncio
import sys
import time

from asyncpipes import open_pipes


async def main(messages: int) -> None:
    """Report ``messages`` messages."""
    async with open_pipes() as pipes:
        for index in range(messages):
            pipes.report_custom_message({"index": index, "at": time.monotonic()})
            await asyncio.sleep(0.002)


asyncio.run(main(int(sys.argv[1])))
