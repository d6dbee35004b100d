"""Endpoints that are gone, or have done nothing but fail for days, are disabled; their clients are told by mail."""

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from captured_logs import captured_logs
from chassis.webhooks import has_failed_for_long, webhook_endpoints_disabled
from customers import Json, Webhooks
from harness import attempt, count, execute, job_statuses, one, rows
from notifications import jobs
from notifications.mailer import Mailer
from notifications.messages import SendMail
from notifications.settings import WebhookSettings
from post_office import post_office

CONTACT = "ops@shop.example"
FIVE_DAYS = 432_000.0
NOON = datetime(2026, 1, 6, 12, tzinfo=UTC)


def disabled(reason: str) -> float:
    return webhook_endpoints_disabled.labels(reason)._value.get()


async def shown(webhooks: Webhooks, endpoint: Json) -> Json:
    found: Json = (await webhooks.call("GET", f"webhook-endpoints/{endpoint['id']}")).json()
    return found


async def fail_until_disabled(webhooks: Webhooks) -> float:
    """Let every attempt fail, each when it is due; returns the seconds this took, by the schedule."""
    waited = 0.0
    while (await one(webhooks.database, "SELECT is_enabled FROM webhook_endpoint")).is_enabled:
        webhooks.customer.answer(500)
        waited += max(0.0, await webhooks.pass_time())
        assert await webhooks.attempt() is None
    return waited


async def succeed_once(webhooks: Webhooks) -> None:
    await webhooks.pass_time()
    await webhooks.attempt()


async def fail_once(webhooks: Webhooks) -> None:
    webhooks.customer.answer(500)
    await webhooks.pass_time()
    await webhooks.attempt()


@pytest.mark.parametrize(("days", "given_up"), [(4.99, False), (5.0, True), (30.0, True)])
def test_five_days_of_failures_are_long_and_less_is_not(days: float, *, given_up: bool) -> None:
    since = NOON - timedelta(days=days)
    assert has_failed_for_long(since, now=NOON, disable_after=FIVE_DAYS) is given_up
    assert not has_failed_for_long(None, now=NOON, disable_after=FIVE_DAYS)


def test_without_settings_a_first_delivery_has_all_its_attempts_before_its_endpoint_is_disabled() -> None:
    settings = WebhookSettings()
    assert settings.disable_after == FIVE_DAYS
    assert sum(settings.schedule) * (1 + settings.jitter) < settings.disable_after


async def test_an_endpoint_that_only_fails_is_disabled_after_five_days_and_not_before(webhooks: Webhooks) -> None:
    endpoint = await webhooks.create(contact_email=CONTACT)
    await webhooks.happen(1, 2, 3)
    before = disabled("failing")
    with captured_logs() as logs:
        waited = await fail_until_disabled(webhooks)
    found = await rows(webhooks.database, "SELECT status, attempts FROM webhook_delivery ORDER BY sequence")
    assert [(row.status, row.attempts) for row in found] == [("dead", 10), ("disabled", 9), ("disabled", 0)]
    assert FIVE_DAYS <= waited < FIVE_DAYS + max(webhooks.settings.schedule)
    after = await shown(webhooks, endpoint)
    assert (after["enabled"], after["contact_email"]) == (False, CONTACT)
    assert after["disabled_reason"].startswith("every attempt since ")
    assert after["disabled_reason"].endswith("the last one because: answered 500")
    assert disabled("failing") == before + 1
    line = logs.one("webhook_endpoint_disabled")
    assert (line["level"], line["cause"], line["is_told"]) == ("warning", "failing", True)
    assert line["endpoint_id"] == endpoint["id"]


async def test_whoever_is_disabled_gets_one_mail_that_says_why_and_what_to_do(webhooks: Webhooks) -> None:
    endpoint = await webhooks.create(contact_email=CONTACT)
    await webhooks.happen(1, 2)
    webhooks.customer.answer(410)
    before = disabled("gone")
    await webhooks.attempt()
    assert disabled("gone") == before + 1
    assert await job_statuses(webhooks.database, "send_mail") == ["ready"]
    async with post_office() as office:
        handler = partial(jobs.send_mail, webhooks.database, Mailer(office.settings))
        assert await attempt(webhooks.database, SendMail, handler) is None
        ((recipients, mail),) = office.mails
    assert recipients == [CONTACT]
    assert mail["Subject"] == "Your webhook endpoint was disabled"
    text = mail.get_payload(decode=True)
    assert isinstance(text, bytes)
    for part in (webhooks.customer.url, "answered 410", f"/v1/webhook-endpoints/{endpoint['id']}"):
        assert part in text.decode()
    assert endpoint["secret"] not in text.decode()
    notice = await one(webhooks.database, "SELECT * FROM mail WHERE recipient = :contact", contact=CONTACT)
    assert (notice.status, notice.order_id, notice.event_type) == ("sent", None, "webhook_endpoint.disabled")


