"""Jobs whose lease expired twice run alone in a process, and each job stores when its other times were written."""

from alembic import op

revision = "chassis_0009"
down_revision = "chassis_0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # True for a suspect (a job whose lease expired) that lost a second lease while other jobs ran in the process.
    op.execute("ALTER TABLE job ADD COLUMN runs_alone boolean NOT NULL DEFAULT false")
    # The time at which run_at, lease_until and deadline were written. If this time is in the future, the clock was set
    # back after the write.
    op.execute("ALTER TABLE job ADD COLUMN written_at timestamptz NOT NULL DEFAULT now()")


def downgrade() -> None:
    op.execute("ALTER TABLE job DROP COLUMN written_at")
    op.execute("ALTER TABLE job DROP COLUMN runs_alone")
