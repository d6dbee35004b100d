"""Deliveries: written with the mail, signed, in order per endpoint, repeated by a schedule under one id, or dead."""

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import orjson
import pytest
from aiohttp import ThreadedResolver, web
from aiohttp.abc import ResolveResult
from chassis.config.settings import EgressSettings
from chassis.errors import LeaseLost
from chassis.webhooks import webhook_delivery_attempts
from customers import Webhooks, order_event, order_placed, webhook_settings
from harness import OTHER_SHOP, count, execute, job_statuses, one, received, rows
from notifications.events import on_order
from notifications.settings import WebhookSettings
from notifications.webhook_sender import WebhookSender
from waiting import eventually

SCHEDULE = WebhookSettings().schedule


async def states(webhooks: Webhooks) -> list[tuple[str, str]]:
    found = await rows(webhooks.database, "SELECT event_type, status FROM webhook_delivery ORDER BY id")
    return [(row.event_type.removeprefix("order."), row.status) for row in found]


async def die(webhooks: Webhooks) -> None:
    """All attempts at what is first in the queue fail."""
    for _ in range(len(SCHEDULE) + 1):
        webhooks.customer.answer(500)
        await webhooks.pass_time()
        assert await webhooks.attempt() is None


# Written


async def test_each_endpoint_that_listens_gets_one_delivery_with_its_job(webhooks: Webhooks) -> None:
    everything = await webhooks.create()
    confirmed = await webhooks.create(events=["order.confirmed"])
    await webhooks.create(enabled=False)
    await webhooks.create(client=OTHER_SHOP)
    await webhooks.happen(1, 2)
    found = await rows(webhooks.database, "SELECT endpoint_id, event_type FROM webhook_delivery ORDER BY sequence")
    assert [(str(row.endpoint_id), row.event_type) for row in found] == [
        (everything["id"], "order.placed"),
        (everything["id"], "order.confirmed"),
        (confirmed["id"], "order.confirmed"),
    ]
    assert await job_statuses(webhooks.database, "deliver_webhook") == ["ready"] * 3
    assert await count(webhooks.database, "mail") == 2


async def test_mail_deliveries_and_jobs_are_written_together_or_not_at_all(webhooks: Webhooks) -> None:
    await webhooks.create()
    order_id = uuid4()
    placed = received(order_placed(order_id), aggregate_id=order_id, version=1)

    async def crash() -> None:
        async with webhooks.database.transaction() as session:
            await on_order(session, placed)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await crash()
    assert [await count(webhooks.database, table) for table in ("mail", "webhook_delivery", "job")] == [0, 0, 0]
    async with webhooks.database.transaction() as session:
        await on_order(session, placed)
    assert [await count(webhooks.database, table) for table in ("mail", "webhook_delivery", "job")] == [1, 1, 2]


async def test_an_event_that_arrives_twice_is_delivered_once(webhooks: Webhooks) -> None:
    await webhooks.create()
    event = order_event(uuid4(), 1)
    await webhooks.publish(event, event)
    await execute(webhooks.database, "DELETE FROM inbox")
    await webhooks.publish(event)
    await webhooks.work()
    assert len(webhooks.customer.arrived) == 1


# Sent


async def test_a_delivery_is_signed_and_tells_what_happened_without_the_mail_address(webhooks: Webhooks) -> None:
    endpoint = await webhooks.create()
    order_id = await webhooks.happen(1)
    await webhooks.work()
    (arrived,) = webhooks.customer.arrived
    delivery = await webhooks.delivery()
    assert arrived.verifies(endpoint["secret"])
    assert arrived.webhook_id == str(delivery.id)
    assert "." not in arrived.webhook_id
    assert arrived.headers["content-type"] == "application/json"
    assert orjson.loads(arrived.body) == {
        "id": str(delivery.event_id),
        "type": "order.placed",
        "timestamp": "2026-01-01T00:00:00Z",
        "data": {"order_id": str(order_id), "version": 1, "amount": 12898, "currency": "EUR", "reason": None},
    }
    assert (delivery.status, delivery.attempts, delivery.last_status, delivery.reason) == ("delivered", 1, 204, None)
    assert await count(webhooks.database, "job") == 0


