"""Columns for the newest versions of a charge and of a refund that the provider has reported. A report with an older
version is out of date.
"""

from alembic import op

revision = "payments_0003"
down_revision = "payments_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE payment ADD COLUMN charge_version bigint NOT NULL DEFAULT 0")
    op.execute("ALTER TABLE refund ADD COLUMN provider_version bigint NOT NULL DEFAULT 0")


def downgrade() -> None:
    op.execute("ALTER TABLE payment DROP COLUMN charge_version")
    op.execute("ALTER TABLE refund DROP COLUMN provider_version")
