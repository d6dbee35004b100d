"""Alembic's script: it runs the revisions of every location on the connection that `chassis.migrations.upgrade`
opened.
"""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    # Each revision has its own transaction, so a revision may build an index concurrently, outside of a transaction.
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
