"""A platform that a test decides about, and Locust in a process of its own, since it patches the one it is in."""

import asyncio
import os
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from holdfast_local.ports import free_port
from load_modules import LOADTEST

LOCUST = Path(sys.executable).with_name("locust")


@dataclass(slots=True)
class FakeOrders:
    """An orders API of which a test decides how it misbehaves: `refuse` may answer any request before it is served."""

    url: str = ""
    refuse: Callable[[web.Request], web.Response | None] = lambda _: None
    ends: Callable[[dict[str, Any]], str] = lambda body: (
        "confirmed" if body["payment_method"] == "pm_card_ok" else "cancelled"
    )
    keys: set[str] = field(default_factory=set)
    placed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The body of each order by its Idempotency-Key."""
    faults: list[dict[str, Any]] = field(default_factory=list)
    """What the payment provider was told to do wrong."""
    webhooks: list[web.Request] = field(default_factory=list)
    webhook_answer: Callable[[web.Request], int] = lambda _: 200
    asked: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """When an order was asked for, by its Idempotency-Key, refusals included."""
    _orders: dict[str, str] = field(default_factory=dict)

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._middleware])
        application.router.add_post("/v1/orders", self._place)
        application.router.add_post("/v1/orders/{id}/cancel", self._cancel)
        application.router.add_get("/v1/orders/{id}", self._get)
        application.router.add_get("/v1/{list}", self._list)
        application.router.add_put("/faults", self._break)
        application.router.add_post("/v1/webhooks/payment-provider", self._receive)
        return application

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        if request.path.startswith("/faults"):
            return await handler(request)
        self.keys.add(request.headers["Authorization"].removeprefix("Bearer "))
        if key := request.headers.get("Idempotency-Key"):
            self.asked[key].append(time.monotonic())
        return self.refuse(request) or await handler(request)

    async def _place(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.placed[request.headers["Idempotency-Key"]] = body
        order_id = f"order-{len(self._orders)}"
        self._orders[order_id] = self.ends(body)
        return web.json_response({"id": order_id, "status": "pending"}, status=201)

    async def _cancel(self, request: web.Request) -> web.Response:
        self._orders[request.match_info["id"]] = "cancelled"
        return web.json_response({"id": request.match_info["id"], "status": "cancelling"}, status=202)

    async def _get(self, request: web.Request) -> web.Response:
        order_id = request.match_info["id"]
        return web.json_response({"id": order_id, "status": self._orders[order_id]})

    async def _break(self, request: web.Request) -> web.Response:
        self.faults.append(await request.json())
        return web.json_response({})

    async def _receive(self, request: web.Request) -> web.Response:
        await request.read()  # aiohttp keeps it
        self.webhooks.append(request)
        return web.json_response({}, status=self.webhook_answer(request))

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response({"items": []})


@asynccontextmanager
async def serving() -> AsyncIterator[FakeOrders]:
    fake = FakeOrders()
    runner = web.AppRunner(fake.application(), shutdown_timeout=1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    fake.url = f"http://127.0.0.1:{port}"
    yield fake
    await runner.cleanup()


def write_keys(folder: Path) -> Path:
    """Two clients', with what a mounted Secret has beside them."""
    (folder / "..data").mkdir(parents=True)
    for client in ("acme", "globex"):
        (folder / client).write_text(f"key-of-{client}\n")
    return folder


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    output: str

    @property
    def violated(self) -> list[str]:
        """The limits that were not kept, without those on how fast a machine that is busy with other tests answers."""
        lines = [line for line in self.output.splitlines() if line.startswith("✘ violated")]
        return [line for line in lines if "within" not in line]


async def start_locust(url: str, keys: Path | None, *options: str, **variables: str) -> asyncio.subprocess.Process:
    command = [LOCUST, "-f", LOADTEST / "locustfile.py", "--headless", "--only-summary", "--loglevel", "ERROR"]
    command += ["--host", url, *(["--keys", keys] if keys else []), *options]
    return await asyncio.create_subprocess_exec(
        *command,
        env=os.environ | variables,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def locust(url: str, keys: Path | None, *options: str, **variables: str) -> Ended:
    process = await start_locust(url, keys, *options, **variables)
    try:
        async with asyncio.timeout(50):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(process.returncode, output.decode())
