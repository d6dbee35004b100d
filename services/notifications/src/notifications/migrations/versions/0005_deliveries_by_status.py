"""An index from which a client's deliveries of one status are listed, without reading its other deliveries."""

from alembic import op

revision = "notifications_0005"
down_revision = "notifications_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The table has a row for each delivery of the past, so PostgreSQL builds the index without blocking new deliveries.
    # If an earlier build was interrupted, an invalid index of this name exists and must be dropped first.
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX IF EXISTS webhook_delivery_status")
        op.execute("CREATE INDEX CONCURRENTLY webhook_delivery_status ON webhook_delivery (client_id, status, id)")


def downgrade() -> None:
    op.execute("DROP INDEX webhook_delivery_status")
