"""The command `orders`."""

from pathlib import Path

from chassis.app.cli import build_cli

from orders.settings import OrdersSettings

main = build_cli(
    OrdersSettings,
    api="orders.api:run",
    worker="orders.worker:run",
    migrations=Path(__file__).parent / "migrations",
)
