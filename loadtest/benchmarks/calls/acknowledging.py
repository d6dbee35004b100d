"""A provider that sends webhooks at a steady rate, whatever comes of them (open loop): in a process of its own.

Each is new and signed. A latency counts from the moment it should have been sent, so that a server which stalls is
charged with all that had to wait; one that was refused since there was too much work (503) counts as never answered.
Prints one JSON object; any other answer, or one in a hundred refused, ends it with exit code 1.

    echo '{"url": "http://…", "secret": "whsec_…", "per_second": 200, "seconds": 3}' | acknowledging.py
"""

import asyncio
import json
import math
import sys
import time
import uuid
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
import orjson
import uvloop
from chassis.webhooks import sign


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`warm_up` in seconds; what is sent in them does not count."""

    url: str
    secret: str
    per_second: int
    seconds: float
    warm_up: float = 1.0


def event() -> bytes:
    about = {
        "id": "ch_1",
        "reference": str(uuid.uuid4()),
        "object_version": 2,
        "amount": 12898,
        "currency": "EUR",
        "failure_code": None,
    }
    return orjson.dumps({"type": "charge.succeeded", "created_at": "2026-01-01T00:00:00Z", "data": about})


async def send(session: aiohttp.ClientSession, load: Load, due: float) -> float:
    """Seconds from when it was due until its answer was there; infinite when it was refused."""
    body = event()
    headers = sign(load.secret, uuid.uuid4().hex, int(time.time()), body)
    async with session.post(load.url, data=body, headers=headers | {"Content-Type": "application/json"}) as answer:
        text = await answer.text()
    if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
        return math.inf
    if answer.status != HTTPStatus.OK or '"accepted"' not in text:
        raise RuntimeError(f"not acknowledged: {answer.status} {text}")
    return time.perf_counter() - due


async def run(load: Load) -> dict[str, float]:
    """The latencies' percentiles in ms."""
    started = time.perf_counter()
    sent: list[tuple[float, asyncio.Task[float]]] = []
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200)) as session,
        asyncio.TaskGroup() as tasks,
    ):
        for number in range(round((load.warm_up + load.seconds) * load.per_second)):
            due = started + number / load.per_second
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sent.append((due, tasks.create_task(send(session, load, due))))
    latencies = sorted(task.result() for due, task in sent if due >= started + load.warm_up)
    if math.isinf(_percentile(latencies, 0.99)):
        raise SystemExit(f"{latencies.count(math.inf)} of {len(latencies)} were refused: too busy to measure on")
    return {name: _percentile(latencies, share) * 1000 for name, share in (("p50_ms", 0.50), ("p99_ms", 0.99))}


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1]


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(Load(**json.load(sys.stdin))))))
