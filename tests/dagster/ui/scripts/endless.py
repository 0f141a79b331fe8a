"""Waits for ever, as does a process that it starts; both ids are in its log line."""

import asyncio
import os

from asyncpipes import open_pipes


async def main() -> None:
    async with open_pipes() as pipes:
        other = await asyncio.create_subprocess_exec("sleep", "86400")
        pipes.log.info(f"running as {os.getpid()} and {other.pid}")
        await asyncio.Event().wait()


asyncio.run(main())
