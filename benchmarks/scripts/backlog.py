"""An async script that logs many lines, then reports a result, and waits until that is seen."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from asyncpipes import open_pipes

#: Seconds to wait at most: a result that takes longer is late, however late it is.
_PATIENCE = 300.0


async def main(lines: int, seen: Path) -> None:
    """Log ``lines`` lines; end when there is a file ``seen``."""
    async with open_pipes() as pipes:
        for line in range(lines):
            pipes.log.info("line %d of a script that says much", line)
        reported = time.monotonic()
        pipes.report_asset_materialization(metadata={"reported": reported})
        await asyncio.to_thread(wait_for, seen)


def wait_for(seen: Path) -> None:
    """Wait until the file is there, in a thread."""
    deadline = time.monotonic() + _PATIENCE
    while not seen.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
