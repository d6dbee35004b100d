"""What Alembic runs: the revisions of every location, over the connection that `chassis.migrations.migrate` opened."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    # One revision, one transaction: a revision may then build an index concurrently, outside of it.
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
