"""The simulators as real processes: how tests start, stop and reach them."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import IO, Any

import httpx

BIN = Path(sys.executable).parent
SECRET = "whsec_c2ltdWxhdG9yLXRlc3Qtc2VjcmV0LTMyLWJ5dGVz"
API_KEY = "test-api-key"
DEADLINE_SECONDS = 10

type Json = dict[str, Any]


@dataclass
class Simulator:
    """A simulator's process; `start` may be called again after `end`, and gets the same ports."""

    command: list[str]
    ports: dict[str, int]
    process: subprocess.Popen[str] | None = None

    def start(self, *, read_on: bool = True) -> None:
        """Returns once it listens. Without `read_on` it has no reader for what it writes from then on."""
        options = [str(part) for name, port in self.ports.items() for part in (f"--{name}", port)]
        self.process = subprocess.Popen([*self.command, *options], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        started = json.loads(self.process.stdout.readline())
        if read_on:
            Thread(target=drain, args=[self.process.stdout]).start()
        else:
            self.process.stdout.close()
        self.ports = dict(zip(self.ports, (started[k] for k in ("port", "smtp_port") if k in started), strict=True))

    @property
    def running(self) -> subprocess.Popen[str]:
        assert self.process is not None
        return self.process

    def end(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """Returns the exit code; more than three seconds are a failure."""
        self.running.send_signal(signum)
        code = self.running.wait(timeout=3)
        self.process = None
        return code

    def client(self) -> httpx.AsyncClient:
        url = f"http://127.0.0.1:{next(iter(self.ports.values()))}"
        return httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {API_KEY}"}, trust_env=False)


def drain(log: IO[str]) -> None:
    """Reads on, since a full pipe would stop the simulator."""
    with log:
        log.read()


def payment_provider(folder: Path, webhook_url: str) -> Simulator:
    (folder / "api_key").write_text(f"{API_KEY}\n")
    (folder / "webhook_secret").write_text(SECRET)
    options = ["--webhook-url", webhook_url, "--webhook-schedule", "0.1,0.2,0.3", "--webhook-timeout", "0.5"]
    files = ["--database", str(folder / "p.db"), "--secrets-dir", str(folder)]
    return Simulator([str(BIN / "payment-provider"), *options, *files], {"port": 0})


def mailbox(folder: Path) -> Simulator:
    command = [str(BIN / "mailbox"), "--database", str(folder / "m.db")]
    return Simulator(command, {"http-port": 0, "smtp-port": 0})


def customer_endpoint(folder: Path) -> Simulator:
    files = ["--database", str(folder / "c.db"), "--secrets-dir", str(folder / "secrets")]
    return Simulator([str(BIN / "customer-endpoint"), *files], {"port": 0})


async def until[T](look: Callable[[], Awaitable[T]], wanted: Callable[[T], bool]) -> T:
    """Polls until `wanted`, for what the simulator does on its own and tells nobody."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not wanted(found := await look()):  # noqa: ASYNC110  another process cannot set our events
            await asyncio.sleep(0.02)
    return found
