"""What a call, a webhook received and a webhook sent cost: `make bench-calls`.

One dependency call through everything that the chassis has around it, against the bare call and against tenacity and
pybreaker around the same one, in CPU; webhook-ingest's answers at 200 a second; deliveries of notifications' worker.
Rounds are interleaved, and a figure is the median of all rounds. The exit code is 1 when a limit is missed. The last
line is one JSON object.
"""

import argparse
import asyncio
import base64
import json
import secrets
import statistics
import sys
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import delivering
from holdfast_local.ports import LOOPBACK
from stage import HERE, BenchError, answering, run, running_servers

ROUNDS = 5
CALLS = 3_000
ACKNOWLEDGED_PER_SECOND = 200
ACKNOWLEDGED_SECONDS = 3.0
DELIVERIES_EACH = 8  # for each of fifty endpoints

GATES = tomllib.loads((HERE.parent / "gates.toml").read_text("utf-8"))["calls"]

CALLERS = {
    "bare": sys.executable,
    "own": sys.executable,
    "rivals": HERE / ".venv" / "bin" / "python",  # apart from the project, which needs neither
}

type Figures = dict[str, list[float]]


async def measure_call(caller: str, port: int) -> float:
    """Microseconds of CPU per call, in a process of its own."""
    return float(await run(CALLERS[caller], HERE / "callers" / f"{caller}.py", str(port), str(CALLS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledging:
    url: str
    secret: str

    async def measure(self) -> dict[str, float]:
        load = {
            "url": self.url,
            "secret": self.secret,
            "per_second": ACKNOWLEDGED_PER_SECOND,
            "seconds": ACKNOWLEDGED_SECONDS,
        }
        given = json.dumps(load).encode()
        found: dict[str, float] = json.loads(await run(sys.executable, HERE / "acknowledging.py", given=given))
        return found


async def measure(rounds: int) -> Figures:
    figures: Figures = defaultdict(list)
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(answering())
        for round_ in range(rounds):
            # The second one finds a warmer machine: take turns.
            for caller in list(CALLERS)[:: 1 if round_ % 2 else -1]:
                figures[caller].append(await measure_call(caller, port))
        servers = await stack.enter_async_context(running_servers())
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        ingest = await servers.install("webhook-ingest", webhook_secrets__payment_provider=json.dumps([secret]))
        notifications = await delivering.install(servers, port)
        await stack.enter_async_context(ingest.running("api"))
        await stack.enter_async_context(notifications.running("worker"))
        url = f"http://{LOOPBACK}:{ingest.http_port}/v1/webhooks/payment-provider"
        acknowledging = Acknowledging(url=url, secret=secret)
        for _ in range(rounds):
            for name, milliseconds in (await acknowledging.measure()).items():
                figures[f"ack {name}"].append(milliseconds)
            figures["deliveries/s"].append(await delivering.measure(notifications, each=DELIVERIES_EACH))
    return figures


def ratio(figures: Figures, other: str) -> float:
    """The other's CPU per call ÷ ours: the median of the rounds, each of which measures them one after the other."""
    return statistics.median(theirs / ours for theirs, ours in zip(figures[other], figures["own"], strict=True))


def table(figures: Figures) -> str:
    rows = [f"{'':22} {'median':>9} {'least':>9} {'most':>9}"]
    for name, found in figures.items():
        label = f"call, {name}: CPU µs" if name in CALLERS else name
        rows.append(f"{label:22} {statistics.median(found):9.1f} {min(found):9.1f} {max(found):9.1f}")
    return "\n".join(rows)


def misses(ratios: dict[str, float], p99_ms: float, deliveries: float) -> Sequence[str]:
    missed = [f"{name} {ratio} < {GATES[name]}" for name, ratio in ratios.items() if ratio < GATES[name]]
    if p99_ms > (most := GATES["acknowledged_p99_ms_at_most"]):
        missed.append(f"ack_p99_ms {p99_ms} > {most}")
    if deliveries < (least := GATES["deliveries_at_least"]):
        missed.append(f"deliveries_per_second {deliveries} < {least}")
    return missed


def main(rounds: int) -> int:
    figures = asyncio.run(measure(rounds))
    ratios = {
        "call_vs_bare": round(ratio(figures, "bare"), 3),
        "call_vs_tenacity_pybreaker": round(ratio(figures, "rivals"), 3),
    }
    p99_ms = round(statistics.median(figures["ack p99_ms"]), 1)
    deliveries = round(statistics.median(figures["deliveries/s"]), 1)
    print(table(figures))
    if missed := misses(ratios, p99_ms, deliveries):
        print(f"too slow: {', '.join(missed)}", file=sys.stderr)
    result = {"bench": "calls", "ratios": ratios, "ack_p99_ms": p99_ms, "deliveries_per_second": deliveries}
    print(json.dumps(result), flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Calls, webhooks received and webhooks sent.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    try:
        sys.exit(main(parser.parse_args().rounds))
    except BenchError as error:
        sys.exit(f"bench-calls: {error}")
