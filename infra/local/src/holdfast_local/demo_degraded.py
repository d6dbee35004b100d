"""The demo's step without a dependency: payments' API is killed, and an order's payment is read all the same."""

from functools import partial
from http import HTTPStatus

from pydantic import BaseModel

from holdfast_local.demo_client import DemoClient, served
from holdfast_local.demo_metrics import Metrics
from holdfast_local.demo_watch import Narrator, poll
from holdfast_local.errors import RunnerError
from holdfast_local.platform import Platform

API = "payments-api"


class PaymentSeen(BaseModel):
    """An order's payment as its client sees it."""

    status: str
    detail: str | None
    degraded: bool


async def read_without_payments(
    platform: Platform,
    client: DemoClient,
    narrator: Narrator,
    metrics: Metrics,
    *,
    customer: str,
    order_id: str,
    seconds: float,
) -> None:
    """Read a paid order's payment before payments' API is killed, while it is down, and once it is back.

    Raises RunnerError for an answer that is not as expected. `seconds` limits the wait for the recovery.
    """
    await _expect(client, customer, order_id, PaymentSeen(status="paid", detail="captured", degraded=False))
    # A killed process takes its counts with it, so the demo reads them before.
    text = await client.read_metrics(platform.supervisor.entries[API].program.management)
    metrics.add(text, of_ended_process=True)
    platform.kill(API)
    await _expect(client, customer, order_id, PaymentSeen(status="paid", detail=None, degraded=True))
    narrator.say("degraded", f"{API} is killed; order 1's payment is read: 200, paid, from the order, degraded")

    async def is_back() -> bool:
        return not (await _read(client, customer, order_id)).degraded

    await platform.until_ready(API)
    await poll(is_back, seconds=seconds, problem=lambda: "order 1's payment is still degraded")
    narrator.say("recovered", f"{API} answers again; order 1's payment is read: captured, not degraded", style="green")


async def _expect(client: DemoClient, customer: str, order_id: str, expected: PaymentSeen) -> None:
    seen = await _read(client, customer, order_id)
    if seen != expected:
        raise RunnerError(f"expected the payment of order {order_id} to be {expected}, but it is {seen}")


async def _read(client: DemoClient, customer: str, order_id: str) -> PaymentSeen:
    answer = await served(partial(client.read_payment, customer, order_id))
    if answer.status != HTTPStatus.OK:
        raise RunnerError(f"the payment of order {order_id} was answered {answer.status}: {answer.body.decode()}")
    return PaymentSeen.model_validate_json(answer.body)
