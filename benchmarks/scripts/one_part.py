"""One of many scripts of a step: some logs, a custom message, a check, a materialization."""

from __future__ import annotations

import asyncio

from asyncpipes import open_pipes


async def main() -> None:
    """Report the rows of the part, and for the asset, that the extras name."""
    async with open_pipes() as pipes:
        part, asset = pipes.get_extra("part"), pipes.get_extra("asset")
        pipes.log.info("loading part %d of %s", part, asset)
        for day in range(3):
            pipes.log.info("day %d of part %d is there", day, part)
        pipes.report_custom_message({"part": part, "days": 3})
        pipes.report_asset_check("has_rows", passed=True, asset_key=asset)
        pipes.report_asset_materialization(metadata={"rows": 100 + part}, asset_key=asset)


asyncio.run(main())
