"""A database that tests have one after another: a copy of a migrated one takes the server 150 ms, emptying it 1."""

import asyncpg
from api_keys import keep_keys
from backends import RealServer
from chassis.config.settings import DatabaseSettings

# First what the test before has left: sessions, and what it made itself, as the superuser. Then all rows: deleted, for
# the tables are nearly empty and TRUNCATE makes new files. Foreign keys need not be looked at. Numbers begin anew.
_EMPTY = """
SET session_replication_role = replica;
DO $$ DECLARE found text; BEGIN
    PERFORM pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend';
    FOR found IN SELECT oid::regclass FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relowner = current_user::regrole
    LOOP
        EXECUTE 'DROP TABLE ' || found;
    END LOOP;
    FOR found IN SELECT oid::regprocedure FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND proowner = current_user::regrole
    LOOP
        EXECUTE format('DROP FUNCTION %s CASCADE', found);
    END LOOP;
    FOR found IN SELECT quote_ident(tablename) FROM pg_tables
        WHERE schemaname = 'public' AND tablename NOT IN ('alembic_version', 'installation', 'product')
    LOOP
        EXECUTE 'DELETE FROM ' || found;
    END LOOP;
    PERFORM setval(oid, 1, false) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'S';
END $$
"""


class Emptied:
    """A database without rows but those of its migrations and the tests' API keys; `package`: whose tables it has."""

    def __init__(self, postgres: RealServer, settings: DatabaseSettings, package: str) -> None:
        self.settings = settings
        self._dsn = postgres.dsn
        self._package = package
        self._connection: asyncpg.Connection | None = None

    async def empty(self) -> None:
        if self._connection is None or self._connection.is_closed():  # by a test that ended all sessions
            self._connection = await asyncpg.connect(self._dsn, database=self.settings.name)
        await self._connection.execute(_EMPTY)
        await keep_keys(self._connection, self._package)

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
