"""Debian's Prometheus with the chart's configuration and rules, asking the processes of a platform on this machine."""

import asyncio
import math
import re
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from holdfast_local.ports import free_port
from rules import FILES, RULES
from waiting import eventually

SCRAPE_SECONDS = 1
WINDOW = "20s"
"""What Grafana would put for `$__rate_interval` at this scrape interval, or a little more."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A process, and the labels that Kubernetes' discovery would give it."""

    address: str
    service: str
    role: str


@dataclass(frozen=True, kw_only=True)
class Prometheus:
    client: httpx.AsyncClient
    targets: int

    async def ask(self, path: str, **parameters: object) -> Any:
        answer = await self.client.get(f"/api/v1/{path}", params={name: str(it) for name, it in parameters.items()})
        found = answer.json()
        assert found["status"] == "success", f"{parameters}: {found.get('error')}"
        return found["data"]

    async def series(self, expression: str, *, start: float, end: float) -> list[dict[str, str]]:
        """The labels of each series with a number in it. Fails when Prometheus does not understand the expression."""
        data = await self.ask("query_range", query=concrete(expression), start=start, end=end, step=2)
        return [
            found["metric"]
            for found in data["result"]
            if any(not math.isnan(float(value)) for _, value in found["values"])
        ]

    async def has_scraped_all(self) -> bool:
        targets = (await self.ask("targets"))["activeTargets"]
        return len(targets) == self.targets and all(target["health"] == "up" for target in targets)

    async def has_samples_since(self, instant: float, count: int) -> bool:
        """Whether every target was scraped so often after the instant (seconds of the epoch)."""
        milliseconds = max(1, int((time.time() - instant) * 1000))
        found = (await self.ask("query", query=f"count_over_time(up[{milliseconds}ms])"))["result"]
        return len(found) == self.targets and all(int(one["value"][1]) >= count for one in found)


def concrete(expression: str) -> str:
    """With what Grafana puts for its variables when a reader has chosen nothing."""
    return expression.replace("$__rate_interval", WINDOW).replace("$service", ".*")


def without_comparisons(expression: str) -> str:
    """What an alert compares: it has results while nothing is wrong, too."""
    return re.sub(r"(==|>|<) +[0-9.]+( \* [0-9.]+)?(?= *(#.*)?$| or | and )", "", expression, flags=re.MULTILINE)


@asynccontextmanager
async def running_prometheus(
    folder: Path, targets: Sequence[Target], *, rules: str | None = None
) -> AsyncIterator[Prometheus]:
    """Yields when every target has been scraped once. `rules` is the text of a file instead of the chart's."""
    port = free_port()
    program = shutil.which("prometheus")
    assert program, "prometheus is not here: `apt-get install prometheus`"
    write_configuration(folder, targets, rules or RULES.read_text(encoding="utf-8"))
    command = [f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program, *command, f"--web.listen-address=127.0.0.1:{port}", stdout=log, stderr=log
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            prometheus = Prometheus(client=client, targets=len(targets))

            async def is_ready() -> bool:
                assert process.returncode is None, (folder / "log").read_text()
                try:
                    return await prometheus.has_scraped_all()
                except (httpx.TransportError, ValueError):
                    return False

            assert await eventually(is_ready, seconds=60)
            yield prometheus
    finally:
        process.terminate()
        await process.wait()


def write_configuration(folder: Path, targets: Sequence[Target], rules: str) -> None:
    """The chart's files, with rules evaluated as often as anything is scraped, and no cluster to discover."""
    shared = yaml.safe_load((FILES / "prometheus.yaml").read_text(encoding="utf-8"))
    shared["global"]["evaluation_interval"] = f"{SCRAPE_SECONDS}s"
    job = {
        "job_name": "pods",
        "honor_labels": True,
        "scrape_interval": f"{SCRAPE_SECONDS}s",
        "static_configs": [
            {"targets": [it.address], "labels": {"service": it.service, "role": it.role}} for it in targets
        ],
    }
    contents = {"prometheus.yaml": shared, "scrape.yaml": {"scrape_configs": [job]}, "alertmanagers.yaml": []}
    for name, content in contents.items():
        (folder / name).write_text(yaml.safe_dump(content), encoding="utf-8")
    (folder / RULES.name).write_text(rules, encoding="utf-8")
