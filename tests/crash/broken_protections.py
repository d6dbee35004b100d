"""What `make test-crash` finds when one protection is taken away: `python tests/crash/broken_protections.py [NAME]…`.

One at a time. Each is edited out of this working tree, which must hold no changes of yours, and put back afterwards;
each of its points then dies on a platform of its own, so that nothing one leaves behind is blamed on the next. Prints a
line for each point. docs/reference/crash-points.md tells what was seen.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHASSIS = "services/chassis/src/chassis"
SECONDS = 300.0  # for a platform and one point of it; most of it is patience with what never comes

_TEST = "tests/crash/test_crash_points.py::test_a_process_dies_here_and_every_order_ends_as_it_should"
_PROBLEM = re.compile(r'"problem": "([^"]+)"')
_ERROR = re.compile(r"(?:\w+Error|Failed): (.{1,160})")
_RANDOM = '__import__("uuid").uuid4()'


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """`code` stands once in `file`; with `without` in its place, the protection is gone.

    `first` is died at before, on the same platform, so that something has happened there.
    """

    name: str
    file: str
    code: str
    without: str
    points: Sequence[str]
    first: Sequence[str] = ()

    @contextmanager
    def taken_away(self) -> Iterator[None]:
        path = ROOT / self.file
        source = path.read_text()
        assert source.count(self.code) == 1, self
        path.write_text(source.replace(self.code, self.without))
        try:
            yield
        finally:
            path.write_text(source)


PROTECTIONS = (
    Protection(
        name="a repeated request gets the kept answer",
        file=f"{CHASSIS}/retries/idempotency.py",
        code='if found["fingerprint"] is None:',
        without="if True:",
        points=[
            "orders-api: orders-api place_order committed",
        ],
    ),
    Protection(
        name="the first job commits with its order",
        file="services/orders/src/orders/use_cases/placing.py",
        code="        job_row(RequestPayment(order_id=order.id)),\n",
        without="",
        points=["orders-api: orders-api place_order committed"],
    ),
    Protection(
        name="a charge has the same key for ever",
        file="services/payments/src/payments/provider_client.py",
        code='f"charge:{payment_id}"',
        without=f'f"charge:{{{_RANDOM}}}"',
        points=["payments-worker: charge_payment uncommitted"],
    ),
    Protection(
        name="a refund has the same key for ever",
        file="services/payments/src/payments/provider_client.py",
        code='f"refund:{refund_id}"',
        without=f'f"refund:{{{_RANDOM}}}"',
        points=["payments-worker: make_refund uncommitted"],
    ),
    Protection(
        name="one living refund: request_refund looks",
        file="services/payments/src/payments/use_cases/refunds.py",
        code="if any(status != RefundStatus.FAILED for status in made):",
        without="if False:",
        points=["payments-api: payments-api refund_payment committed"],
    ),
    Protection(
        name="one living refund: the unique index",
        file="services/payments/src/payments/migrations/versions/0002_refunds.py",
        code="CREATE UNIQUE INDEX refund_one",
        without="CREATE INDEX refund_one",
        points=["payments-api: payments-api refund_payment committed"],
    ),
    Protection(
        name="a provider's event is stored once",
        file="services/webhook-ingest/src/webhook_ingest/migrations/versions/0001_webhook_ingest.py",
        code="now(),\n    UNIQUE (provider, event_id)\n",
        without="now()\n",
        points=["webhook-ingest-api: webhook-ingest-api receive_webhook committed"],
    ),
    Protection(
        name="the inbox knows an event's id",
        file=f"{CHASSIS}/events/inbox.sql",
        code="ON CONFLICT DO NOTHING RETURNING event_id;",
        without="ON CONFLICT (consumer, event_id) DO UPDATE SET received_at = now() RETURNING event_id;",
        points=[
            "payments-worker: provider.charge.succeeded committed",
            "orders-worker: payment.captured committed",
            "notifications-worker: order.confirmed committed",
        ],
    ),
    Protection(
        name="an order's mails go by its version",
        file=f"{CHASSIS}/events/inbox.py",
        code="    if received.aggregate_version != last_version + 1:\n        return []\n",
        without="",
        points=["notifications-worker: order.confirmed committed"],
    ),
    Protection(
        name="the relay marks what it has published",
        file=f"{CHASSIS}/events/relay.py",
        code='        sent = await self._sender.send(position, [row["event"] for row in rows])\n',
        without='        mark = "UPDATE outbox SET published_at = now() WHERE seq = ANY ($1::bigint[])"\n'
        '        await connection.execute(mark, [row["seq"] for row in rows])\n'
        '        sent = await self._sender.send(position, [row["event"] for row in rows])\n',
        points=["orders-worker: relay unpublished0"],
        first=["orders-worker: relay published"],  # the first batch ever repeats whatever is there, marked or not
    ),
    Protection(
        name="entries of a silent consumer are taken over",
        file=f"{CHASSIS}/events/consumer.py",
        code="taken = await self._group.take_over(stream, silent_for=self._claim_after)",
        without="taken = 0",
        points=["notifications-worker: order.placed uncommitted"],
    ),
    Protection(
        name="expired leases are reaped",
        file=f"{CHASSIS}/jobs/tending.py",
        code="            await self._reap(connection)\n",
        without="            pass\n",
        points=["payments-worker: charge_payment claimed"],
    ),
    Protection(
        name="a job ends with its effects",
        file=f"{CHASSIS}/jobs/running_job.py",
        code="        self.is_finishing = True\n",
        without="        self.is_finishing = True\n        return  # the runner ends it, in a transaction of its own\n",
        points=[
            "payments-worker: charge_payment committed",
            "notifications-worker: send_mail committed",
        ],
    ),
    Protection(
        name="fencing: a job's end names its attempt",
        file=f"{CHASSIS}/jobs/jobs.sql",
        code="DELETE FROM job WHERE id = :id AND attempt = :attempt AND status = 'running' RETURNING id;",
        without="DELETE FROM job WHERE id = :id RETURNING id, CAST(:attempt AS integer);",
        points=["notifications-worker: send_mail under way"],
    ),
    Protection(
        name="a mail is recorded after SMTP has it",
        file="services/notifications/src/notifications/jobs.py",
        code="    status, reason = MailStatus.SENT, None\n    try:\n",
        without="    status, reason = MailStatus.SENT, None\n"
        "    async with database.transaction() as session:\n"
        "        await use_cases.settle_mail(session, payload.mail_id, status)\n"
        "    try:\n",
        points=["notifications-worker: send_mail under way"],
    ),
    Protection(
        name="a delivery that is under way has a lease",
        file="services/notifications/src/notifications/notifications.sql",
        code="attempts = attempts + 1, next_attempt_at = now() + CAST(:lease AS interval)",
        without="attempts = attempts + 1, next_attempt_at = now() + 0 * CAST(:lease AS interval)",
        points=["notifications-worker: deliver_webhook under way"],
    ),
    Protection(
        name="a dead event that dies again keeps its number",
        file=f"{CHASSIS}/events/inbox.sql",
        code="WHERE NOT EXISTS (SELECT FROM known);",
        without="WHERE true OR NOT EXISTS (SELECT FROM known);",
        points=["orders-worker: dead event committed"],
    ),
    Protection(
        name="a dead event is given back before its replay",
        file=f"{CHASSIS}/events/inbox.sql",
        code="UPDATE dead_event SET replay_at = NULL\nWHERE id = ANY (ARRAY(",
        without="UPDATE dead_event SET replay_at = replay_at\nWHERE id = ANY (ARRAY(",
        points=["orders-worker: dead event taken committed"],
    ),
)


def die_at(*points: str) -> list[str]:
    """What is wrong afterwards, in the oracle's words where it was asked; empty when everything holds."""
    tests = [f"{_TEST}[{point}-1]" for point in points]
    pytest = [sys.executable, "-m", "pytest", *tests, "-q", "--tb=short", "--exitfirst"]
    ended = subprocess.run(pytest, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.returncode in {0, 1}, ended.stdout + ended.stderr
    if ended.returncode == 0:
        return []
    return _PROBLEM.findall(ended.stdout) or _ERROR.findall(ended.stdout)[-1:] or ["failed"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of their names; all without any")
    names = parser.parse_args().names
    for protection in PROTECTIONS:
        for point in protection.points if not names or any(name in protection.name for name in names) else ():
            with protection.taken_away():
                problems = die_at(*protection.first, point)
            sys.stdout.write(f"{protection.name} | {point} | {'; '.join(problems) or 'holds'}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
