"""Buyers place orders, follow each until it is settled and cancel some; bulk buyers place several large ones."""

from dataclasses import dataclass
from http import HTTPStatus
from random import Random
from time import perf_counter
from typing import Any

import gevent

from users.client import Client

_PRODUCTS = ("anchor", "cleat", "compass", "fender", "rope")
_CARDS = (("pm_card_ok", 90), ("pm_card_declined", 5), ("pm_card_fails_later", 5))
_CANCELLED_SHARE = 0.1
_BULK_ORDERS = 4
"""Each costs a client 5 of the 50 that it has saved up at most: two bulk buyers of one client may come at once."""
_BULK_LINES = 50  # as many as an order may have


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """`ends`: the status that its card and its cancellation lead to; `at` on the clock of `perf_counter`."""

    id: str
    ends: str
    at: float


class Buyer(Client):
    def run_errand(self) -> None:
        """When the run has placed its orders, a look at what became of them."""
        if self.given.scenario.product:
            self.list_products()
        if not self.given.may_place():
            self.list_orders()
        elif placed := self.place(lines=1, is_cancelled=self.rng.random() < _CANCELLED_SHARE):
            self.follow(placed)

    def place(self, *, lines: int, is_cancelled: bool) -> _Placed | None:
        """Place an order, and call it off within two seconds or not; None when it could not be placed."""
        key = f"load-{self.given.id}-{self.given.orders}"
        body = self._choose(lines)
        order = self.served("POST", "/v1/orders", HTTPStatus.CREATED, headers={"Idempotency-Key": key}, json=body)
        if order is None:
            return None
        self.given.note(order, key=key)
        placed_at = perf_counter()
        self.given.placed += 1
        if is_cancelled:
            gevent.sleep(self.rng.uniform(0, 2))
            name = "/v1/orders/{order_id}/cancel"
            self.served("POST", f"/v1/orders/{order['id']}/cancel", HTTPStatus.ACCEPTED, HTTPStatus.OK, name=name)
        is_paid = body["payment_method"] == "pm_card_ok" and not is_cancelled
        return _Placed(id=order["id"], ends="confirmed" if is_paid else "cancelled", at=placed_at)

    def follow(self, placed: _Placed) -> None:
        """Until it is settled, or patience ends."""
        deadline, pause, status = perf_counter() + self.given.scenario.patience, 0.5, ""
        while status not in {"confirmed", "cancelled"} and perf_counter() < deadline:
            gevent.sleep(pause)
            pause = min(2 * pause, 2.0)
            seen = self.served("GET", f"/v1/orders/{placed.id}", HTTPStatus.OK, name="/v1/orders/{order_id}")
            if seen:
                self.given.note(seen)
                status = seen["status"]
        if status == placed.ends:
            self.given.settled.append(perf_counter() - placed.at)
            self.given.settled_at.append(self.given.elapsed())

    def _choose(self, lines: int) -> dict[str, Any]:
        cards, weights = zip(*_CARDS, strict=True)
        [card] = self.rng.choices(cards, weights)
        return {
            "lines": [_line(self.rng, self.given.scenario.product) for _ in range(lines)],
            "customer_email": f"buyer-{self.number}@load.example",
            "payment_method": card,
        }


class HastyBuyer(Buyer):
    """Goes away when its order is refused for now."""

    is_patient = False


class BulkBuyer(Buyer):
    def run_errand(self) -> None:
        """Place them all, then follow each."""
        wanted = [
            self.place(lines=_BULK_LINES, is_cancelled=False) for _ in range(_BULK_ORDERS) if self.given.may_place()
        ]
        for placed in wanted:
            if placed is not None:
                self.follow(placed)


def _line(rng: Random, product: str | None) -> dict[str, Any]:
    return {"product_id": product or rng.choice(_PRODUCTS), "quantity": rng.randint(1, 3)}
