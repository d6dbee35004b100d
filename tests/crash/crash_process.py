"""The tests' own composition root: `crash_process.py FOLDER SERVICE ROLE …` is `SERVICE ROLE …` with crash points
around what it is given. Nothing armed, nothing differs.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from chassis import config
from chassis.config import Live
from chassis.config.settings import DatabaseSettings
from crash_points import CrashingAnswers, CrashingDatabase, CrashingResources, CrashPoints
from sqlalchemy import Engine, event

SETTINGS = {
    "orders": "orders.settings:OrdersSettings",
    "payments": "payments.settings:PaymentsSettings",
    "notifications": "notifications.settings:NotificationsSettings",
    "webhook-ingest": "webhook_ingest.settings:WebhookIngestSettings",
}
OPERATING = {"jobs", "events", "webhooks", "mails"}
"""Commands of an operator."""


def main() -> None:
    folder, service, role, *options = sys.argv[1:]
    settings_type = resolve_name(SETTINGS[service])
    points = CrashPoints(Path(folder), f"{service}-{role}")
    if role == "migrate":
        run_migrations(service, config.load_database(settings_type), points)
        return
    if role in OPERATING:
        run_command(service, [role, *options], points)
        return
    live = config.load_live(settings_type, [option for option in options if option != "--set"])
    run = {"api": run_api, "worker": run_worker}[role]
    run(service, live, points)


def run_worker(service: str, live: Live[Any], points: CrashPoints) -> None:
    import chassis.app.worker.serving

    open_resources = chassis.app.worker.serving.open_worker_resources

    @asynccontextmanager
    async def open_crashing_resources(live):
        async with open_resources(live) as resources:
            yield CrashingResources.around(resources, points)

    chassis.app.worker.serving.open_worker_resources = open_crashing_resources  # for its jobs, its events and its port
    import_module(f"{service.replace('-', '_')}.worker").run(live)


def run_api(service: str, live: Live[Any], points: CrashPoints) -> None:
    from chassis.app.api import run_api as run

    app = import_module(f"{service.replace('-', '_')}.api").create_app(live)
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def crashing_lifespan(app: Any) -> AsyncIterator[Any]:
        async with lifespan(app) as state:
            given = app.opened
            database: Any = CrashingDatabase(
                given.database, points, name=lambda route: f"{service}-api {route.co_name}"
            )
            app.opened = replace(given, database=database)
            yield state

    app.router.lifespan_context = crashing_lifespan
    app.add_middleware(CrashingAnswers, points=points)
    run(live, app)


def run_command(service: str, words: list[str], points: CrashPoints) -> None:
    from chassis.app.cli import operator as commands

    name = " ".join(words[:2])
    database = commands.Database
    commands.Database = lambda *given, **options: CrashingDatabase(
        database(*given, **options), points, name=lambda _: name
    )
    sys.argv = [service, *words]
    import_module(f"{service.replace('-', '_')}.cli").main()


def run_migrations(service: str, settings: DatabaseSettings, points: CrashPoints) -> None:
    from chassis.migrations import upgrade

    event.listen(Engine, "commit", lambda _: points.reach("migrate uncommitted"))  # called before it
    folder = Path(import_module(service.replace("-", "_")).__path__[0]) / "migrations"
    asyncio.run(upgrade(settings, folder))


if __name__ == "__main__":
    main()
