"""A column for the time at which an order's cancellation began. No event contains this time."""

from alembic import op

revision = "orders_0002"
down_revision = "orders_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The column has no default, so PostgreSQL does not rewrite the table. The column may be null, so older code, which
    # does not write it, still works.
    op.execute("ALTER TABLE orders ADD COLUMN cancelling_at timestamptz")


def downgrade() -> None:
    op.execute("ALTER TABLE orders DROP COLUMN cancelling_at")
