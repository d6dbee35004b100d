"""Whether a run of the demo went as its script says. Pure: results exactly, faults by having been met at all."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from holdfast_local.demo_client import Delivery, ProcessInfo, Transfers
from holdfast_local.demo_metrics import Metrics
from holdfast_local.demo_script import CHARGES_KEPT, DELIVERIES, HELD, MAILS, ORDERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What came of the run: each order's state by its number, the Message-ID of every copy of a mail, every attempt
    that reached the customer's endpoint and the provider's ledger; the platform's metrics, and what each of its
    processes says of itself.
    """

    outcomes: Mapping[int, str]
    message_ids: Collection[str]
    deliveries: Collection[Delivery]
    transfers: Transfers
    metrics: Metrics
    processes: Sequence[ProcessInfo]


def deviations(told: Told) -> list[str]:
    """Every way in which the run was not the script's, in a sentence each; empty when it was."""
    return [
        *_of_orders(told),
        *_of_mails(told.message_ids),
        *_of_deliveries(told.deliveries),
        *_of_money(told.transfers),
        *_of_counts(told.metrics),
    ]


def _of_orders(told: Told) -> Iterator[str]:
    for order in ORDERS:
        found = told.outcomes.get(order.number, "unknown")
        if found != order.outcome:
            yield f"order {order.number} is {found}; by the script it is {order.outcome}"


def _of_mails(message_ids: Collection[str]) -> Iterator[str]:
    distinct = len(set(message_ids))
    if distinct != MAILS:
        yield f"{distinct} different mails arrived; by the script there are {MAILS}"
    if len(message_ids) != distinct:
        yield f"{len(message_ids) - distinct} mails arrived twice, though no mail was interrupted"


def _of_deliveries(deliveries: Collection[Delivery]) -> Iterator[str]:
    distinct = len({delivery.webhook_id for delivery in deliveries})
    if distinct != DELIVERIES:
        yield f"{distinct} different webhooks reached the customer; by the script there are {DELIVERIES}"
    if len(deliveries) != distinct:
        yield f"{len(deliveries) - distinct} webhooks reached the customer twice, though no delivery was interrupted"
    if unverified := sum(not delivery.verified for delivery in deliveries):
        yield f"the signatures of {unverified} webhooks did not verify"


def _of_money(transfers: Transfers) -> Iterator[str]:
    """How many were refunded is not the script's: one cancelled in the outage or the hang was charged or not."""
    kept = len(transfers.captured) - len(transfers.refunded)
    if kept != CHARGES_KEPT:
        yield f"{kept} captured charges were not refunded; by the script there are {CHARGES_KEPT}"


def _of_counts(metrics: Metrics) -> Iterator[str]:
    for what, counted, at_least in (
        ("leases expired", metrics.total("job_leases_expired_total"), len(HELD)),
        ("jobs rescheduled", metrics.total("jobs_processed_total", outcome="retried"), 1),
        ("times a breaker opened", metrics.total("circuit_breaker_transitions_total", to="open"), 1),
        ("times a breaker closed again", metrics.total("circuit_breaker_transitions_total", to="closed"), 1),
        ("unknown products refused", metrics.total("api_errors_total", code="UNKNOWN_PRODUCT"), 1),
        ("requests over the limit", metrics.total("rate_limit_decisions_total", decision="refused"), 1),
        ("webhooks delivered", metrics.total("webhook_delivery_attempts_total", result="delivered"), DELIVERIES),
        ("endpoints disabled", metrics.total("webhook_endpoints_disabled_total", reason="gone"), 1),
        ("webhooks that came twice", metrics.total("webhook_received_total", result="duplicate"), 1),
    ):
        if counted < at_least:
            yield f"{what}: {counted}; by the script at least {at_least}"
    for what, counted in (
        ("dead letters", metrics.total("job_dead_letters")),
        ("breakers not closed", metrics.total("circuit_breaker_state")),
        ("errors logged", metrics.total("log_events_total", level="error")),
    ):
        if counted:
            yield f"{what}: {counted}; by the script none"
