"""The statements of `jobs.sql` by name, in two forms: for SQLAlchemy's sessions and for the driver's connection."""

from sqlalchemy import text

from chassis.pooling.statements import DriverStatement, load_statements

_SQL = load_statements("jobs.sql", package="chassis.jobs")

STATEMENTS = {name: text(sql) for name, sql in _SQL.items()}
"""For SQLAlchemy's sessions: services, the command line and the management port execute these."""
DRIVER_STATEMENTS = {name: DriverStatement.of(sql) for name, sql in _SQL.items()}
"""For the driver's connection, which prepares each statement once: the runner and `enqueue` execute these."""
