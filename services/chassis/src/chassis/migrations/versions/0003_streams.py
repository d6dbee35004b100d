"""The relay stores how far it has published a stream again, and an operator can request the replay of a dead event."""

from alembic import op

revision = "chassis_0003"
down_revision = "chassis_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The columns may be NULL. So PostgreSQL does not rewrite the tables, and code that does not know the columns still
    # works.
    op.execute("ALTER TABLE stream_position ADD COLUMN repeat_after bigint")
    op.execute("ALTER TABLE dead_event ADD COLUMN replay_at timestamptz")
    op.execute("CREATE INDEX dead_event_replay ON dead_event (consumer, id) WHERE replay_at IS NOT NULL")
    op.execute("CREATE INDEX dead_event_event ON dead_event USING hash (event)")


def downgrade() -> None:
    op.execute("DROP INDEX dead_event_event")
    op.execute("ALTER TABLE dead_event DROP COLUMN replay_at")
    op.execute("ALTER TABLE stream_position DROP COLUMN repeat_after")
