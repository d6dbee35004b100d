"""What the demo's three clients do, as data: the same orders under the same keys in every run, and how each must end.

60 orders are placed: 60 requests that are answered 201 with a new order. What else is sent does not count: one of them
again under its key, one for a product that does not exist, and reads of the catalogue until the limit is reached.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from holdfast_local.secrets import CLIENTS

type Outcome = Literal["confirmed", "cancelled"]
type OrderBody = Mapping[str, str | list[dict[str, str | int]]]

PRODUCTS = ("anchor", "cleat", "compass", "fender", "rope")
UNKNOWN_PRODUCT = "sextant"
DECLINED_CARD = "pm_card_declined"

REPEATED = 3
DECLINED = 5
CANCELLED_CONFIRMED = 12
"""Cancelled by its client when it is confirmed and paid: the one order with three events."""
CANCELLED_IN_HANG = 29
"""Cancelled while the provider hangs: whether it will charge is unknown."""
CANCELLED_IN_OUTAGE = 55
"""Cancelled while the breaker keeps its charge away."""
CANCELLED = frozenset({DECLINED, CANCELLED_CONFIRMED, CANCELLED_IN_HANG, CANCELLED_IN_OUTAGE})

SUBSCRIBER = CLIENTS[-1]
"""The client that has a webhook endpoint."""
LEAVER = CLIENTS[0]
"""The client whose endpoint is gone when the first order's event comes."""
NOTICES = 1
"""Mails about no order: to the client whose endpoint was disabled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedOrder:
    """The n-th order, from 1: whose it is, what is in it and how it ends follow from the number alone."""

    number: int

    @property
    def client(self) -> str:
        return CLIENTS[(self.number - 1) % len(CLIENTS)]

    @property
    def key(self) -> str:
        return f"demo-order-{self.number:02}"

    @property
    def outcome(self) -> Outcome:
        return "cancelled" if self.number in CANCELLED else "confirmed"

    @property
    def events(self) -> int:
        """How many there are of it: placed, confirmed or cancelled; each makes a mail, and a delivery if one is due."""
        return 3 if self.number == CANCELLED_CONFIRMED else 2

    @property
    def body(self) -> OrderBody:
        """The request: one or two pieces of one product."""
        return order_body(
            product=PRODUCTS[self.number % len(PRODUCTS)],
            quantity=1 + self.number % 2,
            email=f"customer-{self.number:02}@{self.client}.example",
            card=DECLINED_CARD if self.number == DECLINED else "pm_card_ok",
        )


def order_body(*, product: str, quantity: int, email: str, card: str) -> OrderBody:
    return {
        "lines": [{"product_id": product, "quantity": quantity}],
        "customer_email": email,
        "payment_method": card,
    }


def _orders(first: int, last: int) -> tuple[ScriptedOrder, ...]:
    return tuple(ScriptedOrder(number=number) for number in range(first, last + 1))


FIRST = _orders(1, 1)
"""Placed alone, while customers' servers are gone."""
ORDINARY = _orders(2, 27)
HELD = _orders(28, 30)
"""Placed while the provider never answers, so that the payments worker holds their jobs when it is killed."""
IN_OUTAGE = _orders(31, 54)
"""Their calls fail far more often than the five times that open the breaker."""
KEPT_AWAY = _orders(55, 60)
"""Placed when the breaker is open."""
ORDERS = FIRST + ORDINARY + HELD + IN_OUTAGE + KEPT_AWAY

MAILS = sum(order.events for order in ORDERS) + NOTICES
DELIVERIES = sum(order.events for order in ORDERS if order.client == SUBSCRIBER)
CHARGES_KEPT = sum(order.outcome == "confirmed" for order in ORDERS)
"""Captured charges less refunds: one of each confirmed order."""


def scripted(number: int) -> ScriptedOrder:
    return ORDERS[number - 1]


def name_orders(orders: Iterable[ScriptedOrder]) -> str:
    """`order 5`, `orders 1–4, 7`; `no order` of none."""
    runs: list[list[int]] = []
    for number in sorted(order.number for order in orders):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    named = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
    is_one = len(runs) == 1 and len(runs[0]) == 1
    return f"order {named}" if is_one else f"orders {named}" if runs else "no order"
