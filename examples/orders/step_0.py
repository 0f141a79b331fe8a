"""The script before the tutorial: it runs by itself, and nobody can look inside."""

import csv
from pathlib import Path

ORDERS = Path(__file__).with_name("orders.csv")


def read_orders() -> list[dict[str, str]]:
    with ORDERS.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main() -> None:
    orders = read_orders()
    total_orders = len(orders)
    print(f"processing total {total_orders} orders")


if __name__ == "__main__":
    main()
