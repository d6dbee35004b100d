"""An index for the measurement of the backlog, which counts the orders that became final a moment ago."""

from alembic import op

revision = "orders_0004"
down_revision = "orders_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX orders_done ON orders (updated_at) WHERE status IN ('confirmed', 'cancelled')")


def downgrade() -> None:
    op.execute("DROP INDEX orders_done")
