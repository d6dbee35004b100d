"""How long a client waits for its order while all processes of the platform are replaced: `make bench-rollout`.

Ten orders a second are posted, however long the earlier ones take, in three phases: without a roll-out, while the
processes are replaced one by one, and while all eight are replaced at once, as after `helm upgrade`. As on a cluster, a
new process starts beside the old one; once it is ready, connections reach it, and the old one gets SIGTERM. Exit code 1
when an order is refused, or when the p99 without a roll-out or one by one is over the limit. The last line is one JSON
object.
"""

import asyncio
import json
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import aiohttp
from addresses import Address
from holdfast_local import topology
from holdfast_local.chaos_settings import passing_settings
from holdfast_local.platform import Platform, running_platform
from holdfast_local.ports import free_port
from holdfast_local.probes import ready_over_http
from holdfast_local.processes import Process, kill, spawn, stop, wait_until_ready
from holdfast_local.programs import Program
from holdfast_local.secrets import SERVICES

RATE = 10.0
QUIET_SECONDS = 15.0
START_SECONDS = 120.0
HTTP_PORT, MANAGEMENT_PORT = "HOLDFAST_HTTP__PORT", "HOLDFAST_MANAGEMENT__PORT"
GATES = tomllib.loads((Path(__file__).parents[1] / "gates.toml").read_text("utf-8"))["rollout"]
ORDER = {
    "lines": [{"product_id": "rope", "quantity": 2}],
    "customer_email": "ada@example.com",
    "payment_method": "pm_card_ok",
}
NO_LIMIT = {
    "rate_limit.rate_per_second": 1000,
    "rate_limit.burst": 1000,
    "rate_limit.edges": '{"orders": {"payments": 10000}, "payments": {"provider": 10000}}',
}
GATED = ("no roll-out", "one by one")
"""All at once, eight processes need more than two cores give in that time, so this phase is only reported."""
SERVING = frozenset(f"{service}-{role}" for service in SERVICES for role in ("api", "worker"))


class Rolling:
    """The platform's serving processes. Clients reach each API at one address, behind which the process changes."""

    def __init__(self, programs: Sequence[Program], addresses: Mapping[str, Address]) -> None:
        self.names = [program.name for program in programs]
        self._programs = {program.name: program for program in programs}
        self._addresses = addresses
        self._processes: dict[str, Process] = {}

    async def replace(self, name: str) -> None:
        """Start the program's next process, send connections to it once it is ready, and stop the one before."""
        program, port, management = self._programs[name], free_port(), free_port()
        moved = {HTTP_PORT: str(port)} if name in self._addresses else {}
        env = {**(program.env or {}), **moved, MANAGEMENT_PORT: str(management)}
        process = await spawn(program.command, log=program.log, env=env)
        before, self._processes[name] = self._processes.get(name), process
        answers = ready_over_http(management)
        await wait_until_ready(process, answers, name=name, log=program.log, deadline_seconds=START_SECONDS)
        if name in self._addresses:
            self._addresses[name].port = port
        if before is not None:
            await stop(before, stop_signal=program.stop_signal, deadline_seconds=program.stop_seconds)

    async def one_by_one(self) -> None:
        for name in self.names:
            await self.replace(name)

    async def all_at_once(self) -> None:
        async with asyncio.TaskGroup() as group:
            for name in self.names:
                group.create_task(self.replace(name))

    async def end(self) -> None:
        for process in self._processes.values():
            await kill(process)


@asynccontextmanager
async def rolling_platform() -> AsyncIterator[tuple[Platform, Rolling]]:
    async with AsyncExitStack() as stack:
        settings = stack.enter_context(passing_settings())
        platform = await stack.enter_async_context(
            running_platform(
                settings,
                wanted=lambda program: program.name not in SERVING,
                adapt=lambda program: replace(program, after=program.after - SERVING),
            )
        )
        addresses = {
            f"{service}-api": await stack.enter_async_context(Address.at(settings.port(service.replace("-", "_"))))
            for service in SERVICES
        }
        services = topology.services(platform.installation, dict.fromkeys(SERVING, NO_LIMIT))
        programs = [one for one in services if one.name in SERVING]
        rolling = Rolling(programs, addresses)
        stack.push_async_callback(rolling.end)
        await rolling.all_at_once()
        yield platform, rolling


async def waits_during(platform: Platform, work: Callable[[], Awaitable[None]]) -> list[float]:
    """The seconds that clients waited while `work` ran, sorted. A wait begins when its order was due."""
    key = (platform.installation.secrets.of("clients") / "acme").read_text("utf-8").strip()
    url, done, waits = f"{platform.installation.url('orders')}/v1/orders", asyncio.ensure_future(work()), []
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as client,
        asyncio.TaskGroup() as group,
    ):

        async def place(number: int, due: float) -> None:
            headers = {"Idempotency-Key": f"{began}-{number}"}
            status = None
            while status is None:
                # A process that ends closes idle connections, on which a request may just be on its way. The key makes
                # the repetition safe, and the wait includes it.
                with suppress(aiohttp.ClientConnectionError):
                    async with client.post(url, json=ORDER, headers=headers) as answer:
                        status = answer.status
                        assert status == HTTPStatus.CREATED, await answer.text()
            waits.append(time.monotonic() - due)

        began, number = time.monotonic(), 0
        while not done.done():
            due = began + number / RATE
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            group.create_task(place(number, due))
            number += 1
    await done
    return sorted(waits)


async def measure() -> dict[str, dict[str, float]]:
    async with rolling_platform() as (platform, rolling):
        phases: dict[str, Callable[[], Awaitable[None]]] = {
            "no roll-out": lambda: asyncio.sleep(QUIET_SECONDS),
            "one by one": rolling.one_by_one,
            "all at once": rolling.all_at_once,
        }
        found = {}
        for phase, work in phases.items():
            began = time.monotonic()
            waits = await waits_during(platform, work)
            found[phase] = {
                "seconds": round(time.monotonic() - began, 1),
                "orders": len(waits),
                "p50_ms": round(waits[len(waits) // 2] * 1000, 1),
                "p99_ms": round(waits[int(len(waits) * 0.99)] * 1000, 1),
                "max_ms": round(waits[-1] * 1000, 1),
            }
            print(f"{phase:<12}", "  ".join(f"{name} {value}" for name, value in found[phase].items()), flush=True)
        return found


def main() -> int:
    found = asyncio.run(measure())
    print(json.dumps(found))
    return int(any(found[phase]["p99_ms"] > GATES["p99_ms_at_most"] for phase in GATED))


if __name__ == "__main__":
    sys.exit(main())
