"""Failed attempts of jobs are remembered beyond their job, whose row goes when it is done."""

from alembic import op

revision = "chassis_0006"
down_revision = "chassis_0005"
branch_labels = None
depends_on = None

# Written where an attempt has failed, by the statement that says what comes next: nothing that goes well pays for it.
# Without an index but its key, and without a reference to the job: it is read when a person asks, and must never keep
# a retry from being recorded.
_JOB_FAILURE = """
CREATE TABLE job_failure (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id bigint NOT NULL,
    name text NOT NULL,
    payload jsonb NOT NULL,     -- ids only: what the job was about
    attempt integer NOT NULL,
    error text NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT now(),
    retry_at timestamptz        -- none: it is dead
)
"""


def upgrade() -> None:
    op.execute(_JOB_FAILURE)


def downgrade() -> None:
    op.execute("DROP TABLE job_failure")
