"""Who asks. Buyers place orders, follow each until it is settled and cancel some; browsers look around."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from random import Random
from time import perf_counter
from typing import Any
from uuid import uuid4

import gevent
from locust import task
from locust.contrib.fasthttp import FastHttpUser, ResponseContextManager
from scenario import Scenario

PATIENCE_SECONDS = 60.0
"""How long a user repeats a request that is refused for now, and how long it follows an order."""
REFUSALS = {HTTPStatus.TOO_MANY_REQUESTS: " (429)", HTTPStatus.SERVICE_UNAVAILABLE: " (503)"}
"""Answers that say when to ask again, and what ends their route's name in the table. They are no failures, and they are
faster than what was served: rows of their own.
"""

_TIMEOUT_SECONDS = 10.0  # a service answers within its own deadline of 10 s or not at all
_LONGEST_WAIT = 30  # seconds a client may be told to wait; a bucket of 50 that fills with 10 a second needs 5
_PRODUCTS = ("anchor", "cleat", "compass", "fender", "rope")
_CARDS = (("pm_card_ok", 90), ("pm_card_declined", 5), ("pm_card_fails_later", 5))
_CANCELLED_SHARE = 0.1


@dataclass(slots=True, kw_only=True)
class Run:
    """What the users of one run share. The seed decides what they buy and how long they think, not their keys."""

    scenario: Scenario
    keys: list[str] = field(repr=False)
    seed: int
    orders: int
    """How many may still be placed."""
    pause: tuple[float, float] = (0.0, 0.0)
    """Of the present stage."""
    id: str = field(default_factory=lambda: uuid4().hex[:12])
    users: Callable[[], int] = field(default_factory=lambda: count().__next__)
    given_up: int = 0
    placed: int = 0
    settled: list[float] = field(default_factory=list)
    """Seconds, of each order that ended as its card and its cancellation say."""

    def may_place(self) -> bool:
        self.orders -= 1
        return self.orders >= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Purchase:
    key: str
    card: str
    body: dict[str, Any]


class _Client(FastHttpUser):
    abstract = True
    insecure = False  # Locust's default does not look at a certificate
    connection_timeout = network_timeout = _TIMEOUT_SECONDS

    def __init__(self, environment: Any) -> None:
        self.given: Run = environment.holdfast
        self.number = self.given.users()
        self.rng = Random(f"{self.given.seed}:{self.number}")
        key = self.given.keys[self.number % len(self.given.keys)]
        self.default_headers = {"Authorization": f"Bearer {key}"}
        super().__init__(environment)

    def wait_time(self) -> float:
        return self.rng.uniform(*self.given.pause)

    def list_products(self) -> None:
        self.served("GET", "/v1/products", HTTPStatus.OK)

    def list_orders(self) -> None:
        self.served("GET", "/v1/orders?limit=20", HTTPStatus.OK, name="/v1/orders")

    def served(self, method: str, path: str, *wanted: HTTPStatus, name: str = "", **more: Any) -> dict[str, Any] | None:
        """The body of a wanted answer; None when the request failed. Told to come later, it does."""
        deadline = perf_counter() + PATIENCE_SECONDS
        while True:
            with self.client.request(
                method, path, name=name or path, catch_response=True, allow_redirects=False, **more
            ) as answer:
                pause = _told_to_wait(answer)
                if pause is None:
                    return _body(answer, wanted)
                answer.request_meta["name"] += REFUSALS[HTTPStatus(answer.status_code)]
                answer.success()
            if perf_counter() + pause > deadline:
                self.given.given_up += 1
                return None
            gevent.sleep(pause + self.rng.uniform(0, 0.5))  # those who were refused together do not come back together


class Buyer(_Client):
    weight = 2

    @task
    def buy(self) -> None:
        """One errand. When the run has placed its orders, a look at what became of them."""
        if not self.given.may_place():
            self.list_orders()
            return
        purchase = self._choose()
        headers = {"Idempotency-Key": purchase.key}
        order = self.served("POST", "/v1/orders", HTTPStatus.CREATED, headers=headers, json=purchase.body)
        if order is None:
            return
        placed_at = perf_counter()
        self.given.placed += 1
        is_cancelled = self.rng.random() < _CANCELLED_SHARE
        if is_cancelled:
            gevent.sleep(self.rng.uniform(0, 2))
            name = "/v1/orders/{order_id}/cancel"
            self.served("POST", f"/v1/orders/{order['id']}/cancel", HTTPStatus.ACCEPTED, HTTPStatus.OK, name=name)
        is_paid = purchase.card == "pm_card_ok" and not is_cancelled
        if self._follow(order["id"]) == ("confirmed" if is_paid else "cancelled"):
            self.given.settled.append(perf_counter() - placed_at)

    def _choose(self) -> _Purchase:
        cards, weights = zip(*_CARDS, strict=True)
        [card] = self.rng.choices(cards, weights)
        body = {
            "lines": [{"product_id": self.rng.choice(_PRODUCTS), "quantity": self.rng.randint(1, 3)}],
            "customer_email": f"buyer-{self.number}@load.example",
            "payment_method": card,
        }
        return _Purchase(key=f"load-{self.given.id}-{self.given.orders}", card=card, body=body)

    def _follow(self, order_id: str) -> str:
        """The status it ended with, or its last one."""
        deadline, pause, status = perf_counter() + PATIENCE_SECONDS, 0.5, ""
        while perf_counter() < deadline:
            gevent.sleep(pause)
            pause = min(2 * pause, 2.0)
            seen = self.served("GET", f"/v1/orders/{order_id}", HTTPStatus.OK, name="/v1/orders/{order_id}")
            status = seen["status"] if seen else status
            if status in {"confirmed", "cancelled"}:
                break
        return status


class Browser(_Client):
    weight = 1

    @task
    def look_around(self) -> None:
        self.list_products()
        self.list_orders()


def _body(answer: ResponseContextManager, wanted: tuple[HTTPStatus, ...]) -> dict[str, Any] | None:
    """Of a wanted answer. Any other is a failure, named by its status and its code; so is none at all."""
    if not answer.status_code:
        return None  # Locust has noted what went wrong
    body = _parsed(answer)
    if answer.status_code in wanted and body is not None:
        answer.success()
        return body
    error = (body or {}).get("error")
    code = error.get("code", "") if isinstance(error, dict) else "no JSON object" if body is None else ""
    answer.failure(f"{answer.status_code} {code}".strip())
    return None


def _told_to_wait(answer: ResponseContextManager) -> int | None:
    """Seconds, when it is a refusal that says how long, and not longer than makes sense."""
    given = answer.headers.get("Retry-After", "") if answer.status_code in REFUSALS else ""
    return int(given) if given.isdecimal() and int(given) <= _LONGEST_WAIT else None


def _parsed(answer: ResponseContextManager) -> dict[str, Any] | None:
    try:
        body = answer.json()
    except (ValueError, TypeError):
        return None
    return body if isinstance(body, dict) else None


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed; 0 of none."""
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else 0.0
