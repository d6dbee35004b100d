"""What the demo's two clients do, as data: the same orders under the same keys in every run, and how each must end.

20 orders are placed: 20 requests that are answered 201 with a new order. What else is sent does not count: one of them
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

DECLINED = 5
REPEATED = 3


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
        return "cancelled" if self.number == DECLINED else "confirmed"

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


ORDINARY = _orders(1, 12)
HELD = _orders(13, 14)
"""Placed while the provider never answers, so that the payments worker holds their jobs when it is killed."""
IN_OUTAGE = _orders(15, 20)
"""Six: their calls fail more often than the five times that open the breaker."""
ORDERS = ORDINARY + HELD + IN_OUTAGE

MAILS = 2 * len(ORDERS)
"""Of each order's two events: placed, then confirmed or cancelled."""


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
