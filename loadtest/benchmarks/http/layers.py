"""What each layer of the chassis costs: orders in this process, asked over ASGI, with one layer switched off at a time.

Run by `loadtest/benchmarks/http --layers`, which gives it a database, a Redis and settings. CPU time of the process per
request, the least of several rounds: without HTTP, so that what is left is the application.
"""

import asyncio
import gc
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import uvloop
from chassis.app.api import middleware
from chassis.auth import Authenticator, Principal
from chassis.caching import Cache
from chassis.config import load_live
from chassis.logging.writer import LineWriter
from chassis.process.running import identify
from chassis.rate_limiting import Decision, RateLimiter
from orders.api import create_app
from orders.settings import OrdersSettings
from servers import SCOPES

AT_ONCE = 16
REQUESTS = 20 * AT_ONCE
ROUNDS = 20

_PATH = "/v1/products/rope"
_PRODUCT = b'{"id":"rope","name":"Mooring rope, 10 m","price":1999,"currency":"EUR"}'
_ALLOWED = Decision(allowed=True, tat=0, remaining=1, retry_after=0.0, reset_after=0.0)
_UNRECORDED = SimpleNamespace(is_recording=lambda: False)

type App = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


async def _allow(*_: object, **__: object) -> Decision:
    return _ALLOWED


async def _found(*_: object) -> bytes:
    return _PRODUCT


def _nothing(*_: object, **__: object) -> None:
    return None


def _no_span(*_: object, **__: object) -> AbstractContextManager[Any]:
    return nullcontext(_UNRECORDED)


def _somebody(*_: object) -> Principal:
    return Principal("bench", frozenset(SCOPES))


OFF: Mapping[str, list[AbstractContextManager[Any]]] = {
    "nothing": [],
    "span": [mock.patch.object(middleware, "span", _no_span)],
    "metrics and canonical line": [mock.patch.object(middleware.RequestContext, "_record", staticmethod(_nothing))],
    "log writer": [mock.patch.object(LineWriter, "put", _nothing)],
    "authentication": [mock.patch.object(Authenticator, "authenticate", _somebody)],
    "limiter": [mock.patch.object(RateLimiter, "check", _allow)],
    "cache": [mock.patch.object(Cache, "get_or_load_json", _found)],
    "limiter and cache": [
        mock.patch.object(RateLimiter, "check", _allow),
        mock.patch.object(Cache, "get_or_load_json", _found),
    ],
}


async def measure(app: App, key: str) -> dict[str, float]:
    """CPU µs per request with each layer off; the rounds are interleaved."""
    found: dict[str, list[float]] = {name: [] for name in OFF}
    for round_ in range(ROUNDS + 1):
        for name, patches in OFF.items():
            with ExitStack() as stack:
                for patch in patches:
                    stack.enter_context(patch)
                started = time.process_time()
                await asyncio.gather(*(_ask(app, key, REQUESTS // AT_ONCE) for _ in range(AT_ONCE)))
                if round_:  # the first one warms up
                    found[name].append((time.process_time() - started) / REQUESTS * 1_000_000)
    return {name: min(each) for name, each in found.items()}


async def _ask(app: App, key: str, times: int) -> None:
    statuses: list[int] = []

    async def receive() -> None:
        await asyncio.get_running_loop().create_future()

    async def send(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    for _ in range(times):
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
            "scheme": "http",
            "root_path": "",
            "method": "GET",
            "path": _PATH,
            "raw_path": _PATH.encode(),
            "query_string": b"",
            "headers": [(b"host", b"x"), (b"authorization", f"Bearer {key}".encode())],
            "state": {},
        }
        await app(scope, receive, send)
    if set(statuses) != {200}:
        raise SystemExit(f"not every answer was 200: {sorted(set(statuses))}")


async def main(app: Any, key: str) -> None:
    async with app.router.lifespan_context(app):
        gc.freeze()
        found = await measure(app, key)
    whole = found.pop("nothing")
    print(f"{'GET ' + _PATH:28} {whole:4.0f} µs", file=sys.stderr)
    for name, rest in found.items():
        print(f"  {name:26} {whole - rest:4.0f}", file=sys.stderr)


if __name__ == "__main__":
    live = load_live(OrdersSettings)
    with identify(live, version="bench", role="api"):
        uvloop.run(main(create_app(live), os.environ["BENCH_KEY"]))
