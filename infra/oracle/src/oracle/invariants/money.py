"""What holds of an order's money: the order, its payment and the provider's ledger."""

from collections.abc import Iterator

from oracle.case import Case
from oracle.findings import Offender
from oracle.invariants.registry import invariant
from oracle.terms import Terms


@invariant("at most one captured charge per order", "captured charge", "order", always=True)
def at_most_one_capture(case: Case, _terms: Terms) -> Iterator[Offender]:
    if len(case.captured) > 1:
        ids = ", ".join(charge.id for charge in case.captured)
        yield Offender(case.order.id, f"{len(case.captured)} captured charges: {ids}")


@invariant("a confirmed order has exactly one unrefunded charge", "confirmed order", "unrefunded charge")
def confirmed_is_charged_once(case: Case, _terms: Terms) -> Iterator[Offender]:
    """Confirmed means paid, and no refund begun."""
    if case.order.status == "confirmed" and len(case.kept) != 1:
        yield Offender(case.order.id, f"is confirmed, with {len(case.kept)} unrefunded charges")


@invariant("charges − refunds = what orders say was paid", "charged", "refunded", "paid")
def money_adds_up(case: Case, _terms: Terms) -> Iterator[Offender]:
    """Nothing for a cancelled order."""
    order = case.order
    paid = 0 if order.status == "cancelled" else order.paid_amount
    if order.status != "cancelling" and (case.net != paid or order.paid_amount != paid):
        problem = f"is {order.status} and says {order.paid_amount} was paid; charges − refunds = {case.net}"
        yield Offender(order.id, problem)


@invariant("a cancelled order has no charge under way", "cancelled order")
def cancelled_has_no_charge_under_way(case: Case, _terms: Terms) -> Iterator[Offender]:
    """Cancelled means that the net is zero now, and stays so."""
    for charge in case.charges:
        if case.order.status == "cancelled" and charge.status == "pending":
            yield Offender(case.order.id, f"is cancelled, but charge {charge.id} is pending")


@invariant("a refund takes back a captured charge, once", "refund", "captured charge", always=True)
def refunds_take_back_captures(case: Case, _terms: Terms) -> Iterator[Offender]:
    captured = {charge.id: charge for charge in case.captured}
    taken: dict[str, int] = {}
    for refund in case.refunds:
        charge = captured.get(refund.charge_id)
        if charge is None:
            yield Offender(refund.id, f"is a refund of charge {refund.charge_id}, which was never captured")
        elif refund.status != "failed":
            taken[charge.id] = taken.get(charge.id, 0) + refund.amount
            if taken[charge.id] > charge.amount:
                yield Offender(refund.id, f"takes {taken[charge.id]} back of charge {charge.id}, over {charge.amount}")


@invariant("payments agrees with the provider's ledger", "payment", "charge")
def payment_agrees_with_the_ledger(case: Case, _terms: Terms) -> Iterator[Offender]:
    """Captured here if and only if captured there; and the charge that a payment names is its own."""
    payment = case.payment
    if payment is None:
        for charge in case.charges:
            yield Offender(charge.id, f"is a charge for payment {charge.reference}, which does not exist")
        return
    is_kept, was_captured = case.net > 0, bool(case.captured)
    if (payment.status == "captured") != is_kept or (payment.status == "refunded" and not was_captured):
        yield Offender(payment.id, f"is {payment.status} here, but {case.net} is captured in the ledger")
    if payment.provider_charge_id and payment.provider_charge_id not in {charge.id for charge in case.charges}:
        yield Offender(payment.id, f"names charge {payment.provider_charge_id}, which is none of it in the ledger")


@invariant("refunds agree with the provider's ledger", "refund")
def refunds_agree_with_the_ledger(case: Case, _terms: Terms) -> Iterator[Offender]:
    """Each refund there was asked for here, and each that succeeded or failed here did so there."""
    ours = {row.id: row for row in case.refund_rows}
    theirs = {refund.reference: refund for refund in case.refunds}
    for refund in case.refunds:
        if refund.reference not in ours:
            yield Offender(refund.id, f"is a refund {refund.reference} that payments does not know")
    for row in case.refund_rows:
        found = theirs.get(row.id)
        there = found.status if found else "unknown"
        is_right = there == row.status if row.status == "succeeded" else there != "succeeded"
        if not is_right:
            yield Offender(row.id, f"is {row.status} here, but {there} in the ledger")


@invariant("every POST of a charge has its attempt", "charge attempt", "charge")
def posts_have_attempts(case: Case, _terms: Terms) -> Iterator[Offender]:
    """A row is committed before each POST, so that no charge can be forgotten. The provider counts the POSTs."""
    posts = sum(charge.requests for charge in case.charges)
    if posts > case.attempts:
        yield Offender(case.order.payment_id, f"was posted {posts} times, in {case.attempts} recorded attempts")


@invariant("amounts and currencies agree everywhere", "order", "payment", "charge", "refund")
def amounts_agree(case: Case, _terms: Terms) -> Iterator[Offender]:
    """Order, payment, charge and refund name the same order, amount and currency."""
    order, payment = case.order, case.payment
    if payment is None:
        if order.status == "confirmed":
            yield Offender(order.id, "is confirmed without a payment")
        return
    wanted = (order.id, order.amount, order.currency)
    if (found := (payment.order_id, payment.amount, payment.currency)) != wanted:
        yield Offender(order.id, f"is {wanted[1:]}, but its payment {payment.id} is for {found}")
    for transfer in case.transfers:
        if (transfer.amount, transfer.currency) != (payment.amount, payment.currency):
            problem = f"is {transfer.amount} {transfer.currency}, its payment {payment.amount} {payment.currency}"
            yield Offender(transfer.id, problem)
    for row in case.refund_rows:
        if row.amount != payment.amount:
            yield Offender(row.id, f"is a refund of {row.amount}, but its payment is over {payment.amount}")


@invariant("acknowledged provider events are processed", "acknowledged", "provider event")
def acknowledged_reports_are_processed(case: Case, _terms: Terms) -> Iterator[Offender]:
    """Every provider event that got a 2xx is stored, and published, ignored or dead."""
    for report in case.reports:
        status = report.stored.status if report.stored else "not stored"
        if report.is_acknowledged and status not in {"published", "ignored", "dead"}:
            yield Offender(report.event_id, f"got a 2xx, but is {status}")
