"""What every user is: it comes at its moment, has one errand, and waits as long as it is told to."""

from http import HTTPStatus
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING, Any

import gevent
from locust import task
from locust.contrib.fasthttp import FastHttpUser, ResponseContextManager
from locust.exception import StopUser

if TYPE_CHECKING:
    from run import Run

REFUSALS = {HTTPStatus.TOO_MANY_REQUESTS: " (429)", HTTPStatus.SERVICE_UNAVAILABLE: " (503)"}
"""Answers that say when to ask again, and what ends their route's name in the table. They are no failures, and they are
faster than what was served: rows of their own.
"""

_TIMEOUT_SECONDS = 10.0  # a service answers within its own deadline of 10 s or not at all
_LONGEST_WAIT = 30  # seconds a client may be told to wait; a bucket of 50 that fills with 10 a second needs 5


class Client(FastHttpUser):
    """`run_errand` is what a subclass is for."""

    abstract = True
    insecure = False  # Locust's default does not look at a certificate
    connection_timeout = network_timeout = _TIMEOUT_SECONDS
    is_abuser = False
    is_patient = True
    """Whether the user repeats a request that was refused for now."""

    def __init__(self, environment: Any) -> None:
        self.given: Run = environment.holdfast
        arrival = self.given.arrival
        assert arrival is not None  # noqa: S101  arrivals.py alone makes users
        self.number, self.meant_at = arrival.number, arrival.at
        self.rng = Random(f"{self.given.seed}:{self.number}")
        self.is_first = True
        key = self.given.key_of(self.number, is_abuser=self.is_abuser)
        self.default_headers = {"Authorization": f"Bearer {key}"}
        super().__init__(environment)

    @task
    def come_once(self) -> None:
        self.run_errand()
        raise StopUser

    def run_errand(self) -> None:
        raise NotImplementedError

    def list_products(self) -> None:
        self.served("GET", "/v1/products", HTTPStatus.OK)

    def list_orders(self) -> None:
        self.served("GET", "/v1/orders?limit=20", HTTPStatus.OK, name="/v1/orders")

    def served(self, method: str, path: str, *wanted: HTTPStatus, name: str = "", **more: Any) -> dict[str, Any] | None:
        """The body of a wanted answer; None when the request failed. Told to come later, it does."""
        deadline = perf_counter() + self.given.scenario.patience
        while True:
            with self.client.request(
                method, path, name=name or path, catch_response=True, allow_redirects=False, **more
            ) as answer:
                self.count_from_the_moment_meant(answer)
                pause = told_to_wait(answer)
                if pause is None:
                    return body_of(answer, wanted)
                refuse(answer)
            if answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
                self.given.refused_at.append(self.given.elapsed())
            if not self.is_patient:
                return None
            if perf_counter() + pause > deadline:
                self.given.given_up += 1
                return None
            gevent.sleep(pause + self.rng.uniform(0, 0.5))  # those who were refused together do not come back together

    def count_from_the_moment_meant(self, answer: ResponseContextManager) -> float | None:
        """The seconds of a user's first answer, which are counted from when it was meant to come: what it waited for
        its turn, here or there, is in them. None for the others.
        """
        if not self.is_first:
            return None
        self.is_first = False
        seconds = self.given.elapsed() - self.meant_at
        answer.request_meta["response_time"] = seconds * 1000
        if not self.is_abuser:
            self.given.first_requests.append((self.meant_at, seconds))
        return seconds


def refuse(answer: ResponseContextManager) -> None:
    """To the row of refusals."""
    answer.request_meta["name"] += REFUSALS[HTTPStatus(answer.status_code)]
    answer.success()


def told_to_wait(answer: ResponseContextManager) -> int | None:
    """Seconds, when it is a refusal that says how long, and not longer than makes sense."""
    given = answer.headers.get("Retry-After", "") if answer.status_code in REFUSALS else ""
    return int(given) if given.isdecimal() and int(given) <= _LONGEST_WAIT else None


def body_of(answer: ResponseContextManager, wanted: tuple[HTTPStatus, ...]) -> dict[str, Any] | None:
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


def _parsed(answer: ResponseContextManager) -> dict[str, Any] | None:
    try:
        body = answer.json()
    except (ValueError, TypeError):
        return None
    return body if isinstance(body, dict) else None
