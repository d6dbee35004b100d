"""The command `orders`."""

from pathlib import Path

from chassis.app.cli import build_cli

main = build_cli(
    settings="orders.settings:OrdersSettings",
    api="orders.api:run",
    worker="orders.worker:run",
    migrations=Path(__file__).parent / "migrations",
)
