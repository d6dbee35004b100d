"""The load: raw HTTP/1.1 over a fixed number of connections, each with one request at a time.

In a process of its own, and with as little work per request as Python allows, so that the server is the bottleneck.
Prints one JSON object. Any answer but the wanted one ends it with exit code 1.

    echo '{"port": 8001, "kind": "order_cached", "seconds": 2, "connections": 32, "key": "…", "ids": ["…"]}' | client.py
"""

import asyncio
import itertools
import json
import math
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvloop

PATIENCE_SECONDS = 10.0
"""An answer that takes longer is none."""
ORDER = {
    "lines": [{"product_id": "rope", "quantity": 2}, {"product_id": "cleat", "quantity": 1}],
    "customer_email": "ada@example.com",
    "payment_method": "pm_card_ok",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One slice: the kind of request, the port and the seconds.

    The requests read `ids` in turn, again and again. `order_uncached` reads each once and ends.
    """

    port: int
    kind: str
    seconds: float
    connections: int
    key: str
    ids: list[str]

    @property
    def wanted(self) -> bytes:
        return b"HTTP/1.1 201" if self.kind == "place" else b"HTTP/1.1 200"

    def requests(self) -> Iterator[bytes]:
        """Each as the bytes on the wire."""
        headers = f"Host: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {self.key}\r\nAccept: */*\r\n"
        if self.kind == "place":
            body = json.dumps(ORDER)
            head = f"POST /v1/orders HTTP/1.1\r\n{headers}Content-Type: application/json\r\n"
            run = uuid.uuid4().hex
            for number in itertools.count():
                key = f"Idempotency-Key: {run}-{number}\r\n"
                yield f"{head}{key}Content-Length: {len(body)}\r\n\r\n{body}".encode()
        path = "/v1/products" if self.kind == "product" else "/v1/orders"
        reads = [f"GET {path}/{one} HTTP/1.1\r\n{headers}\r\n".encode() for one in self.ids]
        yield from reads if self.kind == "order_uncached" else itertools.cycle(reads)


class _Connection(asyncio.Protocol):
    """Sends the next request when the answer to the last one has arrived in full."""

    def __init__(self, load: Load, requests: Iterator[bytes], latencies: list[float], stop: Callable[[], bool]) -> None:
        self._load = load
        self._requests = requests
        self._latencies = latencies
        self._stop = stop
        self._buffer = b""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        self._ask()

    def _ask(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._end(None)
            return
        self._started = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        if not head.startswith(self._load.wanted):
            self._end(RuntimeError(f"not the wanted answer: {self._buffer.decode()}"))
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self._buffer = b""
        self._latencies.append(time.perf_counter() - self._started)
        if self._stop():
            self._end(None)
        else:
            self._ask()

    def connection_lost(self, _error: Exception | None) -> None:
        self._end(RuntimeError("the server closed the connection"))

    def _end(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(error) if error else self.ended.set_result(None)
        self._transport.close()


async def run(load: Load) -> dict[str, float]:
    """Requests answered, the seconds it took, and the latencies' percentiles in ms."""
    loop = asyncio.get_running_loop()
    requests = load.requests()
    latencies: list[float] = []
    started = time.perf_counter()
    made = [
        await loop.create_connection(
            lambda: _Connection(load, requests, latencies, lambda: time.perf_counter() - started > load.seconds),
            "127.0.0.1",
            load.port,
        )
        for _ in range(load.connections)
    ]
    async with asyncio.timeout(load.seconds + PATIENCE_SECONDS):
        await asyncio.gather(*(connection.ended for _, connection in made))
    seconds = time.perf_counter() - started
    latencies.sort()
    return {
        "requests": len(latencies),
        "seconds": seconds,
        "p50_ms": _percentile(latencies, 0.50) * 1000,
        "p99_ms": _percentile(latencies, 0.99) * 1000,
    }


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1]


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(Load(**json.load(sys.stdin))))))
