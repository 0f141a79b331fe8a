"""Step 1: open the pipes context near the entry point, and read from it."""

import asyncio
import csv
from pathlib import Path

from asyncpipes import PipesContext, open_pipes

ORDERS = Path(__file__).with_name("orders.csv")


def read_orders() -> list[dict[str, str]]:
    # The open context is there without handing it down, in a worker thread as well.
    pipes = PipesContext.get()
    with Path(pipes.extras.get("orders", ORDERS)).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


async def main() -> None:
    async with open_pipes() as pipes:
        if pipes.is_asset_step:  # false when the script is run by hand
            print(f"materializing {pipes.asset_key}")
        orders = await asyncio.to_thread(read_orders)
        total_orders = len(orders)
        print(f"processing total {total_orders} orders")


if __name__ == "__main__":
    asyncio.run(main())
