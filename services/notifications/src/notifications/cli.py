"""The command `notifications`."""

from pathlib import Path

from chassis.cli import build_cli

from notifications.settings import NotificationsSettings

main = build_cli(
    NotificationsSettings,
    api="notifications.api:run",
    worker="notifications.worker:run",
    migrations=Path(__file__).parent / "migrations",
)
