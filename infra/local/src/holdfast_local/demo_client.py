"""What the demo knows of the platform: only what any client or operator could ask over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self

import aiohttp
from pydantic import BaseModel, TypeAdapter

from holdfast_local.demo_script import OrderBody
from holdfast_local.history import History
from holdfast_local.installation import Installation

_TIMEOUT = aiohttp.ClientTimeout(total=10)  # seconds; a service answers within its own deadline of 10 s or not at all
_TRIES = 20  # of a request that is over its limit: each waits for what one more costs


class OrderSeen(BaseModel):
    """An order as its client sees it; `reason` is known only where it was asked for by id."""

    id: str
    status: str
    amount: int
    reason: str | None = None


class OrderPage(BaseModel):
    items: list[OrderSeen]


class _Detail(BaseModel):
    field: str


class _Error(BaseModel):
    code: str
    details: list[_Detail]


class ErrorEnvelope(BaseModel):
    error: _Error
    request_id: str


class ProcessInfo(BaseModel):
    """What a process says of itself on its management port."""

    service: str
    role: str
    version: str
    environment: str


class _Mail(BaseModel):
    message_id: str


_MAILS = TypeAdapter(list[_Mail])


class EndpointSeen(BaseModel):
    """A client's webhook endpoint."""

    id: str
    url: str
    enabled: bool
    disabled_reason: str | None


class Endpoint(EndpointSeen):
    """The same, as the answer to its creation alone shows it."""

    secret: str


class Delivery(BaseModel):
    """An attempt as the customer's endpoint kept it; `status` is None until it has answered."""

    webhook_id: str | None
    verified: bool
    status: int | None


_DELIVERIES = TypeAdapter(list[Delivery])


class Transfer(BaseModel):
    amount: int
    status: str


class Transfers(BaseModel):
    """The provider's ledger."""

    charges: list[Transfer] = []
    refunds: list[Transfer] = []

    @property
    def captured(self) -> list[Transfer]:
        return [charge for charge in self.charges if charge.status == "captured"]

    @property
    def refunded(self) -> list[Transfer]:
        return [refund for refund in self.refunds if refund.status == "succeeded"]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    retry_after: float = 0.0

    @classmethod
    async def of(cls, response: aiohttp.ClientResponse) -> Self:
        return cls(response.status, await response.read(), float(response.headers.get("Retry-After", 0)))


