"""The command `payments`."""

from pathlib import Path

from chassis.app.cli import build_cli

main = build_cli(
    settings="payments.settings:PaymentsSettings",
    api="payments.api:run",
    worker="payments.worker:run",
    migrations=Path(__file__).parent / "migrations",
)
