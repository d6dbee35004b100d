"""Wrong payments, charges and refunds."""

from uuid import uuid4

from planting import CONFIRMED, DECLINED, LATE, REFUNDED, Planted

from plants.registry import violates, violates_only

ONE_CAPTURE = "at most one captured charge per order"
REFUND = "a refund takes back a captured charge, once"
CHARGED_ONCE = "a confirmed order has exactly one unrefunded charge"
MONEY = "charges − refunds = what orders say was paid"
UNDER_WAY = "a cancelled order has no charge under way"
LEDGER = "payments agrees with the provider's ledger"
REFUND_LEDGER = "refunds agree with the provider's ledger"
ATTEMPTS = "every POST of a charge has its attempt"
AMOUNTS = "amounts and currencies agree everywhere"
REPORTS = "acknowledged provider events are processed"


@violates(ONE_CAPTURE)
async def a_second_captured_charge(planted: Planted) -> str:
    await planted.add_charge(CONFIRMED, "captured")
    return await planted.order(CONFIRMED)


@violates_only(ONE_CAPTURE)
async def a_second_captured_charge_that_was_refunded(planted: Planted) -> str:
    second = await planted.add_charge(CONFIRMED, "captured")
    await planted.add_refund(CONFIRMED, second, row="succeeded", status="succeeded")
    return await planted.order(CONFIRMED)


@violates_only(REFUND)
async def a_refund_of_a_charge_that_was_never_captured(planted: Planted) -> str:
    return await planted.add_refund(LATE, await planted.charge(LATE), row="succeeded", status="succeeded")


@violates(REFUND)
async def a_charge_that_is_refunded_twice(planted: Planted) -> str:
    charge = planted.outside("payment-provider", "SELECT charge_id FROM transfer WHERE object = 'refund'")
    return await planted.add_refund(REFUNDED, charge, row="failed", status="succeeded")


@violates(CHARGED_ONCE)
async def a_confirmed_order_without_a_charge(planted: Planted) -> str:
    charge = await planted.charge(CONFIRMED)
    planted.outside("payment-provider", "DELETE FROM transfer WHERE id = ?", charge)
    return await planted.order(CONFIRMED)


@violates_only(CHARGED_ONCE)
async def a_confirmed_order_whose_refund_has_begun(planted: Planted) -> str:
    charge = await planted.charge(CONFIRMED)
    await planted.add_refund(CONFIRMED, charge, row="submitted", status="pending")
    return await planted.order(CONFIRMED)


@violates_only(MONEY)
async def an_order_that_does_not_know_it_was_paid(planted: Planted) -> str:
    order = await planted.order(CONFIRMED)
    await planted.execute("orders", "UPDATE orders SET paid_amount = 0 WHERE id = $1", order)
    return order


@violates(MONEY)
async def a_cancelled_order_whose_money_was_not_given_back(planted: Planted) -> str:
    planted.outside("payment-provider", "UPDATE transfer SET status = 'failed' WHERE object = 'refund'")
    return await planted.order(REFUNDED)


@violates_only(UNDER_WAY)
async def a_charge_still_pending_for_a_cancelled_order(planted: Planted) -> str:
    await planted.add_charge(LATE, "pending")
    return await planted.order(LATE)


@violates(LEDGER)
async def a_payment_that_failed_here_and_was_captured_there(planted: Planted) -> str:
    payment = await planted.payment(CONFIRMED)
    await planted.execute("payments", "UPDATE payment SET status = 'failed' WHERE id = $1", payment)
    return payment


@violates_only(LEDGER)
async def a_payment_that_names_a_charge_of_another(planted: Planted) -> str:
    payment, charge = await planted.payment(LATE), await planted.charge(CONFIRMED)
    await planted.execute("payments", "UPDATE payment SET provider_charge_id = $2 WHERE id = $1", payment, charge)
    return payment


@violates_only(LEDGER)
async def a_charge_that_nobody_asked_for(planted: Planted) -> str:
    charge = await planted.add_charge(CONFIRMED, "captured")
    planted.outside("payment-provider", "UPDATE transfer SET reference = ? WHERE id = ?", str(uuid4()), charge)
    return charge


@violates_only(REFUND_LEDGER)
async def a_refund_that_succeeded_there_and_failed_here(planted: Planted) -> str:
    await planted.execute("payments", "UPDATE refund SET status = 'failed'")
    return str(await planted.value("payments", "SELECT id FROM refund"))


@violates_only(REFUND_LEDGER)
async def a_refund_that_payments_forgot(planted: Planted) -> str:
    await planted.execute("payments", "DELETE FROM refund")
    return str(planted.outside("payment-provider", "SELECT id FROM transfer WHERE object = 'refund'"))


@violates_only(ATTEMPTS)
async def charge_attempts_that_were_deleted(planted: Planted) -> str:
    payment = await planted.payment(CONFIRMED)
    await planted.execute("payments", "DELETE FROM charge_attempt WHERE payment_id = $1", payment)
    return payment


@violates(AMOUNTS)
async def a_payment_over_another_amount(planted: Planted) -> str:
    await planted.execute("payments", "UPDATE payment SET amount = 1 WHERE id = $1", await planted.payment(DECLINED))
    return await planted.order(DECLINED)


@violates_only(AMOUNTS)
async def a_charge_in_another_currency(planted: Planted) -> str:
    charge = await planted.charge(CONFIRMED)
    planted.outside("payment-provider", "UPDATE transfer SET currency = 'USD' WHERE id = ?", charge)
    return charge


@violates_only(AMOUNTS)
async def a_refund_in_another_currency(planted: Planted) -> str:
    planted.outside("payment-provider", "UPDATE transfer SET currency = 'USD' WHERE object = 'refund'")
    return str(planted.outside("payment-provider", "SELECT id FROM transfer WHERE object = 'refund'"))


@violates(AMOUNTS)
async def a_confirmed_order_without_a_payment(planted: Planted) -> str:
    payment = await planted.payment(CONFIRMED)
    await planted.execute("payments", "DELETE FROM charge_attempt WHERE payment_id = $1", payment)
    await planted.execute("payments", "DELETE FROM payment WHERE id = $1", payment)
    return await planted.order(CONFIRMED)


@violates_only(AMOUNTS)
async def a_payment_of_no_order(planted: Planted) -> str:
    payment = str(uuid4())
    await planted.execute(
        "payments",
        "INSERT INTO payment (id, order_id, amount, currency, payment_method, status)"
        " VALUES ($1, $2, 1, 'EUR', 'pm', 'failed')",
        payment,
        str(uuid4()),
    )
    return payment


@violates_only(REPORTS)
async def an_acknowledged_webhook_that_was_lost(planted: Planted) -> str:
    insert = (
        "INSERT INTO event (id, type, reference, body, acknowledged) VALUES ('evt_lost', 'charge.failed', ?, '', 1)"
    )
    planted.outside("payment-provider", insert, await planted.payment(LATE))
    return "evt_lost"


@violates_only(REPORTS)
async def an_acknowledged_webhook_about_nothing_we_know_that_was_lost(planted: Planted) -> str:
    insert = (
        "INSERT INTO event (id, type, reference, body, acknowledged) VALUES ('evt_lost', 'charge.failed', 'x', '', 1)"
    )
    planted.outside("payment-provider", insert)
    return "evt_lost"
