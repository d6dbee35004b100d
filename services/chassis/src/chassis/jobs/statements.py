"""The statements of `jobs.sql` by name, in two forms: for SQLAlchemy's sessions and for the driver's connection."""

from sqlalchemy import text

from chassis.pooling.statements import DriverStatement, load_statements

_SQL = load_statements("jobs.sql", package="chassis.jobs")

STATEMENTS = {name: text(sql) for name, sql in _SQL.items()}
"""The statements for SQLAlchemy's sessions. Services, the command line and the management port execute these
statements."""
DRIVER_STATEMENTS = {name: DriverStatement.of(sql) for name, sql in _SQL.items()}
"""The statements for the driver's connection, which prepares each statement once. The runner and `enqueue` execute
these statements."""
