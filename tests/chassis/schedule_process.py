"""A worker's scheduler in a process of its own, for test_schedules.py: settings from the environment."""

import asyncio
import os

from chassis.config.settings import DatabaseSettings
from chassis.jobs.schedules import Schedule, Scheduler
from chassis.pooling import Database, Session
from process_settings import from_environment
from sqlalchemy import text

# A run notes which due time it is for: two runs for one would be one too many.
_NOTE = text("INSERT INTO made SELECT next_at, :pid FROM schedule WHERE name = 'shared'")


async def note(session: Session) -> None:
    await session.execute(_NOTE, {"pid": os.getpid()})
    await asyncio.sleep(float(os.environ["TAKES"]))


async def main() -> None:
    database = Database(from_environment(DatabaseSettings, "DATABASE"), pool="test", application_name="test")
    schedule = Schedule(name="shared", every=0.1, run=note)
    await Scheduler(database, [schedule], random=lambda: 0.0).run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main())
