"""An error says enough: a client that knows no document, only its own data, places an order by what the errors say."""

import re
from itertools import count
from typing import Any

import httpx
import orjson
from api_keys import caller
from backends import FreshDatabase
from chassis.config import Live
from chassis.config.settings import RedisSettings
from harness import AUTH, SHOP, UNLIMITED, own_service, running
from orders.api import create_app
from orders.settings import OrdersSettings

# What somebody who wants an order has at hand, whatever its fields turn out to be.
OWN = {"customer_email": "ada@example.com", "payment_method": "pm_card_ok"}
GIVES_UP_AFTER = 12


class Robot:
    """Asks, reads the error, corrects what it names, and asks again."""

    def __init__(self, client: httpx.AsyncClient, body: dict[str, Any]) -> None:
        self._client = client
        self._body = body
        self._headers: dict[str, str] = {}
        self._keys = (f"key-{number}" for number in count(1))
        self.codes: list[str] = []

    async def order(self) -> httpx.Response:
        while True:
            response = await self._client.post("/v1/orders", content=orjson.dumps(self._body), headers=self._headers)
            if response.is_success or len(self.codes) == GIVES_UP_AFTER:
                return response
            error = response.json()["error"]
            self.codes.append(error["code"])
            await self._correct(error)

    async def _correct(self, error: dict[str, Any]) -> None:
        match error["code"]:
            case "UNAUTHENTICATED":
                self._headers |= caller(SHOP)
            case "UNSUPPORTED_MEDIA_TYPE":
                self._headers["Content-Type"] = re.findall(r"\w+/\w+", error["message"])[0]
            case "IDEMPOTENCY_KEY_MISSING" | "IDEMPOTENCY_KEY_REUSED":
                self._headers["Idempotency-Key"] = next(self._keys)
            case "VALIDATION_FAILED":
                for detail in error["details"]:
                    self._correct_field(detail)
            case "UNKNOWN_PRODUCT":
                products = (await self._client.get("/v1/products", headers=self._headers)).json()["items"]
                for detail in error["details"]:
                    self._put(detail["field"], products[0]["id"])

    def _correct_field(self, detail: dict[str, str]) -> None:
        field, message = detail["field"], detail["message"]
        if message == "Field required":
            self._put(field, OWN[field])
        elif message == "Extra inputs are not permitted":
            self._put(field, None)
        elif bound := re.search(r"(?:greater|less) than or equal to (\d+)", message):
            self._put(field, int(bound[1]))

    def _put(self, field: str, value: object) -> None:
        """Set what the dotted path leads to; None takes it away."""
        *way, last = field.split(".")
        place: Any = self._body
        for step in way:
            place = place[int(step)] if isinstance(place, list) else place[step]
        if value is None:
            del place[last]
        else:
            place[last] = value


async def test_a_client_that_reads_nothing_but_errors_gets_its_order(
    empty_database: FreshDatabase, patient_redis: RedisSettings
) -> None:
    settings = OrdersSettings(
        database=await empty_database("orders"),
        redis=patient_redis,
        auth=AUTH,
        rate_limit=UNLIMITED,
        payments=own_service("http://127.0.0.1:9"),
    )
    wrong = {"lines": [{"product_id": "ropes", "quantity": 5000, "colour": "red"}], "comment": "please"}
    async with running(create_app(Live(settings))) as client_of, client_of() as known, client_of(None) as client:
        taken = OWN | {"lines": [{"product_id": "rope"}]}
        await known.post("/v1/orders", json=taken, headers={"Idempotency-Key": "key-1"})
        robot = Robot(client, wrong)
        answer = await robot.order()
    assert robot.codes == [
        "UNAUTHENTICATED",
        "IDEMPOTENCY_KEY_MISSING",
        "UNSUPPORTED_MEDIA_TYPE",
        "VALIDATION_FAILED",
        "IDEMPOTENCY_KEY_REUSED",
        "UNKNOWN_PRODUCT",
    ]
    assert answer.status_code == 201
    assert answer.json()["lines"][0]["quantity"] == 1000
