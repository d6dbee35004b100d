"""The oracle: a clean world passes, and each kind of violation, planted alone, is named with the offending id.

The databases are those of the four services, migrated; ledger and mailbox are served by a small HTTP server.
"""

import ast
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import asyncpg
import oracle
import pytest
from aiohttp import web
from holdfast_local.audit import audit_running, run_oracle
from holdfast_local.errors import RunnerError
from holdfast_local.installation import Installation
from holdfast_local.ports import free_port
from holdfast_local.runs import ProcessRecord, RunRecord
from holdfast_local.settings import LocalSettings
from oracle import observing
from oracle.cli import app, examine
from oracle.quiet import Terms
from oracle.sources import NoVerdict, Sources
from typer.testing import CliRunner, Result

PACKAGES = {
    "orders": "orders",
    "payments": "payments",
    "notifications": "notifications",
    "webhook-ingest": "webhook_ingest",
}
TABLES = {
    "orders": ("order_line", "orders"),
    "payments": ("charge_attempt", "payment"),
    "notifications": ("webhook_delivery", "webhook_endpoint", "mail", "order_progress"),
    "webhook-ingest": ("provider_event",),
}
MECHANICS = ("job", "outbox", "inbox", "dead_event", "idempotency_record")
STREAMS = {"orders": "events:orders", "payments": "events:payments", "webhook-ingest": "events:webhook-ingest"}
CONSUMERS = {"orders": "notifications", "payments": "orders", "webhook-ingest": "payments"}

ONE_ORDER = "one order per client and idempotency key"
ONE_CAPTURE = "at most one captured charge per order"
NO_GAPS = "event versions have no gaps"
COPIES = "copies of a mail at most 1 + crashes (0)"
STUCK = "nothing is stuck"
LEFT_OPEN = "no order, payment or mail is left open"
DEAD = "no dead letters"
CHARGED_ONCE = "a confirmed order has exactly one unrefunded charge"
MONEY = "charges − refunds = what orders say was paid"
LEDGER = "payments agrees with the provider's ledger"
AMOUNTS = "amounts and currencies agree everywhere"
WEBHOOKS = "acknowledged provider events are processed"
ARRIVAL = "published events reach their consumer"
MAILS = "each order event is mailed under one Message-ID"
LISTENERS = "each order event has one delivery per endpoint that listens"
DELIVERED = "a webhook counts as delivered where its customer has it"


