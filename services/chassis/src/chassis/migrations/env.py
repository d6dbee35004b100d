"""The script that Alembic runs: it applies the revisions of the chassis and of the service.

The script uses the connection that `chassis.migrations.upgrade` has opened.
"""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    # Each revision has a separate transaction. So a revision may end its transaction early and build an index with
    # CREATE INDEX CONCURRENTLY, which PostgreSQL refuses in a transaction.
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
