"""Database migrations with Alembic: the chassis has revisions for its tables, and each service adds further revisions.

Read `upgrading` first (it applies revisions), then `waiting` (a process waits until the schema is new enough), then
`revisions`. `env.py` is the script that Alembic runs. `versions` holds the chassis' revisions, which create the tables
of jobs, outbox, inbox, idempotency records and API keys.

A service's first revision has `depends_on = "chassis_0001"`, so that Alembic's command `upgrade heads` creates the
chassis' tables first.
"""

from chassis.migrations.upgrading import upgrade
from chassis.migrations.waiting import DatabaseNotReady, migrate, wait_for_schema

__all__ = ["DatabaseNotReady", "migrate", "upgrade", "wait_for_schema"]
