"""Consumers get along with what producers promise: orders with payments' document, each consumer with each event."""

import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any
from uuid import UUID

import notifications.messages
import orders.messages
import payments.messages
import promises
import pytest
from chassis.errors.fields import MAX_AMOUNT
from chassis.events.outbox import Event
from compatibility import widenings
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker
from orders.payments_client import Payment, PaymentsClient
from orders.schemas import PlaceOrder
from pydantic import BaseModel

DOCUMENT: Mapping[str, Any] = promises.accepted()["openapi/payments"]
CONSUMERS: Mapping[str, ModuleType] = {
    "orders": orders.messages,
    "payments": payments.messages,
    "notifications": notifications.messages,
}


class Recorder:
    """Stands in for the HTTP client: keeps what was asked."""

    def __init__(self) -> None:
        self.method = self.path = ""
        self.json: object = None

    async def request(self, method: str, path: str, *, json: object, **_options: object) -> "Recorder":
        self.method, self.path, self.json = method, path, json
        return self

    def parse(self, model: type[BaseModel]) -> BaseModel:
        return model.model_construct()

    @property
    def operation(self) -> Mapping[str, Any]:
        """The operation of payments' document that was asked for."""
        for path, item in DOCUMENT["paths"].items():
            if self.method.lower() in item and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), self.path):
                found: Mapping[str, Any] = item[self.method.lower()]
                return found
        pytest.fail(f"payments has no {self.method} {self.path}")


AMOUNTS = st.integers(1, MAX_AMOUNT)
CURRENCIES = st.from_regex(r"[A-Z]{3}", fullmatch=True)
METHODS = st.from_regex(r"[A-Za-z0-9_]{1,64}", fullmatch=True)


@given(payment_id=st.uuids(), order_id=st.uuids(), amount=AMOUNTS, currency=CURRENCIES, payment_method=METHODS)
async def test_what_orders_sends_for_a_payment_is_what_payments_takes(**arguments: Any) -> None:
    recorder = Recorder()
    await PaymentsClient(recorder).request_payment(**arguments)
    assert problems_of_body(recorder) == []


@given(payment_id=st.uuids(), order_id=st.uuids(), amount=AMOUNTS, currency=CURRENCIES)
async def test_what_orders_sends_to_void_one_is_what_payments_takes(**arguments: Any) -> None:
    recorder = Recorder()
    await PaymentsClient(recorder).void_payment(**arguments)
    assert problems_of_body(recorder) == []


async def test_a_body_that_payments_would_refuse_is_noticed() -> None:
    recorder = Recorder()
    ids = {"payment_id": UUID(int=1), "order_id": UUID(int=2)}
    await PaymentsClient(recorder).request_payment(**ids, amount=0, currency="eur", payment_method="a b")
    assert len(problems_of_body(recorder)) == 3


def test_every_payment_method_that_orders_takes_is_one_that_payments_takes() -> None:
    taken = PlaceOrder.model_json_schema()["properties"]["payment_method"]
    passed_on = DOCUMENT["components"]["schemas"]["RequestPayment"]["properties"]["payment_method"]
    assert list(widenings(taken, passed_on, of={}, to={}, at="payment_method")) == []


@pytest.mark.parametrize("arguments", [{}, {"payment_method": "pm"}], ids=["void_payment", "request_payment"])
async def test_every_success_that_payments_promises_is_one_that_orders_can_read(arguments: dict[str, str]) -> None:
    recorder, client = Recorder(), PaymentsClient(Recorder())
    ask = client.request_payment if arguments else client.void_payment
    client._dependency = recorder
    await ask(payment_id=UUID(int=1), order_id=UUID(int=2), amount=1, currency="EUR", **arguments)
    successes = [found for status, found in recorder.operation["responses"].items() if status[0] == "2"]
    assert successes
    reads = Payment.model_json_schema()
    for success in successes:
        promised = success["content"]["application/json"]["schema"]
        assert list(widenings(promised, reads, of=DOCUMENT, to=reads, at="payment")) == []


def consumed() -> list[tuple[str, type[Event]]]:
    """Each event that a service reads of another's, with the reader's name."""
    produced = {event for events in promises.PRODUCED.values() for event in events}
    return [
        (name, found)
        for name, module in CONSUMERS.items()
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, Event) and hasattr(found, "options") and found not in produced
    ]


@pytest.mark.parametrize(("consumer", "event"), consumed(), ids=lambda value: getattr(value, "__name__", value))
def test_every_event_that_is_produced_is_one_that_its_consumers_can_read(consumer: str, event: type[Event]) -> None:
    producer = promises.accepted()[f"events/{event.options.type}"]
    assert event.options.version == producer["version"]
    reads = event.model_json_schema()
    assert list(widenings(producer["schema"], reads, of=producer["schema"], to=reads, at=event.options.type)) == []


def test_every_service_that_reads_events_is_looked_at() -> None:
    assert {name for name, _ in consumed()} == set(CONSUMERS)


def problems_of_body(recorder: Recorder) -> list[str]:
    (content,) = recorder.operation["requestBody"]["content"].values()
    schema = {**content["schema"], "components": DOCUMENT["components"]}
    validator = Draft202012Validator(schema, format_checker=FormatChecker())
    return [error.message for error in validator.iter_errors(recorder.json)]
