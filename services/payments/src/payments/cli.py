"""The command `payments`."""

from pathlib import Path

from chassis.app.cli import build_cli

from payments.settings import PaymentsSettings

main = build_cli(
    PaymentsSettings,
    api="payments.api:run",
    worker="payments.worker:run",
    migrations=Path(__file__).parent / "migrations",
)
