"""What Prometheus has of the demo's whole story, and what each process said of itself in the end."""

import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from holdfast_local.demo_client import open_demo_client
from holdfast_local.demo_story import Story, managements
from holdfast_local.demo_watch import Narrator
from holdfast_local.platform import Platform, running_platform
from holdfast_local.settings import LocalSettings
from prometheus import Prometheus, Target, running_prometheus
from rich.console import Console
from runbooks import commands, ran
from waiting import eventually


@dataclass(frozen=True, kw_only=True)
class Seen:
    prometheus: Prometheus
    began: float
    ended: float
    texts: dict[str, str]
    """`/metrics` by process, such as `orders api`, once all was settled."""
    answers: dict[str, tuple[int, str]]
    """Exit code and output of each command of the runbooks, on the platform that still ran."""

    async def series(self, expression: str) -> list[dict[str, str]]:
        return await self.prometheus.series(expression, start=self.began, end=self.ended)


@asynccontextmanager
async def told_story(settings: LocalSettings, folder: Path) -> AsyncIterator[Seen]:
    """The platform has stopped when it yields; Prometheus still answers."""
    async with AsyncExitStack() as stack:
        async with running_platform(settings) as platform:
            targets = await targets_of(platform)
            prometheus = await stack.enter_async_context(running_prometheus(folder, targets))
            began = time.time()
            async with open_demo_client(platform.installation) as client:
                await Story(platform, client, Narrator(Console(file=io.StringIO()))).tell()
                settled = time.time()
                # A rate of what happened last needs two samples, and `series` asks for every second one.
                assert await eventually(lambda: prometheus.has_samples_since(settled, 4), seconds=30)
                ended = time.time()
                texts = {
                    f"{target.service} {target.role}": await client.read_metrics(f"http://{target.address}")
                    for target in targets
                }
            told = await asyncio.gather(*(ran(command, settings) for command in commands()))
            answers = dict(zip(commands(), told, strict=True))
        yield Seen(prometheus=prometheus, began=began, ended=ended, texts=texts, answers=answers)


async def targets_of(platform: Platform) -> list[Target]:
    async with open_demo_client(platform.installation) as client:
        found = [(urlsplit(url).netloc, await client.read_info(url)) for url in managements(platform)]
    return [Target(address=address, service=info.service, role=info.role) for address, info in found]
