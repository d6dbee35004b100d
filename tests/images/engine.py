"""The Docker engine, as its command line shows it."""

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from waiting import eventually

ROOT = Path(__file__).parents[2]
BASE = "python:3.13-slim-trixie"
TAG = f"test-{os.getpid()}"
"""Of this run alone: another one, beside it, removes its images too."""
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "192m")


async def docker(*arguments: str, stdin: bytes = b"") -> str:
    """What the command wrote to its standard output; fails with all that it said when it does not succeed."""
    code, output, errors = await attempt(*arguments, stdin=stdin)
    assert code == 0, f"docker {' '.join(arguments)} ended with {code}:\n{output}{errors}"
    return output.strip()


async def attempt(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        "docker",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def answers() -> bool:
    return bool(shutil.which("docker")) and (await attempt("info"))[0] == 0


@dataclass(frozen=True, slots=True)
class Image:
    name: str

    @classmethod
    async def build(cls, what: str, *, target: str = "production", context: Path = ROOT) -> "Image":
        """A service's image, or `tools`."""
        image = cls(f"holdfast/{what}:{TAG}" + ("" if target == "production" else f"-{target}"))
        if what == "tools":
            options = ["--file", str(context / "infra" / "Dockerfile")]
        else:
            dockerfile = str(context / "services" / "Dockerfile")
            options = ["--file", dockerfile, "--build-arg", f"SERVICE={what}", "--target", target]
        facts = ["--build-arg", "VERSION=1.2.3", "--build-arg", "REVISION=abc"]
        await docker("build", "--quiet", *options, *facts, "--tag", image.name, str(context))
        return image

    async def inspect(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(await docker("image", "inspect", self.name))
        return found[0]

    async def bytes_beyond_base(self) -> int:
        return await _bytes(self.name) - await _bytes(BASE)

    async def run(self, program: str, *arguments: str, hardened: Sequence[str] = HARDENED) -> str:
        """What a program of the image writes, without a network."""
        return await docker("run", "--rm", "--network=none", *hardened, "--entrypoint", program, self.name, *arguments)


async def _bytes(image: str) -> int:
    sizes = await docker("history", "--human=false", "--format", "{{.Size}}", image)
    return sum(map(int, sizes.split()))


@dataclass(slots=True)
class Container:
    id: str
    management_url: str

    async def start(self) -> float:
        """Start it; the seconds until it says that it is ready."""
        began = time.monotonic()
        await docker("start", self.id)
        await eventually(self.is_ready, seconds=120)
        return time.monotonic() - began

    async def is_ready(self) -> bool:
        return await self.ask("/readyz") is not None

    async def ask(self, path: str) -> dict[str, Any] | None:
        """The answer of the management port; None unless it is 200."""
        async with httpx.AsyncClient() as client:
            try:
                answer = await client.get(f"{self.management_url}{path}")
            except httpx.TransportError:
                return None
        found: dict[str, Any] = answer.json()
        return found if answer.status_code == 200 else None

    async def processor_seconds(self) -> float:
        """What the process has used so far: unlike the time that passed, it does not grow with what else runs here."""
        async with httpx.AsyncClient() as client:
            metrics = (await client.get(f"{self.management_url}/metrics")).text
        (line,) = [line for line in metrics.splitlines() if line.startswith("process_cpu_seconds_total ")]
        return float(line.split()[1])

    async def stop(self) -> int:
        """SIGTERM; its exit code."""
        await docker("stop", "--time", "25", self.id)
        return int(await docker("inspect", "--format", "{{.State.ExitCode}}", self.id))

    async def logs(self) -> str:
        _, output, errors = await attempt("logs", self.id)
        return output + errors


@asynccontextmanager
async def container(*options: str, management_port: int) -> AsyncIterator[Container]:
    """Created, not started; removed at the end."""
    identifier = await docker("create", *options)
    try:
        yield Container(identifier, f"http://127.0.0.1:{management_port}")
    finally:
        await docker("rm", "--force", "--volumes", identifier)
