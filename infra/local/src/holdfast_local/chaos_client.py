"""A client that expects outages: it repeats a request under the same key until it has an answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

import aiohttp
from pydantic import BaseModel

from holdfast_local.demo_client import Answer, DemoClient, OrderSeen
from holdfast_local.demo_script import order_body
from holdfast_local.errors import RunnerError
from holdfast_local.installation import Installation

PATIENCE_SECONDS = 60.0  # above every outage and restart that is caused here
_PAUSE_SECONDS = 0.1
_TIMEOUT = aiohttp.ClientTimeout(total=10)  # a service answers within its own deadline of 10 s or not at all

type Card = Literal["pm_card_ok", "pm_card_declined", "pm_card_fails_later"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """What a client wants to buy; `key` makes it one purchase, however often it asks."""

    key: str
    client: str = "acme"
    card: Card = "pm_card_ok"
    quantity: int = 1


class _Transfer(BaseModel):
    reference: str
    status: str


class Ledger(BaseModel):
    """What the provider has done, as far as anybody here asks."""

    charges: list[_Transfer]
    refunds: list[_Transfer]


class PatientClient(DemoClient):
    """`place` and `cancel` try once and raise what goes wrong; `buy` and `call_off` do not give up."""

    def __init__(self, session: aiohttp.ClientSession, installation: Installation) -> None:
        super().__init__(session, installation)
        self.orders_url = installation.url("orders")
        self.repeats = 0
        """How often a request had to be made again."""

    async def place_purchase(self, purchase: Purchase) -> Answer:
        email = f"{purchase.key}@{purchase.client}.example"
        body = order_body(product="rope", quantity=purchase.quantity, email=email, card=purchase.card)
        return await self.place(purchase.client, purchase.key, body)

    async def buy(self, purchase: Purchase) -> str:
        """The id of the order: of one, whatever has to be repeated."""
        answer = await self._until({HTTPStatus.CREATED}, lambda: self.place_purchase(purchase))
        return OrderSeen.model_validate_json(answer.body).id

    async def call_off(self, client: str, order_id: str) -> None:
        await self._until({HTTPStatus.OK, HTTPStatus.ACCEPTED}, lambda: self.cancel(client, order_id))

    async def read_status(self, client: str, order_id: str) -> str:
        async def read() -> Answer:
            async with self._session.get(self._orders(f"/v1/orders/{order_id}"), headers=self._as(client)) as response:
                return self._noted(client, await Answer.of(response))

        return OrderSeen.model_validate_json((await self._until({HTTPStatus.OK}, read)).body).status

    async def set_mailbox_faults(self, switches: Mapping[str, float | bool]) -> None:
        """Replace all of them: `{}` is a mailbox without faults."""
        url = self._installation.url("mailbox") + "/faults"
        async with self._session.put(url, json=switches, raise_for_status=True):
            pass

    async def read_ledger(self) -> Ledger:
        return Ledger.model_validate_json(await self._read(self._installation.url("payment_provider") + "/ledger"))

    async def _until(self, wanted: set[HTTPStatus], ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask until the answer has a status that is wanted. Raises RunnerError for a refusal, and after a minute."""
        last: object = None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    last = await _one_answer(ask)
                    if isinstance(last, Answer) and last.status in wanted:
                        return last
                    if isinstance(last, Answer) and not _is_worth_repeating(last.status):
                        break
                    self.repeats += 1
                    await asyncio.sleep(_PAUSE_SECONDS)
        except TimeoutError:
            raise RunnerError(f"no answer within {PATIENCE_SECONDS:.0f} s; the last was {last!r}") from None
        raise RunnerError(f"was answered {last!r}")


async def _one_answer(ask: Callable[[], Awaitable[Answer]]) -> Answer | Exception:
    try:
        return await ask()
    except (aiohttp.ClientError, TimeoutError) as error:
        return error


def _is_worth_repeating(status: int) -> bool:
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in {HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS}


@asynccontextmanager
async def open_patient_client(installation: Installation) -> AsyncIterator[PatientClient]:
    # A connection of its own for each request: whether one that was kept open is still good is not what is tested.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector) as session:
        yield PatientClient(session, installation)
