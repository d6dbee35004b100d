"""Columns for endpoints that fail for a long time. Such an endpoint is disabled, and its client receives a mail. Unlike
all other mails, this mail belongs to no order.
"""

from alembic import op

revision = "notifications_0004"
down_revision = "notifications_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE webhook_endpoint ADD COLUMN contact_email text, ADD COLUMN failing_since timestamptz")
    op.execute(
        "ALTER TABLE mail ALTER COLUMN order_id DROP NOT NULL, ALTER COLUMN version DROP NOT NULL,"
        " ADD CONSTRAINT mail_order_has_version CHECK ((order_id IS NULL) = (version IS NULL))"
    )


def downgrade() -> None:
    op.execute("DELETE FROM mail WHERE order_id IS NULL")
    op.execute(
        "ALTER TABLE mail DROP CONSTRAINT mail_order_has_version,"
        " ALTER COLUMN order_id SET NOT NULL, ALTER COLUMN version SET NOT NULL"
    )
    op.execute("ALTER TABLE webhook_endpoint DROP COLUMN contact_email, DROP COLUMN failing_since")
