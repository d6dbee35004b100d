"""The script that Alembic runs: it applies the revisions of every location.

It uses the connection that `chassis.migrations.upgrade` has opened.
"""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    # Each revision has a separate transaction. So a revision may leave its transaction to build an index concurrently.
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
