"""The crash points of an order's life: docs/reference/crash-points.md tells what becomes of each."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

import scenarios
from crash_stage import Act

type Scenario = Callable[[Act], Awaitable[None]]

_AROUND_COMMIT = ("uncommitted", "committed")
_JOB = ("claimed", *_AROUND_COMMIT)
_REQUEST = (*_AROUND_COMMIT, "answered")


@dataclass(frozen=True, slots=True)
class Point:
    """Where `program` dies, and what brings it there."""

    name: str
    program: str
    scenario: Scenario

    def __str__(self) -> str:
        return f"{self.program}: {self.name}"


def _at(program: str, step: str, places: Sequence[str], scenario: Scenario) -> Iterator[Point]:
    for place in places:
        yield Point(f"{step} {place}", program, scenario)


def _orders() -> Iterator[Point]:
    api, worker = "orders-api", "orders-worker"
    yield from _at(api, "orders-api place_order", _REQUEST, scenarios.bought)
    yield Point("request_payment claimed", worker, scenarios.bought)
    yield from _at(worker, "request_payment", _AROUND_COMMIT, scenarios.settled_unheard)
    yield Point("request_payment under way", worker, scenarios.silent_payments)
    yield from _at(worker, "payment.captured", _AROUND_COMMIT, scenarios.bought)
    yield from _at(worker, "payment.failed", _AROUND_COMMIT, scenarios.declined)
    yield from _at(api, "orders-api cancel_order", _REQUEST, scenarios.called_off)
    yield from _at(worker, "settle_payment", _JOB, scenarios.called_off)
    yield Point("settle_payment under way", worker, scenarios.silent_payments_when_called_off)
    yield Point("jobs returned", worker, scenarios.called_off_at_once)
    yield from _at(worker, "payment.canceled", _AROUND_COMMIT, scenarios.called_off_at_once)
    yield from _at(worker, "payment.refunded", _AROUND_COMMIT, scenarios.called_off)
    yield from _at(worker, "dead event", _AROUND_COMMIT, scenarios.unreadable_event)
    yield from _at(worker, "dead event taken", _AROUND_COMMIT, scenarios.dead_event_replayed)
    yield from _at(worker, "dead event forgotten", _AROUND_COMMIT, scenarios.dead_event_replayed)
    yield from _at(worker, "orders sweep", _AROUND_COMMIT, scenarios.order_without_a_job)
    yield from _at(worker, "orders expire_orders", _AROUND_COMMIT, scenarios.order_past_its_limit)


def _payments() -> Iterator[Point]:
    api, worker = "payments-api", "payments-worker"
    yield from _at(api, "payments-api request_payment", _REQUEST, scenarios.bought)
    yield from _at(api, "payments-api refund_payment", _REQUEST, scenarios.called_off)
    yield from _at(worker, "charge_payment attempt", ["committed"], scenarios.bought)
    yield Point("charge_payment under way", worker, scenarios.slow_provider)
    yield from _at(worker, "charge_payment not run", _AROUND_COMMIT, scenarios.unreachable_provider)
    yield from _at(worker, "charge_payment", _JOB, scenarios.bought)
    yield from _at(worker, "provider.charge.succeeded", _AROUND_COMMIT, scenarios.bought)
    yield from _at(worker, "provider.charge.failed", _AROUND_COMMIT, scenarios.failing_later)
    yield from _at(worker, "make_refund", _JOB, scenarios.called_off)
    yield Point("make_refund under way", worker, scenarios.slow_refund)
    yield from _at(worker, "provider.refund.succeeded", _AROUND_COMMIT, scenarios.called_off)
    yield from _at(worker, "provider.refund.failed", _AROUND_COMMIT, scenarios.failing_refund)
    yield from _at(worker, "reconcile_charge", _JOB, scenarios.unreported)
    yield from _at(worker, "reconcile_refund", _JOB, scenarios.unreported_refund)
    yield from _at(worker, "payments sweep", _AROUND_COMMIT, scenarios.payment_without_a_job)
    yield from _at(worker, "jobs retry", _AROUND_COMMIT, scenarios.provider_away)
    yield from _at(worker, "jobs bury", _AROUND_COMMIT, scenarios.unknown_job)
    yield from _at(worker, "jobs replay", _AROUND_COMMIT, scenarios.dead_letter_replayed)
    yield from _at(worker, "jobs reap", _AROUND_COMMIT, scenarios.lease_expired)
    yield from _at(worker, "jobs hand back", _AROUND_COMMIT, scenarios.told_to_stop)


def _webhook_ingest() -> Iterator[Point]:
    yield from _at("webhook-ingest-api", "webhook-ingest-api receive_webhook", _REQUEST, scenarios.bought)
    yield from _at("webhook-ingest-worker", "publish_event", _JOB, scenarios.bought)


def _notifications() -> Iterator[Point]:
    worker = "notifications-worker"
    yield from _at(worker, "order.placed", _AROUND_COMMIT, scenarios.bought)
    yield from _at(worker, "order.confirmed", _AROUND_COMMIT, scenarios.bought)
    yield from _at(worker, "order.cancelled", _AROUND_COMMIT, scenarios.called_off)
    yield from _at(worker, "send_mail", _JOB, scenarios.bought)
    yield Point("send_mail under way", worker, scenarios.slow_mailbox)
    yield from _at(worker, "deliver_webhook attempt", ["committed"], scenarios.bought)
    yield from _at(worker, "deliver_webhook", _JOB, scenarios.bought)
    yield Point("deliver_webhook under way", worker, scenarios.slow_customer)
    yield from _at(worker, "notifications sweep", _AROUND_COMMIT, scenarios.mail_without_a_job)
    api = "notifications-api"
    yield from _at(api, f"{api} create_webhook_endpoint", _REQUEST, scenarios.endpoint_created)
    yield from _at(api, f"{api} rotate_webhook_secret", _REQUEST, scenarios.secret_rotated)
    yield from _at(api, f"{api} update_webhook_endpoint", _REQUEST, scenarios.endpoint_changed)
    yield from _at(api, f"{api} delete_webhook_endpoint", _REQUEST, scenarios.endpoint_deleted)
    yield from _at(api, f"{api} redeliver", _REQUEST, scenarios.redelivered)


def _streams() -> Iterator[Point]:
    for service in ("orders", "payments", "notifications"):
        yield Point("event acknowledged", f"{service}-worker", scenarios.bought)
    for service in ("orders", "payments", "webhook-ingest"):
        yield from _at(f"{service}-worker", "relay", ("unpublished", "published"), scenarios.bought)
        yield from _at(f"{service}-worker", "relay", ("forgotten", "unpublished"), scenarios.forgetful_redis)


POINTS = (*_orders(), *_payments(), *_webhook_ingest(), *_notifications(), *_streams())

COMMANDS = ("jobs replay", "events replay", "webhooks redrive", "mails resend")
"""What an operator has done again, before and after its commit: test_operators_killed.py."""
COMMAND_POINTS = tuple(f"{command} {place}" for command in COMMANDS for place in _AROUND_COMMIT)

MIGRATION_POINT = "migrate uncommitted"
"""At each commit of a migration in turn: test_migrations_killed.py."""