async def test_a_failed_attempt_is_repeated_under_the_same_id_with_the_same_body_and_its_own_time(
    webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = await webhooks.create()
    await webhooks.happen(1)
    webhooks.customer.answer(503)
    started = datetime.now(UTC)
    for minutes in (0, 4):  # the package allows five
        later = (started - timedelta(minutes=minutes)).timestamp()
        monkeypatch.setattr("notifications.webhook_sender.time.time", lambda now=later: now)
        await webhooks.pass_time()
        await webhooks.attempt()
    first, second = webhooks.customer.arrived
    assert first.webhook_id == second.webhook_id
    assert first.body == second.body
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
    assert first.verifies(endpoint["secret"])
    assert second.verifies(endpoint["secret"])


async def test_the_waits_follow_the_schedule_and_the_tenth_failure_is_the_last(webhooks: Webhooks) -> None:
    await webhooks.create()
    await webhooks.happen(1)
    waits = []
    for _ in range(len(SCHEDULE) + 1):
        webhooks.customer.answer(500)
        assert await webhooks.attempt() is None
        if (await webhooks.delivery()).status == "pending":
            assert await job_statuses(webhooks.database, "deliver_webhook") == ["ready"]
            waits.append(await webhooks.pass_time())
    assert waits == pytest.approx(SCHEDULE, abs=2)
    delivery = await webhooks.delivery()
    assert (delivery.status, delivery.attempts, delivery.last_status, delivery.reason) == (
        "dead",
        10,
        500,
        "answered 500",
    )
    assert await count(webhooks.database, "job") == 0


@pytest.mark.parametrize(("asked", "waited"), [("600", 600), ("1", SCHEDULE[0])])
async def test_retry_after_lengthens_the_wait_and_never_shortens_it(
    webhooks: Webhooks, asked: str, waited: float
) -> None:
    await webhooks.create()
    await webhooks.happen(1)
    webhooks.customer.answer(429, Retry_After=asked)
    await webhooks.attempt()
    assert await webhooks.pass_time() == pytest.approx(waited, abs=2)


@pytest.mark.parametrize("status", [301, 302, 307, 308, 304, 400, 401, 404, 500])
async def test_only_2xx_succeeds_and_no_redirect_is_followed(webhooks: Webhooks, status: int) -> None:
    await webhooks.create()
    await webhooks.happen(1)
    webhooks.customer.answer(status, Location="/elsewhere")
    await webhooks.attempt()
    delivery = await webhooks.delivery()
    assert (delivery.status, delivery.last_status, len(webhooks.customer.arrived)) == ("pending", status, 1)


async def test_an_endpoint_that_is_gone_is_disabled_with_all_that_was_pending(webhooks: Webhooks) -> None:
    endpoint = await webhooks.create()
    await webhooks.happen(1, 2)
    webhooks.customer.answer(410)
    await webhooks.work()
    assert await states(webhooks) == [("placed", "disabled"), ("confirmed", "disabled")]
    shown = (await webhooks.call("GET", f"webhook-endpoints/{endpoint['id']}")).json()
    assert (shown["enabled"], shown["disabled_reason"]) == (False, "answered 410")
    await webhooks.happen(1)
    assert await count(webhooks.database, "webhook_delivery") == 2
    assert len(webhooks.customer.arrived) == 1


async def test_a_hanging_endpoint_costs_one_time_out(webhooks: Webhooks) -> None:
    await webhooks.create()
    await webhooks.happen(1)
    webhooks.customer.hangs = True
    async with asyncio.timeout(5):
        await webhooks.attempt()
    delivery = await webhooks.delivery()
    assert (delivery.status, delivery.last_status, delivery.reason) == ("pending", None, "no answer within 0.3 s")


async def test_an_endless_answer_is_not_read(webhooks: Webhooks) -> None:
    async def drip() -> AsyncIterator[bytes]:
        while True:
            yield b"." * 1024
            await asyncio.sleep(0)

    await webhooks.create()
    await webhooks.happen(1)
    webhooks.customer.answers.append(web.Response(body=drip()))
    async with asyncio.timeout(5):
        await webhooks.attempt()
    assert (await webhooks.delivery()).status == "delivered"


async def test_an_endpoint_that_cannot_be_reached_is_tried_again(webhooks: Webhooks) -> None:
    await webhooks.create()
    await webhooks.happen(1)
    await execute(webhooks.database, "UPDATE webhook_endpoint SET url = replace(url, '127.0.0.1', '127.0.0.2')")
    await webhooks.attempt()
    delivery = await webhooks.delivery()
    assert (delivery.status, delivery.reason) == ("pending", "no connection (ClientConnectorError)")


async def test_a_destination_that_has_become_forbidden_is_refused_at_delivery_too(webhooks: Webhooks) -> None:
    await webhooks.create()
    await webhooks.happen(1)
    port = webhooks.customer.port
    egress = EgressSettings(allow_insecure=True, allowed_ports=(port,))
    webhooks.sender = WebhookSender(webhook_settings(port, egress=egress))
    await webhooks.attempt()
    await webhooks.sender.close()
    delivery = await webhooks.delivery()
    assert (delivery.status, delivery.reason) == ("pending", "we cannot send there: its address is loopback")
    assert webhooks.customer.arrived == []


async def test_a_name_that_leads_inside_by_the_time_of_the_delivery_is_refused(webhooks: Webhooks) -> None:
    class Rebound(ThreadedResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            assert host == "harmless.example"
            return await super().resolve("127.0.0.1", port, family)

    await webhooks.create()
    await webhooks.happen(1)
    await execute(webhooks.database, "UPDATE webhook_endpoint SET url = replace(url, '127.0.0.1', 'harmless.example')")
    port = webhooks.customer.port
    egress = EgressSettings(allow_insecure=True, allowed_ports=(port,))
    webhooks.sender = WebhookSender(webhook_settings(port, egress=egress), resolver=Rebound())
    await webhooks.attempt()
    await webhooks.sender.close()
    assert (await webhooks.delivery()).reason == "we cannot send there: its host has no public address"
    assert webhooks.customer.arrived == []


async def test_a_name_that_is_no_more_is_told_as_one_that_leads_inside(webhooks: Webhooks) -> None:
    """Or a client's own name, led on to one of ours, would tell whether that is there."""
    await webhooks.create()
    await webhooks.happen(1)
    await execute(webhooks.database, "UPDATE webhook_endpoint SET url = replace(url, '127.0.0.1', 'gone.invalid')")
    await webhooks.attempt()
    assert (await webhooks.delivery()).reason == "we cannot send there: its host has no public address"


async def test_attempts_are_counted_by_result(webhooks: Webhooks) -> None:
    def counted() -> dict[str, float]:
        samples = [sample for metric in webhook_delivery_attempts.collect() for sample in metric.samples]
        return {sample.labels["result"]: sample.value for sample in samples if sample.name.endswith("_total")}

    before = counted()
    await webhooks.create()
    await webhooks.happen(1)
    webhooks.customer.answer(500)
    await webhooks.attempt()
    await webhooks.pass_time()
    await webhooks.attempt()
    after = counted()
    assert {name: after[name] - before.get(name, 0) for name in ("failed", "delivered")} == {
        "failed": 1,
        "delivered": 1,
    }


# In order


async def test_a_later_delivery_waits_for_an_earlier_one_and_uses_up_no_attempts(webhooks: Webhooks) -> None:
    await webhooks.create()
    order_id = await webhooks.happen(1)
    webhooks.customer.answer(500)
    await webhooks.attempt()
    await webhooks.happen(2, 3, order_id=order_id)
    await webhooks.work()
    assert webhooks.customer.types == ["order.placed"]
    found = await rows(webhooks.database, "SELECT attempts FROM webhook_delivery ORDER BY sequence")
    assert [row.attempts for row in found] == [1, 0, 0]
    await webhooks.pass_time()
    await webhooks.work()
    assert webhooks.customer.types == ["order.placed", "order.placed", "order.confirmed", "order.cancelled"]
    assert await count(webhooks.database, "job") == 0


async def test_a_dead_delivery_lets_the_next_one_go(webhooks: Webhooks) -> None:
    await webhooks.create()
    await webhooks.happen(1, 2)
    await die(webhooks)
    await webhooks.work()
    assert await states(webhooks) == [("placed", "dead"), ("confirmed", "delivered")]


async def test_one_endpoints_trouble_is_not_anothers(webhooks: Webhooks) -> None:
    await webhooks.create(url=f"http://127.0.0.2:{webhooks.customer.port}/")
    await webhooks.create()
    await webhooks.happen(1, 2)
    await webhooks.work()
    assert webhooks.customer.types == ["order.placed", "order.confirmed"]


async def test_jobs_of_one_endpoint_that_run_at_once_send_each_delivery_once_and_in_order(webhooks: Webhooks) -> None:
    await webhooks.create()
    await webhooks.happen(1, 2, 3)
    await webhooks.happen(1, 2, 3)

    async def is_done() -> bool:
        due: int = (await one(webhooks.database, "SELECT count(*) AS jobs FROM job WHERE status = 'ready'")).jobs
        await execute(webhooks.database, "UPDATE job SET run_at = now() WHERE status = 'ready'")
        await execute(webhooks.database, "DELETE FROM job WHERE name = 'send_mail'")
        await asyncio.gather(*(webhooks.attempt() for _ in range(min(3, due))), return_exceptions=True)
        return due == 0

    await eventually(is_done)
    expected = [
        row.event_type for row in await rows(webhooks.database, "SELECT * FROM webhook_delivery ORDER BY sequence")
    ]
    assert webhooks.customer.types == expected
    assert len(expected) == 6
    assert {state for _, state in await states(webhooks)} == {"delivered"}


# Crashes


async def test_an_attempt_whose_worker_died_is_made_again_once_its_lease_is_over(webhooks: Webhooks) -> None:
    await webhooks.create()
    await webhooks.happen(1)
    webhooks.customer.hangs = True
    running = asyncio.create_task(webhooks.attempt())
    await webhooks.customer.has_arrived.wait()
    running.cancel()
    await asyncio.wait([running])
    webhooks.customer.hangs = False
    await execute(webhooks.database, "UPDATE job SET status = 'ready'")  # as the reaper does
    assert await webhooks.attempt() is None
    assert len(webhooks.customer.arrived) == 1, "the lost attempt may still be under way"
    assert await webhooks.pass_time() > 0
    assert await webhooks.attempt() is None
    assert len({arrived.webhook_id for arrived in webhooks.customer.arrived}) == 1
    delivery = await webhooks.delivery()
    assert (delivery.status, delivery.attempts) == ("delivered", 2)


async def test_a_worker_that_lost_its_lease_records_nothing(webhooks: Webhooks) -> None:
    await webhooks.create()
    await webhooks.happen(1)

    async def lose() -> None:
        await webhooks.customer.has_arrived.wait()
        await execute(webhooks.database, "UPDATE job SET attempt = attempt + 1")

    loser = asyncio.create_task(lose())
    webhooks.customer.hangs = True
    outcome = await webhooks.attempt()
    await loser
    assert isinstance(outcome, LeaseLost)
    delivery = await webhooks.delivery()
    assert (delivery.status, delivery.reason) == ("pending", None)


async def test_an_attempt_that_was_given_up_for_lost_does_not_overrule_the_one_after_it(webhooks: Webhooks) -> None:
    await webhooks.create()
    await webhooks.happen(1)

    async def begin_another() -> None:
        await webhooks.customer.has_arrived.wait()
        await execute(webhooks.database, "UPDATE webhook_delivery SET attempts = attempts + 1")

    another = asyncio.create_task(begin_another())
    webhooks.customer.hangs = True
    assert await webhooks.attempt() is None
    await another
    delivery = await webhooks.delivery()
    assert (delivery.status, delivery.reason, delivery.attempts) == ("pending", None, 2)
    assert await job_statuses(webhooks.database, "deliver_webhook") == ["ready"], "it looks after the other one"


# Given up, and asked for again


async def test_a_redelivered_one_has_its_id_and_all_its_attempts_and_goes_last(webhooks: Webhooks) -> None:
    await webhooks.create()
    await webhooks.happen(1)
    await die(webhooks)
    webhooks.customer.arrived.clear()
    dead = await webhooks.delivery()
    await webhooks.happen(1, 2)
    path = f"deliveries/{dead.id}/redeliver"
    answer = await webhooks.call("POST", path)
    assert answer.status_code == 202
    assert answer.json().items() >= {"id": str(dead.id), "status": "pending", "attempts": 0, "settled_at": None}.items()
    assert (await webhooks.call("POST", path)).json() == answer.json()
    await webhooks.work()
    arrived = [(a.webhook_id == str(dead.id), a.type) for a in webhooks.customer.arrived]
    assert arrived == [(False, "order.placed"), (False, "order.confirmed"), (True, "order.placed")]
    assert (await webhooks.call("POST", path)).status_code == 409


async def test_a_delivery_to_a_disabled_endpoint_cannot_be_asked_for_again(webhooks: Webhooks) -> None:
    endpoint = await webhooks.create()
    await webhooks.happen(1)
    await die(webhooks)
    await webhooks.call("PATCH", f"webhook-endpoints/{endpoint['id']}", json={"enabled": False})
    answer = await webhooks.call("POST", f"deliveries/{(await webhooks.delivery()).id}/redeliver")
    assert (answer.status_code, (await webhooks.delivery()).status) == (409, "dead")


# Shown


async def test_the_list_comes_in_pages_newest_first_and_can_be_filtered(webhooks: Webhooks) -> None:
    first, second = await webhooks.create(), await webhooks.create(events=["order.placed"])
    webhooks.customer.answer(500)
    for _ in range(3):
        await webhooks.happen(1)
    await webhooks.work()
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for size in (4, 2):
        page = (await webhooks.call("GET", "deliveries", params={"limit": "4"} | cursor)).json()
        assert len(page["items"]) == size
        seen += [item["id"] for item in page["items"]]
        cursor = {"cursor": page["next_cursor"]}
    assert page["next_cursor"] is None
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == 6

    async def listed(**query: str) -> set[tuple[str, str]]:
        items = (await webhooks.call("GET", "deliveries", params=query)).json()["items"]
        return {(item["endpoint_id"], item["status"]) for item in items}

    assert await listed(endpoint_id=second["id"]) == {(second["id"], "delivered")}
    assert await listed(endpoint_id=first["id"], status="pending") == {(first["id"], "pending")}
    assert await listed(status="dead") == set()


async def test_a_delivery_tells_its_client_why_it_failed_and_when_it_goes_on(webhooks: Webhooks) -> None:
    await webhooks.create()
    await webhooks.happen(1)
    webhooks.customer.answer(500)
    await webhooks.attempt()
    delivery_id = (await webhooks.delivery()).id
    shown = (await webhooks.call("GET", f"deliveries/{delivery_id}")).json()
    assert (shown["attempts"], shown["last_status"], shown["reason"]) == (1, 500, "answered 500")
    assert shown["next_attempt_at"] > shown["created_at"]
    await webhooks.pass_time()
    await webhooks.attempt()
    shown = (await webhooks.call("GET", f"deliveries/{delivery_id}")).json()
    assert (shown["status"], shown["reason"], shown["next_attempt_at"]) == ("delivered", None, None)


async def test_another_clients_deliveries_are_as_good_as_not_there(webhooks: Webhooks) -> None:
    await webhooks.create()
    await webhooks.happen(1)
    await die(webhooks)
    delivery_id = (await webhooks.delivery()).id
    assert (await webhooks.call("GET", "deliveries", client=OTHER_SHOP)).json()["items"] == []
    assert (await webhooks.call("GET", f"deliveries/{delivery_id}", client=OTHER_SHOP)).status_code == 404
    assert (await webhooks.call("POST", f"deliveries/{delivery_id}/redeliver", client=OTHER_SHOP)).status_code == 404
    assert (await webhooks.delivery()).status == "dead"
