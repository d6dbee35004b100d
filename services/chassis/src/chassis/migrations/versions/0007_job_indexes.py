"""Four indexes on jobs instead of six, since PostgreSQL evaluates each index's predicate for every new job."""

from alembic import op

revision = "chassis_0007"
down_revision = "chassis_0006"
branch_labels = None
depends_on = None

_BEFORE = {
    "job_claim": "job (queue, priority DESC, run_at, id) WHERE status = 'ready'",
    "job_due": "job (queue, run_at, id) WHERE status = 'ready'",
    "job_suspect": "job (queue, run_at) WHERE status = 'ready' AND is_suspect",
    "job_reap": "job (lease_until) WHERE status = 'running'",
    "job_dead": "job (queue, name, id) WHERE status = 'dead'",
}
_AFTER = {
    # A claim takes either suspects (jobs whose lease expired) or other jobs, so one index with the column `is_suspect`
    # serves both kinds of claim.
    "job_claim": "job (queue, is_suspect, priority DESC, run_at, id) WHERE status = 'ready'",
    "job_due": "job (queue, is_suspect, run_at, id) WHERE status = 'ready'",
    # Few jobs run at once, so a statement finds expired leases without an index on `lease_until`. Without an index on
    # `lease_until`, a heartbeat changes no indexed column, which makes the heartbeat cheap.
    "job_unready": "job (status, queue, name, id) WHERE status <> 'ready'",
}


def upgrade() -> None:
    _replace(_BEFORE, _AFTER)


def downgrade() -> None:
    _replace(_AFTER, _BEFORE)


def _replace(old: dict[str, str], new: dict[str, str]) -> None:
    for name in old:
        op.execute(f"DROP INDEX {name}")
    for name, columns in new.items():
        op.execute(f"CREATE INDEX {name} ON {columns}")
