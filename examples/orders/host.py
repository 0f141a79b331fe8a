"""Launch one of the scripts beside this file, and print what it reports while it runs.

    python host.py [SCRIPT] [--orders CSV]

The exit code is 0 when the run went well, and then nothing was lost on the way.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from asyncpipes import (
    AssetCheckEvent,
    Event,
    ExternalStreamEvent,
    LogEvent,
    MaterializationEvent,
    open_pipes_session,
)

HERE = Path(__file__).parent


async def main(script: Path, orders: Path) -> int:
    async with open_pipes_session(
        asset_keys=["orders"],
        extras={"orders": str(orders)},
        forward_stdio="events",
        strict=False,
    ) as session:
        # One subscriber for all of it keeps the order: each has a queue of its own.
        @session.on(LogEvent, MaterializationEvent, AssetCheckEvent, ExternalStreamEvent)
        async def show(event: Event) -> None:
            match event:
                case ExternalStreamEvent(stream=stream, text=text):
                    print(text, end="", file=getattr(sys, stream))
                case LogEvent(level=level, message=message):
                    print(f"{level:<8} {message}")
                case MaterializationEvent(asset_key=key):
                    values = {label: value.raw_value for label, value in event.metadata.items()}
                    print(f"{'RESULT':<8} {key} was materialized: {values}")
                case AssetCheckEvent(asset_key=key, check_name=name, passed=passed):
                    print(f"{'CHECK':<8} {key}: {name} {'passed' if passed else 'FAILED'}")

        process = await session.launch([sys.executable, str(script)])
        await process.wait()

    outcome = session.outcome
    print(f"exit code {outcome.exit_code}, {'ok' if outcome.ok else 'NOT OK'}")
    for reason in outcome.reasons:
        print(f"- {reason}")
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run an orders script and follow it live.")
    parser.add_argument("script", nargs="?", type=Path, default=HERE / "external_code.py")
    parser.add_argument("--orders", type=Path, default=HERE / "orders.csv")
    arguments = parser.parse_args()
    sys.exit(asyncio.run(main(arguments.script, arguments.orders)))
