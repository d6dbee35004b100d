"""A customer: places orders through the public API as any client does, and waits until each is confirmed."""

import argparse
import http.client
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit
from uuid import uuid4

ATTEMPT_SECONDS = 10.0
"""For one request: a service answers within its own deadline of 10 s or not at all."""
RETRY_SECONDS = 0.5
"""Before the next attempt, where the answer does not say how long."""
POLL_SECONDS = 0.2
TEMPORARY_STATUSES = frozenset({429, 500, 502, 503, 504})
FINAL = frozenset({"confirmed", "cancelled"})
PRODUCTS = ("anchor", "cleat", "compass", "fender", "rope")

type Json = dict[str, Any]


class Disappointed(Exception):
    """The platform did not do what a customer may expect; the message says what it did."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` 0: there was none, and `body` says why."""

    status: int
    body: Json
    retry_after: float = RETRY_SECONDS

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may get a better answer: an earlier attempt of it may still be served."""
        is_being_served = self.body.get("error", {}).get("code") == "IDEMPOTENCY_KEY_IN_PROGRESS"
        return self.status == 0 or self.status in TEMPORARY_STATUSES or is_being_served


class Api:
    """A service as its client sees it. Every request is repeated, under its key, until it is answered or time is up."""

    def __init__(self, url: SplitResult, *, api_key: str = "", deadline: float) -> None:
        self._url = url
        self._api_key = api_key
        self._deadline = deadline  # of time.monotonic()

    def ask(self, method: str, path: str, body: Json | None = None) -> Json:
        """The body of a successful answer. Raises `Disappointed`."""
        headers = {"Idempotency-Key": f"customer-{uuid4()}", "Content-Type": "application/json"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        content = None if body is None else json.dumps(body).encode()
        while True:
            answer = self._try(method, path, content, headers)
            if answer.status in range(200, 300) and "error" not in answer.body:
                return answer.body
            is_time_up = time.monotonic() + answer.retry_after >= self._deadline
            if is_time_up or not answer.is_temporary:
                raise Disappointed(f"{method} {self._url.geturl()}{path} was answered {describe(answer)}")
            time.sleep(answer.retry_after)

    def _try(self, method: str, path: str, content: bytes | None, headers: dict[str, str]) -> Answer:
        remaining = max(0.1, self._deadline - time.monotonic())
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=min(ATTEMPT_SECONDS, remaining))
        try:
            connection.request(method, self._url.path.rstrip("/") + path, content, headers)
            response = connection.getresponse()
            return Answer(response.status, parsed(response.read()), retry_after(response.headers.get("Retry-After")))
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, {"error": {"code": "not at all", "message": str(error)}})
        finally:
            connection.close()


def parsed(content: bytes) -> Json:
    try:
        body = json.loads(content or b"{}")
    except ValueError:
        body = None
    is_usual = isinstance(body, dict) and isinstance(body.get("error", {}), dict)
    return body if is_usual else {"error": {"code": "with something else", "message": repr(content[:200])}}


def retry_after(header: str | None) -> float:
    """Seconds; a date, or anything else, is not waited for."""
    return float(header) if header and header.isdecimal() else RETRY_SECONDS


def describe(answer: Answer) -> str:
    """`403 FORBIDDEN: …`."""
    match answer.body.get("error"):
        case {"code": code, "message": message}:
            said = f"{code}: {message}"
        case _:
            said = json.dumps(answer.body)
    return f"{answer.status} {said}" if answer.status else said


def place(orders: Api, number: int) -> str:
    """The id of a new order; what is bought follows from its number."""
    body = {
        "lines": [{"product_id": PRODUCTS[number % len(PRODUCTS)], "quantity": 1 + number % 2}],
        "customer_email": f"customer-{number}@example.com",
        "payment_method": "pm_card_ok",
    }
    return str(orders.ask("POST", "/v1/orders", body)["id"])


def wait_until_final(orders: Api, order_id: str, *, deadline: float) -> Json:
    """The order as it is in the end, or at the deadline; it is looked at once in any case."""
    while True:
        order = orders.ask("GET", f"/v1/orders/{order_id}")
        if order["status"] in FINAL or time.monotonic() >= deadline:
            return order
        time.sleep(POLL_SECONDS)


def subscribe(notifications: Api, webhooks: Api, webhook_url: str) -> None:
    """Be told of the orders by webhooks to the simulated customer's endpoint, which is given what verifies them.

    An endpoint of an earlier call gets a new secret: the old one was shown then, and signs along for a while.
    """
    url = f"{webhook_url.rstrip('/')}/webhooks/customer"
    listed = notifications.ask("GET", "/v1/webhook-endpoints")["items"]
    existing = next((endpoint["id"] for endpoint in listed if endpoint["url"] == url), None)
    if existing:
        endpoint = notifications.ask("POST", f"/v1/webhook-endpoints/{existing}/rotate-secret")
    else:
        endpoint = notifications.ask("POST", "/v1/webhook-endpoints", {"url": url})
    webhooks.ask("PUT", "/secrets/customer", {"secrets": [endpoint["secret"]]})


def run(arguments: argparse.Namespace) -> str:
    """What was achieved, as a line. Raises `Disappointed`."""
    started = time.monotonic()
    deadline = started + arguments.timeout
    api_key = read_key(arguments.api_key_file)
    orders = Api(arguments.orders_url, api_key=api_key, deadline=deadline)
    if arguments.notifications_url:
        notifications = Api(arguments.notifications_url, api_key=api_key, deadline=deadline)
        webhooks = Api(arguments.webhook_url, deadline=deadline)
        subscribe(notifications, webhooks, arguments.webhook_url.geturl())
    ids = [place(orders, number) for number in range(1, arguments.orders + 1)]
    placed_seconds = time.monotonic() - started
    ended = [wait_until_final(orders, order_id, deadline=deadline) for order_id in ids]
    if unlike := [order for order in ended if order["status"] != "confirmed"]:
        lines = "".join(f"\n  {order['id']}  {order['status']}  {order.get('reason') or ''}" for order in unlike)
        raise Disappointed(f"{len(unlike)} of {len(ids)} orders were not confirmed in {arguments.timeout:g} s:{lines}")
    return (
        f"{len(ids)} of {len(ids)} orders confirmed: placed within {placed_seconds:.1f} s, "
        f"the last one seen confirmed after {time.monotonic() - started:.1f} s"
    )


def read_key(path: Path) -> str:
    try:
        key = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Disappointed(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if not re.fullmatch(r"[\x21-\x7e]+", key):  # http.client would refuse it in a header, and show it
        raise Disappointed(f"{path} does not hold a key")
    return key


def http_url(text: str) -> SplitResult:
    url = urlsplit(text)
    if url.scheme not in {"http", "https"} or not url.hostname or url.port == 0:
        raise ValueError(text)
    return url


def at_least_one(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def seconds(text: str) -> float:
    if not 0 < (number := float(text)) < float("inf"):
        raise ValueError(text)
    return number


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="customer", description=__doc__)
    parser.add_argument("--orders-url", type=http_url, required=True, metavar="URL", help="base URL of the orders API")
    parser.add_argument("--api-key-file", type=Path, required=True, metavar="FILE", help="file with the client's key")
    parser.add_argument("--orders", type=at_least_one, default=3, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument(
        "--timeout", type=seconds, default=60.0, metavar="SECONDS", help="for everything (default: %(default)s)"
    )
    parser.add_argument(
        "--notifications-url",
        type=http_url,
        metavar="URL",
        help="base URL of the notifications API: be told by webhook",
    )
    parser.add_argument("--webhook-url", type=http_url, metavar="URL", help="where to: base URL of a customer-endpoint")
    parsed_arguments = parser.parse_args(arguments)
    if bool(parsed_arguments.notifications_url) != bool(parsed_arguments.webhook_url):
        parser.error("--notifications-url and --webhook-url need each other")
    return parsed_arguments


def main() -> None:
    arguments = parse_arguments()
    try:
        print(run(arguments))
    except Disappointed as error:
        sys.exit(f"customer: {error}")
