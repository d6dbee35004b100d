"""An index for the measurement of the backlog, which counts the payments that were captured or ended a moment ago."""

from alembic import op

revision = "payments_0005"
down_revision = "payments_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE INDEX payment_done ON payment (updated_at) "
        "WHERE status IN ('captured', 'failed', 'canceled', 'refunded')"
    )


def downgrade() -> None:
    op.execute("DROP INDEX payment_done")
