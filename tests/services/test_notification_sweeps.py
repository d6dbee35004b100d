"""A mail or a delivery whose job is gone gets one from the sweep; one that has a job, or is settled, does not."""

from uuid import uuid4

import pytest
from harness import execute, rows
from notifications import use_cases, worker
from test_notifications import Notifications, notifications, order_event
from test_sweeps import answers_kept, wired

__all__ = ["notifications"]

STALE_AFTER = 60.0


async def waiting_mail(notifications: Notifications) -> None:
    await notifications.deliver(order_event(uuid4(), 1))
    await execute(notifications.database, "UPDATE mail SET created_at = now() - interval '1 hour'")


async def jobs_after_sweep(notifications: Notifications) -> list[str]:
    async with notifications.database.transaction() as session:
        await use_cases.sweep(session, stale_after=STALE_AFTER, batch=10)
    return [
        row.name
        for row in await rows(notifications.database, "SELECT name FROM job WHERE status = 'ready' ORDER BY id")
    ]


async def test_a_mail_whose_job_is_dead_gets_another(notifications: Notifications) -> None:
    await waiting_mail(notifications)
    await execute(
        notifications.database, "UPDATE job SET status = 'dead', unique_key = NULL, run_at = now() - interval '1 hour'"
    )
    assert await jobs_after_sweep(notifications) == ["send_mail"]
    assert await jobs_after_sweep(notifications) == ["send_mail"]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE mail SET created_at = now()",
        "UPDATE mail SET status = 'sent'",
        "UPDATE mail SET status = 'dead'",
    ],
)
async def test_a_new_or_settled_mail_gets_none(notifications: Notifications, change: str) -> None:
    await waiting_mail(notifications)
    await execute(notifications.database, "DELETE FROM job")
    await execute(notifications.database, change)
    assert await jobs_after_sweep(notifications) == []


async def test_a_delivery_without_a_job_gets_one_for_its_endpoint(notifications: Notifications) -> None:
    endpoint = uuid4()
    await execute(
        notifications.database,
        "INSERT INTO webhook_endpoint (id, client_id, url, events, secret)"
        " VALUES (:id, 'acme', 'https://example.com', '{order.placed}', 'whsec_x')",
        id=endpoint,
    )
    for event in (uuid4(), uuid4()):
        await execute(
            notifications.database,
            "INSERT INTO webhook_delivery"
            " (endpoint_id, client_id, event_id, event_type, order_id, body, next_attempt_at)"
            " VALUES (:endpoint, 'acme', :event, 'order.placed', :order, '{}', now() - interval '1 hour')",
            endpoint=endpoint,
            event=event,
            order=uuid4(),
        )
    assert await jobs_after_sweep(notifications) == ["deliver_webhook"]
    await execute(notifications.database, "UPDATE job SET status = 'running', unique_key = NULL")
    assert await jobs_after_sweep(notifications) == []


async def test_the_worker_sweeps_and_forgets_answers_after_a_day(notifications: Notifications) -> None:
    _, schedules = await wired(notifications, worker._open_parts)
    assert {name: schedule.every for name, schedule in schedules.items()} == {
        "sweep": notifications.settings.sweeps.every,
        "prune_idempotency_records": 60,
    }
    assert await answers_kept(notifications.database, schedules["prune_idempotency_records"]) == ["today"]
