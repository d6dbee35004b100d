"""A receiver of the provider's webhooks, inside the test."""

import asyncio
import json
from dataclasses import dataclass, field

from aiohttp import web
from simulator_process import DEADLINE_SECONDS, SECRET, Json
from standardwebhooks import Webhook, WebhookVerificationError

NEVER = 0
"""For `Receiver.answers`: no status, no answer."""


@dataclass
class Delivery:
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> Json:
        event: Json = json.loads(self.body)
        return event

    def is_genuine(self) -> bool:
        try:
            Webhook(SECRET).verify(self.body, self.headers)
        except WebhookVerificationError:
            return False
        return True


@dataclass
class Receiver:
    """Takes webhooks; `answers` holds the statuses to answer first, by reference, before it says 204."""

    url: str = ""
    deliveries: list[Delivery] = field(default_factory=list)
    answers: dict[str, list[int]] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.BaseRequest) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        delivery = Delivery(headers, await request.read())
        self.deliveries.append(delivery)
        self.arrived.set()
        statuses = self.answers.get(delivery.event["data"]["reference"])
        status = statuses.pop(0) if statuses else 204
        if status == NEVER:
            await asyncio.get_running_loop().create_future()
        return web.Response(status=status, headers={"Location": self.url})

    async def wait_for(self, reference: str, count: int = 1) -> list[Delivery]:
        """The deliveries about `reference`, once there are `count` of them."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(found := [d for d in self.deliveries if d.event["data"]["reference"] == reference]) < count:
                self.arrived.clear()
                await self.arrived.wait()
        return found
