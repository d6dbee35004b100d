"""The invariants, one function each: pure, from one order's file to what is wrong in it.

Those about the whole platform are in `oracle.standing`, and what belongs to no order in `oracle.strays`.
"""

from collections.abc import Sequence

from oracle.invariants import mails, money, orders, webhooks
from oracle.invariants.registry import Invariant

OF_AN_ORDER: Sequence[Invariant] = (
    orders.one_order_per_key,
    orders.kept_answer_shows_the_order,
    orders.lines_add_up,
    orders.event_versions_have_no_gaps,
    orders.events_tell_the_states,
    orders.published_events_arrive,
    money.at_most_one_capture,
    money.refunds_take_back_captures,
    mails.copies_have_a_cause,
    webhooks.webhook_copies_have_a_cause,
    orders.events_carry_the_facts,
    money.confirmed_is_charged_once,
    money.money_adds_up,
    money.cancelled_has_no_charge_under_way,
    money.payment_agrees_with_the_ledger,
    money.refunds_agree_with_the_ledger,
    money.posts_have_attempts,
    money.amounts_agree,
    money.acknowledged_reports_are_processed,
    mails.each_event_is_mailed_once,
    mails.mails_arrive_in_order,
    mails.mails_say_what_happened,
    webhooks.each_event_goes_to_its_listeners,
    webhooks.delivered_is_what_the_customer_has,
    webhooks.webhooks_arrive_in_order,
    webhooks.webhooks_say_what_happened,
)
"""Those that always hold come first."""

__all__ = ["OF_AN_ORDER", "Invariant"]