@dataclass(kw_only=True)
class Outside:
    """The provider's ledger, the mailbox and the customer's endpoint."""

    url: str = ""
    charges: list[dict[str, object]] = field(default_factory=list)
    refunds: list[dict[str, object]] = field(default_factory=list)
    events: list[dict[str, object]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    received: list[dict[str, object]] = field(default_factory=list)
    looked_at: asyncio.Event = field(default_factory=asyncio.Event)

    async def ledger(self, _request: web.Request) -> web.Response:
        return web.json_response({"charges": self.charges, "refunds": self.refunds, "events": self.events})

    async def mailbox(self, _request: web.Request) -> web.Response:
        self.looked_at.set()
        return web.json_response([{"message_id": message_id} for message_id in self.messages])

    async def customer(self, _request: web.Request) -> web.Response:
        return web.json_response(self.received)


@dataclass(kw_only=True)
class PlantedOrder:
    key: str
    id: str = field(default_factory=lambda: str(uuid4()))
    payment_id: str = field(default_factory=lambda: str(uuid4()))
    charge_id: str = field(default_factory=lambda: f"ch_{uuid4().hex}")
    events: list[str] = field(default_factory=list)


class PlantedWorld:
    """Three orders that went their ways: confirmed, declined, and confirmed but later cancelled and refunded."""

    def __init__(self, connections: dict[str, asyncpg.Connection], outside: Outside) -> None:
        self.connections = connections
        self.outside = outside
        self.confirmed, self.declined = PlantedOrder(key="k1"), PlantedOrder(key="k2")
        self.refunded = PlantedOrder(key="k3")
        self.endpoint_id = str(uuid4())

    async def execute(self, service: str, statement: str, *values: object) -> None:
        await self.connections[service].execute(statement, *values)

    async def clear(self) -> None:
        for service, tables in TABLES.items():
            for table in (*tables, *MECHANICS):
                await self.execute(service, f"DELETE FROM {table}")
        for rows in (self.outside.charges, self.outside.refunds, self.outside.events, self.outside.messages):
            rows.clear()
        self.outside.received.clear()
        self.outside.looked_at.clear()

    async def plant(self) -> None:
        await self.endpoint(self.endpoint_id)
        await self.place(self.confirmed, "confirmed", "captured", ["placed", "confirmed"])
        await self.place(self.declined, "cancelled", "failed", ["placed", "cancelled"])
        await self.place(self.refunded, "cancelled", "refunded", ["placed", "confirmed", "cancelled"])

    async def place(self, order: PlantedOrder, status: str, payment_status: str, events: list[str]) -> None:
        paid = 5000 if status == "confirmed" else 0
        version = 2 if payment_status == "refunded" else 1
        await self.order(order, status, paid=paid, version=len(events))
        await self.execute(
            "orders",
            "INSERT INTO idempotency_record (client, key, fingerprint, status, body) VALUES ('acme', $1, '', 201, $2)",
            order.key,
            json.dumps({"id": order.id}).encode(),
        )
        for number, event in enumerate(events, 1):
            event_id = await self.publish("orders", f"order.{event}", order.id, number)
            order.events.append(event_id)
            await self.mail(event_id, order.id, number)
        await self.execute(
            "payments",
            "INSERT INTO payment (id, order_id, amount, currency, payment_method, status, provider_charge_id, version)"
            " VALUES ($1, $2, 5000, 'EUR', 'pm', $3, $4, $5)",
            order.payment_id,
            order.id,
            payment_status,
            order.charge_id,
            version,
        )
        for number, event in enumerate(["captured", "refunded"][:version], 1):
            await self.publish("payments", f"payment.{event}", order.payment_id, number)
        await self.charge(order, "failed" if payment_status == "failed" else "captured")
        if payment_status == "refunded":
            self.refund(order)

    async def order(self, order: PlantedOrder, status: str, *, paid: int, version: int) -> None:
        await self.execute(
            "orders",
            "INSERT INTO orders (id, client_id, idempotency_key, customer_email, status, amount, currency,"
            " payment_method, payment_id, paid_amount, version)"
            " VALUES ($1, 'acme', $2, 'ann@example.org', $3, 5000, 'EUR', 'pm', $4, $5, $6)",
            order.id,
            order.key,
            status,
            order.payment_id,
            paid,
            version,
        )

    async def publish(self, service: str, kind: str, aggregate: str, version: int) -> str:
        event_id = str(uuid4())
        await self.execute(
            service,
            "INSERT INTO outbox (event_id, stream, type, schema, aggregate_id, aggregate_version, payload,"
            " published_at) VALUES ($1, $2, $3, 1, $4, $5, '{}', now())",
            event_id,
            STREAMS[service],
            kind,
            aggregate,
            version,
        )
        consumer = CONSUMERS[service]
        await self.execute(consumer, "INSERT INTO inbox (consumer, event_id) VALUES ($1, $2)", consumer, event_id)
        return event_id

    async def mail(self, event_id: str, order_id: str, version: int) -> None:
        await self.execute(
            "notifications",
            "INSERT INTO mail (event_id, order_id, version, client_id, event_type, recipient, subject, text, status)"
            " VALUES ($1, $2, $3, 'acme', 'order', 'ann@example.org', '', '', 'sent')",
            event_id,
            order_id,
            version,
        )
        self.outside.messages.append(message_id(event_id))
        delivery_id = await self.deliver(event_id, order_id)
        self.arrive(delivery_id, event_id)

    async def endpoint(self, endpoint_id: str, path: str = "/webhooks/acme") -> None:
        await self.execute(
            "notifications",
            "INSERT INTO webhook_endpoint (id, client_id, url, events, secret, updated_at)"
            " VALUES ($1, 'acme', $2, '{order}', 'whsec_', now() - interval '1 hour')",
            endpoint_id,
            f"{self.outside.url}{path}",
        )

    async def deliver(self, event_id: str, order_id: str, status: str = "delivered", due: str = "now()") -> str:
        return await self.connections["notifications"].fetchval(
            "INSERT INTO webhook_delivery"
            " (endpoint_id, client_id, event_id, event_type, order_id, body, status, next_attempt_at)"
            f" VALUES ($1, 'acme', $2, 'order', $3, '', $4, {due}) RETURNING id::text",
            self.endpoint_id,
            event_id,
            order_id,
            status,
        )

    def arrive(self, webhook_id: str, event_id: str, *, status: int | None = 204, verified: bool = True) -> None:
        body = json.dumps({"id": event_id})
        self.outside.received.append({"webhook_id": webhook_id, "verified": verified, "status": status, "body": body})

    async def charge(self, order: PlantedOrder, status: str) -> None:
        """The charge in the ledger, its webhook, acknowledged, and the event that it became."""
        self.outside.charges.append(charge(order.charge_id, order.payment_id, status))
        event_id = f"evt_{uuid4().hex}"
        self.outside.events.append({"event_id": event_id, "acknowledged": True})
        row_id = str(uuid4())
        await self.webhook(event_id, "published", row_id=row_id)
        await self.publish("webhook-ingest", "provider.charge.succeeded", row_id, 1)

    async def webhook(self, event_id: str, status: str, *, row_id: str | None = None) -> None:
        await self.execute(
            "webhook-ingest",
            "INSERT INTO provider_event (id, provider, event_id, body, status, received_at)"
            " VALUES ($1, 'payment-provider', $2, '', $3, now() - interval '1 hour')",
            row_id or str(uuid4()),
            event_id,
            status,
        )

    def refund(self, order: PlantedOrder, status: str = "succeeded") -> None:
        refund = {"id": "re_1", "charge_id": order.charge_id, "status": status, "amount": 5000, "currency": "EUR"}
        self.outside.refunds.append(refund)

    async def job(self, status: str, run_at: str = "now()") -> None:
        await self.execute(
            "orders",
            "INSERT INTO job (name, queue, priority, payload, payload_version, max_attempts, status, run_at)"
            f" VALUES ('request_payment', 'default', 0, '{{}}', 1, 50, $1, {run_at})",
            status,
        )


def message_id(event_id: str) -> str:
    return f"<{event_id}@holdfast.example>"


def charge(charge_id: str, reference: str, status: str = "captured", *, amount: int = 5000, currency: str = "EUR"):
    return {"id": charge_id, "reference": reference, "status": status, "amount": amount, "currency": currency}


# One server, one set of databases, emptied and planted anew for each test.


@pytest.fixture(scope="module")
async def databases(fresh_database) -> dict[str, str]:
    settings = {service: await fresh_database(package) for service, package in PACKAGES.items()}
    return {
        service: f"postgresql://{s.user}:{s.password.get_secret_value()}@{s.host}:{s.port}/{s.name}"
        for service, s in settings.items()
    }


@pytest.fixture(scope="module")
async def connections(databases) -> AsyncIterator[dict[str, asyncpg.Connection]]:
    opened = {service: await asyncpg.connect(dsn) for service, dsn in databases.items()}
    yield opened
    for connection in opened.values():
        await connection.close()


@pytest.fixture(scope="module")
async def outside() -> AsyncIterator[Outside]:
    served = Outside()
    application = web.Application()
    application.add_routes([web.get("/ledger", served.ledger), web.get("/messages", served.mailbox)])
    application.add_routes([web.get("/received", served.customer)])
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield served
    await runner.cleanup()


@pytest.fixture
async def world(connections, outside) -> PlantedWorld:
    planted = PlantedWorld(connections, outside)
    await planted.clear()
    await planted.plant()
    return planted


@pytest.fixture
def environment(databases, outside) -> dict[str, str]:
    dsns = {f"ORACLE_{PACKAGES[service].upper()}_DSN": dsn for service, dsn in databases.items()}
    urls = dict.fromkeys(("ORACLE_PROVIDER_URL", "ORACLE_MAILBOX_URL", "ORACLE_CUSTOMER_URL"), outside.url)
    return dsns | urls


type Ask = Callable[..., Awaitable[Result]]


@pytest.fixture
def ask(environment) -> Ask:
    """The command, in a thread: the ledger and the mailbox are served by this loop."""

    async def run(*options: str, env: dict[str, str] | None = None, stdin: str | None = None) -> Result:
        variables = environment if env is None else env
        arguments = ["--wait", "0", *options]
        return await asyncio.to_thread(CliRunner().invoke, app, arguments, env=variables, input=stdin)

    return run


async def test_a_clean_world_holds(world, ask):
    result = await ask()
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert all(line.startswith("✔ holds") for line in lines[:-1])
    assert lines[-1] == "All 16 invariants hold."


async def test_counts_stand_behind_each_verdict(world, ask):
    result = await ask()
    assert "3 orders, 3 keys" in result.stdout
    assert "10,000 charged − 5,000 refunded, 5,000 paid" in result.stdout
    assert "7 order events, 7 Message-IDs, 0 dead mails" in result.stdout


async def test_an_empty_world_holds(world, ask):
    await world.clear()
    assert (await ask()).exit_code == 0


# Violations: each plants one, and returns the id to be named.

type Plant = Callable[[PlantedWorld], Awaitable[str]]
PLANTS: list[tuple[str, Plant]] = []


def violates(name: str) -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        PLANTS.append((name, plant))
        return plant

    return register


@violates(ONE_ORDER)
async def a_second_order_for_a_key(world: PlantedWorld) -> str:
    second = PlantedOrder(key=world.confirmed.key)
    await world.order(second, "cancelled", paid=0, version=1)
    # Both so old that no answer needs to be kept: they offend as a pair only.
    age = "UPDATE orders SET created_at = now() - make_interval(hours => $2) WHERE id = $1"
    await world.execute("orders", age, world.confirmed.id, 31)
    await world.execute("orders", age, second.id, 30)
    return second.id


@violates(ONE_ORDER)
async def an_answer_that_names_no_order(world: PlantedWorld) -> str:
    missing = str(uuid4())
    body = json.dumps({"id": missing}).encode()
    insert = "INSERT INTO idempotency_record VALUES ('acme', 'k9', '', 201, $1)"
    await world.execute("orders", insert, body)
    return missing


@violates(ONE_ORDER)
async def an_order_without_its_key_record(world: PlantedWorld) -> str:
    await world.execute("orders", "DELETE FROM idempotency_record WHERE key = $1", world.confirmed.key)
    return world.confirmed.id


@violates(ONE_CAPTURE)
async def a_second_captured_charge(world: PlantedWorld) -> str:
    world.outside.charges.append(charge("ch_second", world.confirmed.payment_id))
    return world.confirmed.id


@violates(NO_GAPS)
async def a_version_that_was_skipped(world: PlantedWorld) -> str:
    await world.execute("orders", "DELETE FROM outbox WHERE event_id = $1", world.refunded.events[1])
    return world.refunded.id


@violates(NO_GAPS)
async def a_last_event_that_was_never_written(world: PlantedWorld) -> str:
    await world.execute("payments", "DELETE FROM outbox WHERE aggregate_id = $1", world.confirmed.payment_id)
    return world.confirmed.payment_id


@violates(NO_GAPS)
async def an_event_of_an_order_that_was_rolled_back(world: PlantedWorld) -> str:
    ghost = str(uuid4())
    await world.publish("orders", "order.placed", ghost, 1)
    return ghost


@violates(NO_GAPS)
async def a_published_webhook_without_an_event(world: PlantedWorld) -> str:
    row_id = str(uuid4())
    await world.webhook("evt_x", "published", row_id=row_id)
    return row_id


@violates(COPIES)
async def a_second_copy_without_a_crash(world: PlantedWorld) -> str:
    copy = message_id(world.confirmed.events[0])
    world.outside.messages.append(copy)
    return copy


@violates(STUCK)
async def a_job_that_nobody_takes(world: PlantedWorld) -> str:
    await world.job("ready", "now() - interval '1 hour'")
    return "orders request_payment"


@violates(STUCK)
async def a_job_that_runs_for_ever(world: PlantedWorld) -> str:
    await world.job("running", "now() - interval '1 hour'")
    return "orders request_payment"


@violates(STUCK)
async def an_event_that_is_not_published(world: PlantedWorld) -> str:
    update = "UPDATE outbox SET published_at = NULL, occurred_at = now() - interval '1 hour' WHERE event_id = $1"
    await world.execute("orders", update, world.confirmed.events[0])
    return world.confirmed.events[0]


@violates(STUCK)
async def an_event_that_is_held_for_longer_than_a_minute(world: PlantedWorld) -> str:
    await world.execute(
        "notifications",
        "UPDATE inbox SET status = 'held', aggregate_id = 'o', aggregate_version = 2, event = '{}',"
        " received_at = now() - interval '61 seconds' WHERE event_id = $1",
        world.confirmed.events[1],
    )
    return world.confirmed.events[1]


@violates(STUCK)
async def a_webhook_that_is_only_stored(world: PlantedWorld) -> str:
    await world.webhook("evt_stored", "stored")
    return "evt_stored"


@violates(LEFT_OPEN)
async def an_order_that_stays_pending(world: PlantedWorld) -> str:
    update = "UPDATE orders SET status = 'pending', updated_at = now() - interval '1 hour' WHERE id = $1"
    await world.execute("orders", update, world.declined.id)
    return world.declined.id


@violates(LEFT_OPEN)
async def an_order_that_stays_cancelling(world: PlantedWorld) -> str:
    update = "UPDATE orders SET status = 'cancelling', updated_at = now() - interval '1 hour' WHERE id = $1"
    await world.execute("orders", update, world.refunded.id)
    return world.refunded.id


@violates(LEFT_OPEN)
async def a_payment_that_stays_submitted(world: PlantedWorld) -> str:
    update = "UPDATE payment SET status = 'submitted', created_at = now() - interval '1 hour' WHERE id = $1"
    await world.execute("payments", update, world.declined.payment_id)
    return world.declined.payment_id


@violates(LEFT_OPEN)
async def a_mail_that_stays_pending(world: PlantedWorld) -> str:
    update = "UPDATE mail SET status = 'pending', created_at = now() - interval '1 hour' WHERE event_id = $1"
    await world.execute("notifications", update, world.confirmed.events[0])
    return world.confirmed.events[0]


@violates(DEAD)
async def a_dead_job(world: PlantedWorld) -> str:
    await world.job("dead")
    return "orders job"


@violates(DEAD)
async def a_dead_event(world: PlantedWorld) -> str:
    insert = (
        "INSERT INTO dead_event (consumer, stream, entry_id, event, reason) VALUES ('orders', 's', '1-0', '{', 'x')"
    )
    await world.execute("orders", insert)
    return "orders dead event"


@violates(DEAD)
async def a_dead_mail(world: PlantedWorld) -> str:
    await world.execute(
        "notifications", "UPDATE mail SET status = 'dead' WHERE event_id = $1", world.confirmed.events[0]
    )
    return world.confirmed.events[0]


@violates(DEAD)
async def a_dead_webhook(world: PlantedWorld) -> str:
    await world.webhook("evt_dead", "dead")
    return "evt_dead"


@violates(CHARGED_ONCE)
async def a_confirmed_order_without_a_charge(world: PlantedWorld) -> str:
    world.outside.charges.remove(charge(world.confirmed.charge_id, world.confirmed.payment_id))
    return world.confirmed.id


@violates(CHARGED_ONCE)
async def a_confirmed_order_whose_refund_has_begun(world: PlantedWorld) -> str:
    world.refund(world.confirmed, "pending")
    return world.confirmed.id


@violates(MONEY)
async def an_order_that_does_not_know_it_was_paid(world: PlantedWorld) -> str:
    await world.execute("orders", "UPDATE orders SET paid_amount = 0 WHERE id = $1", world.confirmed.id)
    return world.confirmed.id


@violates(MONEY)
async def a_cancelled_order_whose_money_was_not_given_back(world: PlantedWorld) -> str:
    world.outside.refunds.clear()
    return world.refunded.id


@violates(LEDGER)
async def a_payment_that_failed_here_and_was_captured_there(world: PlantedWorld) -> str:
    await world.execute("payments", "UPDATE payment SET status = 'failed' WHERE id = $1", world.confirmed.payment_id)
    return world.confirmed.payment_id


@violates(LEDGER)
async def a_payment_that_was_refunded_without_a_charge(world: PlantedWorld) -> str:
    forget = "UPDATE payment SET provider_charge_id = NULL WHERE id = $1"
    await world.execute("payments", forget, world.refunded.payment_id)
    world.outside.charges[:] = [c for c in world.outside.charges if c["id"] != world.refunded.charge_id]
    world.outside.refunds.clear()
    return world.refunded.payment_id


@violates(LEDGER)
async def a_payment_that_names_a_charge_of_another(world: PlantedWorld) -> str:
    update = "UPDATE payment SET provider_charge_id = $2 WHERE id = $1"
    await world.execute("payments", update, world.declined.payment_id, world.confirmed.charge_id)
    return world.declined.payment_id


@violates(LEDGER)
async def a_charge_that_nobody_asked_for(world: PlantedWorld) -> str:
    world.outside.charges.append(charge("ch_stray", str(uuid4())))
    return "ch_stray"


@violates(AMOUNTS)
async def a_payment_over_another_amount(world: PlantedWorld) -> str:
    await world.execute("payments", "UPDATE payment SET amount = 1 WHERE id = $1", world.declined.payment_id)
    return world.declined.id


@violates(AMOUNTS)
async def a_charge_in_another_currency(world: PlantedWorld) -> str:
    world.outside.charges[0]["currency"] = "USD"
    return world.confirmed.charge_id


@violates(AMOUNTS)
async def a_refund_in_another_currency(world: PlantedWorld) -> str:
    world.outside.refunds[0]["currency"] = "USD"
    return "re_1"


@violates(AMOUNTS)
async def a_confirmed_order_without_a_payment(world: PlantedWorld) -> str:
    await world.execute("payments", "DELETE FROM payment WHERE id = $1", world.confirmed.payment_id)
    return world.confirmed.id


@violates(AMOUNTS)
async def a_payment_of_no_order(world: PlantedWorld) -> str:
    other = str(uuid4())
    await world.execute("payments", "UPDATE payment SET id = $2 WHERE id = $1", world.declined.payment_id, other)
    return other


@violates(WEBHOOKS)
async def an_acknowledged_webhook_that_was_lost(world: PlantedWorld) -> str:
    world.outside.events.append({"event_id": "evt_lost", "acknowledged": True})
    return "evt_lost"


@violates(ARRIVAL)
async def an_event_that_its_consumer_never_got(world: PlantedWorld) -> str:
    await world.execute("notifications", "DELETE FROM inbox WHERE event_id = $1", world.confirmed.events[1])
    update = "UPDATE outbox SET published_at = now() - interval '1 hour' WHERE event_id = $1"
    await world.execute("orders", update, world.confirmed.events[1])
    return world.confirmed.events[1]


@violates(MAILS)
async def an_order_event_without_a_mail(world: PlantedWorld) -> str:
    world.outside.messages.remove(message_id(world.confirmed.events[1]))
    return world.confirmed.id


@violates(MAILS)
async def a_mail_under_a_second_message_id(world: PlantedWorld) -> str:
    world.outside.messages.append(f"<{world.confirmed.events[1]}@other.example>")
    return world.confirmed.id


@violates(MAILS)
async def a_mail_about_what_never_happened(world: PlantedWorld) -> str:
    ghost = str(uuid4())
    await world.mail(ghost, str(uuid4()), 1)
    return message_id(ghost)


@violates(LISTENERS)
async def an_event_that_a_listener_was_not_told_of(world: PlantedWorld) -> str:
    await world.execute("notifications", "DELETE FROM webhook_delivery WHERE event_id = $1", world.confirmed.events[1])
    return world.confirmed.events[1]


@violates(DELIVERED)
async def a_delivery_that_never_arrived(world: PlantedWorld) -> str:
    return str(world.outside.received.pop()["webhook_id"])


@violates(DELIVERED)
async def a_delivery_that_was_only_refused(world: PlantedWorld) -> str:
    world.outside.received[-1]["status"] = 500
    return str(world.outside.received[-1]["webhook_id"])


@violates(DELIVERED)
async def a_delivery_that_did_not_verify(world: PlantedWorld) -> str:
    world.outside.received[-1]["verified"] = False
    return str(world.outside.received[-1]["webhook_id"])


@violates(DELIVERED)
async def an_accepted_delivery_that_is_dead(world: PlantedWorld) -> str:
    webhook_id = str(world.outside.received[-1]["webhook_id"])
    await world.execute("notifications", "UPDATE webhook_delivery SET status = 'dead' WHERE id = $1", webhook_id)
    return webhook_id


@violates(DELIVERED)
async def an_event_under_a_second_webhook_id(world: PlantedWorld) -> str:
    second = str(uuid4())
    world.arrive(second, world.confirmed.events[1])
    return second


@violates(DELIVERED)
async def a_webhook_that_tells_of_another_event(world: PlantedWorld) -> str:
    webhook_id = str(world.outside.received[-1]["webhook_id"])
    world.arrive(webhook_id, str(uuid4()))
    return webhook_id


@violates(STUCK)
async def a_delivery_that_nobody_makes(world: PlantedWorld) -> str:
    return await world.deliver(str(uuid4()), world.confirmed.id, "pending", due="now() - interval '1 hour'")


@pytest.mark.parametrize(("name", "plant"), PLANTS, ids=[plant.__name__ for _, plant in PLANTS])
async def test_a_planted_violation_is_named_with_the_offending_id(world, ask, name, plant):
    offender = await plant(world)
    result = await ask("--json")
    assert result.exit_code == 1, result.output
    findings = {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert findings[name]["verdict"] == "violated"
    assert any(named["id"].startswith(offender) for named in findings[name]["offenders"]), findings[name]


async def test_each_invariant_has_a_planted_violation(world, ask):
    names = [finding["name"] for finding in json.loads((await ask("--json")).stdout)["findings"]]
    assert {name for name, _ in PLANTS} == set(names)
    assert len(names) == len(set(names))


# What is no violation.


async def test_a_crash_allows_one_more_copy_of_each_mail_and_no_third(world, ask):
    messages = world.outside.messages
    messages += [messages[0], messages[1]]
    assert (await ask("--crashes", "1")).exit_code == 0
    messages.append(messages[0])
    assert (await ask("--crashes", "1")).exit_code == 1


async def test_dead_letters_can_be_allowed_and_are_still_counted(world, ask):
    await world.job("dead")
    result = await ask("--allow-dead")
    assert result.exit_code == 0
    assert "1 dead letter (allowed)" in result.stdout


async def test_a_delivery_that_was_repeated_because_its_answer_was_lost_is_none(world, ask):
    webhook_id, event_id = str(world.outside.received[0]["webhook_id"]), world.confirmed.events[0]
    world.arrive(webhook_id, event_id, status=None)
    world.arrive(webhook_id, event_id)
    assert (await ask()).exit_code == 0


async def test_a_delivery_that_waits_for_its_customer_is_none_nor_those_behind_it(world, ask):
    await world.deliver(str(uuid4()), world.confirmed.id, "pending", due="now() + interval '1 hour'")
    await world.deliver(str(uuid4()), world.confirmed.id, "pending", due="now() - interval '1 hour'")
    assert (await ask()).exit_code == 0


async def test_of_customers_who_cannot_be_asked_only_our_side_is_judged(world, ask, environment):
    world.outside.received.clear()
    assert (await ask()).exit_code == 1
    del environment["ORACLE_CUSTOMER_URL"]
    assert (await ask(env=environment)).exit_code == 0


async def test_a_dead_mail_need_not_arrive(world, ask):
    await a_dead_mail(world)
    world.outside.messages.remove(message_id(world.confirmed.events[0]))
    assert (await ask("--allow-dead")).exit_code == 0


async def test_a_key_may_be_used_again_after_a_day(world, ask):
    await world.execute("orders", "UPDATE orders SET created_at = now() - interval '25 hours'")
    again = PlantedOrder(key=world.confirmed.key)
    await world.execute("orders", "DELETE FROM idempotency_record WHERE key = $1", again.key)
    await world.place(again, "cancelled", "failed", ["placed", "cancelled"])
    result = await ask()
    assert result.exit_code == 0, result.output


async def test_events_older_than_their_retention_may_be_forgotten(world, ask):
    await world.execute("orders", "UPDATE orders SET created_at = now() - interval '8 days'")
    await world.execute("orders", "DELETE FROM outbox WHERE event_id = $1", world.refunded.events[0])
    unchanged = "UPDATE orders SET updated_at = created_at WHERE id = $1"
    await world.execute("orders", unchanged, world.confirmed.id)
    await world.execute("orders", "DELETE FROM outbox WHERE aggregate_id = $1", world.confirmed.id)
    result = await ask()
    assert result.exit_code == 0, result.output


async def test_a_webhook_that_was_never_acknowledged_is_the_providers_to_send_again(world, ask):
    world.outside.events.append({"event_id": "evt_dropped", "acknowledged": False})
    assert (await ask()).exit_code == 0


async def test_a_job_for_later_is_not_due(world, ask):
    await world.job("ready", "now() + interval '1 hour'")
    assert (await ask()).exit_code == 0


# Waiting, and not being able to judge.


async def test_it_waits_until_nothing_is_under_way(world, ask):
    await world.job("ready")
    asking = asyncio.create_task(ask("--wait", "30"))
    await world.outside.looked_at.wait()
    assert not asking.done()
    await world.execute("orders", "DELETE FROM job")
    result = await asking
    assert result.exit_code == 0, result.output


async def test_a_platform_that_does_not_come_to_rest_gets_no_verdict(world, ask):
    await world.job("ready")
    world.outside.messages.clear()  # a violation only once it is quiet
    result = await ask()
    assert result.exit_code == 2
    assert "– not judged 9 more, which need quiet: 1 job under way" in result.stdout
    assert "No verdict" in result.stdout


async def test_what_holds_at_every_moment_is_judged_without_quiet(world, ask):
    await world.job("ready")
    await a_second_captured_charge(world)
    result = await ask()
    assert result.exit_code == 1
    assert world.confirmed.id in result.stdout


async def test_two_looks_that_differ_are_not_quiet(world, environment, monkeypatch):
    sources = Sources.load(None, environment)
    monkeypatch.setattr(observing, "_message_ids", lambda _: (str(uuid4()),))
    report = await examine(sources, Terms(), wait=0)
    assert report.moving == "one look differs from the next"


async def test_everything_that_cannot_be_reached_is_named_without_a_traceback_or_a_password(world, ask, environment):
    wrong = environment | {
        "ORACLE_ORDERS_DSN": environment["ORACLE_ORDERS_DSN"].replace("only-for-tests", "guessed"),
        "ORACLE_PAYMENTS_DSN": "postgresql://me:secr/et@127.0.0.1:1/payments",
        "ORACLE_PROVIDER_URL": "http://127.0.0.1:1",
        "ORACLE_MAILBOX_URL": f"{environment['ORACLE_MAILBOX_URL']}/nowhere",
    }
    result = await ask(env=wrong)
    assert result.exit_code == 2
    for source in ("database of orders", "database of payments", "provider's ledger", "mailbox"):
        assert f"cannot read the {source}" in result.stderr
    assert "it answered 404" in result.stderr
    assert not [secret for secret in ("guessed", "secr", "Traceback") if secret in result.output]


async def test_a_database_that_was_not_migrated_is_named(world, ask, environment, postgres):
    result = await ask(env=environment | {"ORACLE_ORDERS_DSN": postgres.dsn})
    assert result.exit_code == 2
    assert 'relation "orders" does not exist' in result.stderr


async def test_a_ledger_of_another_shape_is_named(world, ask):
    world.outside.charges.append({"id": "ch_1"})
    result = await ask()
    assert result.exit_code == 2
    assert "cannot read the provider's ledger" in result.stderr


async def test_no_verdict_is_said_in_json_too(world, ask):
    result = await ask("--json", env={})
    assert result.exit_code == 2
    assert json.loads(result.stdout)["verdict"] == "none"


async def test_it_cannot_write(databases, world):
    with pytest.raises(NoVerdict, match="read-only transaction"):
        await observing._read(databases["orders"], "orders", lambda c: c.execute("DELETE FROM orders"))


# How it is told where to ask, and what it prints.


async def test_a_file_or_stdin_tells_it_where_to_ask_and_variables_override_it(world, ask, environment, tmp_path):
    values = {name.removeprefix("ORACLE_").lower(): value for name, value in environment.items()}
    text = "\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items())
    config = tmp_path / "oracle.toml"
    config.write_text(text)
    assert (await ask("--config", str(config), env={})).exit_code == 0
    assert (await ask("--config", "-", env={}, stdin=text)).exit_code == 0
    assert (await ask("--config", str(config), env={"ORACLE_MAILBOX_URL": "http://127.0.0.1:1"})).exit_code == 2


async def test_what_is_missing_or_unknown_in_the_configuration_is_named(ask, tmp_path):
    config = tmp_path / "oracle.toml"
    config.write_text('mailbox = "http://127.0.0.1"')
    assert "unknown keys: mailbox" in (await ask("--config", str(config), env={})).stderr
    assert "set ORACLE_ORDERS_DSN, or orders_dsn in --config" in (await ask(env={})).stderr
    assert "cannot read" in (await ask("--config", str(tmp_path / "absent.toml"), env={})).stderr


async def test_five_offenders_are_named_and_the_rest_counted(world, ask):
    for _ in range(7):
        await world.job("dead")
    result = await ask()
    assert result.stdout.count("request_payment is dead") == 5
    assert "… and 2 more" in result.stdout


async def test_piped_output_has_no_colour_and_no_folded_line(world, ask):
    await a_mail_under_a_second_message_id(world)
    result = await ask()
    assert "\x1b" not in result.stdout
    assert all(line[0] in "✔✘– V" for line in result.stdout.splitlines())


def test_the_runner_hands_over_where_to_ask(tmp_path, capfd):
    ports = {name: free_port() for name in ("postgres_port", "payment_provider_port", "mailbox_port")}
    installation = Installation.load(LocalSettings(state=tmp_path, **ports))
    record = RunRecord(runner=ProcessRecord(pid=1, created=0), since=datetime.now(UTC))
    assert run_oracle(installation, record) == 2
    told = capfd.readouterr().err
    assert "cannot read the database of webhook-ingest" in told
    assert f"cannot read the mailbox at http://127.0.0.1:{ports['mailbox_port']}" in told


def test_the_runner_asks_only_about_a_platform_that_runs(tmp_path):
    with pytest.raises(RunnerError, match="not running"):
        audit_running(LocalSettings(state=tmp_path), [])


def test_the_judge_imports_nothing_of_whom_it_judges():
    allowed = {"oracle", "asyncpg", "aiohttp", "rich", "typer"} | sys.stdlib_module_names
    for module in Path(oracle.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= allowed, module.name
