"""The tutorial's script: it logs, reports what it made and whether that is sound."""

import asyncio
import csv
from pathlib import Path

from asyncpipes import open_pipes

ORDERS = Path(__file__).with_name("orders.csv")


def read_orders() -> list[dict[str, str]]:
    with ORDERS.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


async def main() -> None:
    async with open_pipes() as pipes:
        orders = await asyncio.to_thread(read_orders)
        total_orders = len(orders)
        print(f"processing total {total_orders} orders")
        pipes.log.info(f"processing total {total_orders} orders")

        pipes.report_asset_materialization(metadata={"total_orders": total_orders})
        pipes.report_asset_check(
            passed=all(order["item"] for order in orders),
            check_name="no_empty_order_check",
        )


if __name__ == "__main__":
    asyncio.run(main())