async def test_who_gave_no_address_gets_no_mail_and_the_api_tells_all_the_same(webhooks: Webhooks) -> None:
    endpoint = await webhooks.create()
    await webhooks.happen(1)
    webhooks.customer.answer(410)
    await webhooks.attempt()
    assert (await shown(webhooks, endpoint))["disabled_reason"] == "answered 410"
    assert await count(webhooks.database, "mail") == 1, "the customer's, of the order"


async def test_a_success_begins_the_count_anew(webhooks: Webhooks) -> None:
    endpoint = await webhooks.create()
    await webhooks.happen(1, 2)
    await fail_once(webhooks)
    since = (await shown(webhooks, endpoint))["failing_since"]
    await fail_once(webhooks)
    assert since is not None
    await execute(webhooks.database, "UPDATE webhook_endpoint SET failing_since = now() - interval '4 days'")
    await succeed_once(webhooks)
    assert (await shown(webhooks, endpoint))["failing_since"] is None
    await fail_once(webhooks)
    assert (await shown(webhooks, endpoint))["enabled"]


async def test_a_later_failure_does_not_move_the_time_since_when(webhooks: Webhooks) -> None:
    endpoint = await webhooks.create()
    await webhooks.happen(1)
    await fail_once(webhooks)
    await execute(webhooks.database, "UPDATE webhook_endpoint SET failing_since = now() - interval '4 days'")
    since = (await shown(webhooks, endpoint))["failing_since"]
    await fail_once(webhooks)
    assert (await shown(webhooks, endpoint))["failing_since"] <= since  # the wait has passed


async def test_enabled_again_it_is_told_of_what_happens_and_has_all_its_time(webhooks: Webhooks) -> None:
    endpoint = await webhooks.create(contact_email=CONTACT)
    await webhooks.happen(1)
    await fail_once(webhooks)
    await execute(webhooks.database, "UPDATE webhook_endpoint SET failing_since = now() - interval '6 days'")
    await fail_once(webhooks)
    assert not (await shown(webhooks, endpoint))["enabled"]
    path = f"webhook-endpoints/{endpoint['id']}"
    again = (await webhooks.call("PATCH", path, json={"enabled": True})).json()
    assert (again["enabled"], again["disabled_reason"], again["failing_since"]) == (True, None, None)
    await webhooks.happen(2, 1)
    await fail_once(webhooks)
    assert (await shown(webhooks, endpoint))["enabled"]
    await webhooks.pass_time()
    await webhooks.work()
    assert webhooks.customer.types[-1] == "order.confirmed"


async def test_another_url_has_all_its_time(webhooks: Webhooks) -> None:
    endpoint = await webhooks.create()
    await execute(webhooks.database, "UPDATE webhook_endpoint SET failing_since = now() - interval '6 days'")
    await webhooks.call("PATCH", f"webhook-endpoints/{endpoint['id']}", json={"url": webhooks.customer.url + "/new"})
    assert (await shown(webhooks, endpoint))["failing_since"] is None


@pytest.mark.parametrize(
    "contact",
    [
        "nobody",
        "a@b@c",
        "a b@c.example",
        "a@c.example\nBcc: d@e.example",
        "x" * 255,
        "a@b.example,c@d.example",
        "a<b@c.example",
    ],
)
async def test_what_is_no_address_is_no_contact(webhooks: Webhooks, contact: str) -> None:
    answer = await webhooks.call(
        "POST",
        "webhook-endpoints",
        json={"url": webhooks.customer.url, "contact_email": contact},
        headers={"Idempotency-Key": "one"},
    )
    assert answer.status_code == 422


async def test_a_deleted_endpoint_keeps_no_address(webhooks: Webhooks) -> None:
    endpoint = await webhooks.create(contact_email=CONTACT)
    await webhooks.call("DELETE", f"webhook-endpoints/{endpoint['id']}")
    assert (await one(webhooks.database, "SELECT contact_email FROM webhook_endpoint")).contact_email is None
