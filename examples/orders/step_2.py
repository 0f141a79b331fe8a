"""Step 2: log through the context, and the host sees each line, with its level, at once."""

import asyncio
import csv
from pathlib import Path

from asyncpipes import PipesContext, open_pipes

ORDERS = Path(__file__).with_name("orders.csv")


def read_orders() -> list[dict[str, str]]:
    pipes = PipesContext.get()
    path = Path(pipes.extras.get("orders", ORDERS))
    pipes.log.debug("reading %s", path)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


async def main() -> None:
    async with open_pipes() as pipes:
        orders = await asyncio.to_thread(read_orders)
        total_orders = len(orders)
        print(f"processing total {total_orders} orders")
        pipes.log.info(f"processing total {total_orders} orders")


if __name__ == "__main__":
    asyncio.run(main())
