"""Logs on all five levels, twice, and is materialized."""

import asyncio

from asyncpipes import open_pipes


async def main() -> None:
    async with open_pipes() as pipes:
        for time in ("first", "second"):
            pipes.log.debug("the %s line of level DEBUG", time)
            pipes.log.info("the %s line of level INFO", time)
            pipes.log.warning("the %s line of level WARNING", time)
            pipes.log.error("the %s line of level ERROR", time)
            pipes.log.critical("the %s line of level CRITICAL", time)
        pipes.report_asset_materialization()


asyncio.run(main())
