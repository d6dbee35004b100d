"""The command `notifications`."""

from pathlib import Path

from chassis.app.cli import build_cli

main = build_cli(
    settings="notifications.settings:NotificationsSettings",
    api="notifications.api:run",
    worker="notifications.worker:run",
    migrations=Path(__file__).parent / "migrations",
    groups="notifications.commands:groups",
)