async def served(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """The first answer that is no 429, having waited as long as each of those asked for; after 20 the last of them."""
    for _ in range(_TRIES):
        answer = await ask()
        if answer.status != HTTPStatus.TOO_MANY_REQUESTS:
            break
        await asyncio.sleep(answer.retry_after)
    return answer


class DemoClient:
    """`switches` of the provider's faults are those of infra/simulators/README.md."""

    def __init__(self, session: aiohttp.ClientSession, installation: Installation) -> None:
        self._session = session
        self._installation = installation
        self._history = History(installation.settings.state)

    async def place(self, client: str, key: str, body: OrderBody) -> Answer:
        headers = self._as(client) | {"Idempotency-Key": key}
        async with self._session.post(self._orders("/v1/orders"), json=body, headers=headers) as response:
            return self._noted(client, await Answer.of(response), key)

    async def cancel(self, client: str, order_id: str) -> Answer:
        url = self._orders(f"/v1/orders/{order_id}/cancel")
        async with self._session.post(url, headers=self._as(client)) as response:
            return self._noted(client, await Answer.of(response))

    async def read_catalogue(self, client: str) -> Answer:
        async with self._session.get(self._orders("/v1/products"), headers=self._as(client)) as response:
            return await Answer.of(response)

    async def read_orders(self, client: str) -> list[OrderSeen]:
        """All of a client's orders in one page; none while the client is over its limit."""
        url = self._orders("/v1/orders?limit=100")
        async with self._session.get(url, headers=self._as(client)) as response:
            answer = await Answer.of(response)
        return OrderPage.model_validate_json(answer.body).items if answer.status == HTTPStatus.OK else []

    async def read_order(self, client: str, order_id: str) -> OrderSeen:
        async def read() -> Answer:
            async with self._session.get(self._orders(f"/v1/orders/{order_id}"), headers=self._as(client)) as response:
                return self._noted(client, await Answer.of(response))

        return OrderSeen.model_validate_json((await served(read)).body)

    async def read_payment(self, client: str, order_id: str) -> Answer:
        url = self._orders(f"/v1/orders/{order_id}/payment")
        async with self._session.get(url, headers=self._as(client)) as response:
            return await Answer.of(response)

    async def create_endpoint(self, client: str) -> Answer:
        """A webhook endpoint at the simulated customer's, under the client's name, and its address."""
        url = self._installation.url("notifications") + "/v1/webhook-endpoints"
        headers = self._as(client) | {"Idempotency-Key": "demo-endpoint"}
        body = {"url": self._customer(f"/webhooks/{client}"), "contact_email": f"webhooks@{client}.example"}
        async with self._session.post(url, json=body, headers=headers) as response:
            return await Answer.of(response)

    async def read_endpoint(self, client: str, endpoint_id: str) -> EndpointSeen:
        url = f"{self._installation.url('notifications')}/v1/webhook-endpoints/{endpoint_id}"
        async with self._session.get(url, headers=self._as(client), raise_for_status=True) as response:
            return EndpointSeen.model_validate_json(await response.read())

    async def give_secret(self, client: str, secret: str) -> None:
        """Tell the customer's endpoint what verifies the signatures of what is sent to the client."""
        body = {"secrets": [secret]}
        async with self._session.put(self._customer(f"/secrets/{client}"), json=body, raise_for_status=True):
            pass

    async def read_deliveries(self, client: str) -> list[Delivery]:
        """Every attempt that reached the client's endpoint, copies and forgeries included."""
        return _DELIVERIES.validate_json(await self._read(self._customer(f"/received?name={client}")))

    async def read_transfers(self) -> Transfers:
        return Transfers.model_validate_json(await self._read(self._installation.url("payment_provider") + "/ledger"))

    async def set_provider_faults(self, switches: Mapping[str, float | bool]) -> None:
        """Replace all of them: `{}` is a provider without faults."""
        url = self._installation.url("payment_provider") + "/faults"
        async with self._session.put(url, json=switches, raise_for_status=True):
            pass

    async def set_customer_faults(self, switches: Mapping[str, float | bool]) -> None:
        """The same of the customers' server."""
        async with self._session.put(self._customer("/faults"), json=switches, raise_for_status=True):
            pass

    async def read_message_ids(self) -> list[str]:
        """Of every mail that arrived, copies included."""
        mails = _MAILS.validate_json(await self._read(self._installation.url("mailbox") + "/messages"))
        return [mail.message_id for mail in mails]

    async def read_metrics(self, management: str) -> str:
        return (await self._read(f"{management}/metrics")).decode()

    async def read_info(self, management: str) -> ProcessInfo:
        return ProcessInfo.model_validate_json(await self._read(f"{management}/info"))

    def _noted(self, client: str, answer: Answer, key: str | None = None) -> Answer:
        """An answer about an order; of a 2xx the oracle will ask whether it has been kept."""
        if HTTPStatus(answer.status).is_success:
            self._history.note_answer(client, key, answer.body)
        return answer

    async def _read(self, url: str) -> bytes:
        async with self._session.get(url, raise_for_status=True) as response:
            return await response.read()

    def _orders(self, path: str) -> str:
        return self._installation.url("orders") + path

    def _customer(self, path: str) -> str:
        return self._installation.url("customer_endpoint") + path

    def _as(self, client: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._installation.secrets.client_keys[client]}"}


@asynccontextmanager
async def open_demo_client(installation: Installation) -> AsyncIterator[DemoClient]:
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        yield DemoClient(session, installation)
