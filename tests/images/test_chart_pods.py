"""The chart's pods with the built images, on Docker: the platform comes up by itself, takes orders, ends in time."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
from engine import TAG, Image, attempt, docker
from pods import Pods, pods_of
from rendering import HOLDFAST, Workload, nested, render, values_of


@dataclass(frozen=True)
class Platform:
    pods: Pods
    running: dict[str, Workload]
    test: Workload


@pytest.fixture(scope="module")
async def platform(images: dict[str, Image], figures: list[str]) -> AsyncIterator[Platform]:
    """All pods of an installation for development, started at once: nothing waits for anything outside of its pod."""
    rendering = render(HOLDFAST, values_of(HOLDFAST, "values-dev.yaml"), nested("image.tag", value=TAG))
    (test,) = (workload for workload in rendering.workloads if workload.is_test)
    async with pods_of(rendering, network=f"holdfast-pods-{uuid4().hex[:8]}") as pods:
        began = time.monotonic()
        workloads = [workload for workload in rendering.workloads if not workload.is_test]
        names = await asyncio.gather(*(pods.start(workload) for workload in workloads))
        figures.append(
            f"{len(names)} pods of the chart started in {time.monotonic() - began:.0f} s, migrations included"
        )
        started = dict(zip(names, workloads, strict=True))
        running = {name: it for name, it in started.items() if it.object["kind"] != "Job"}
        yield Platform(pods=pods, running=running, test=test)


async def test_orders_are_confirmed(platform: Platform) -> None:
    (container,) = platform.test.pod["containers"]
    assert "3 of 3 orders confirmed" in await platform.pods.succeed(platform.test, container)


async def test_valkey_asks_for_a_password(platform: Platform) -> None:
    (valkey,) = (name for name in platform.running if name.endswith("-valkey"))
    assert "NOAUTH" in await docker("exec", valkey, "valkey-cli", "ping")


async def test_every_pod_ends_by_itself_in_the_time_that_it_is_given(platform: Platform) -> None:
    """The last test here: it stops them."""

    async def stop(name: str, seconds: int) -> str:
        await docker("stop", f"--time={seconds}", name)
        return await docker("inspect", "--format={{.State.ExitCode}}", name)

    pods = platform.running.items()
    codes = await asyncio.gather(*(stop(name, pod.pod["terminationGracePeriodSeconds"]) for name, pod in pods))
    unlike = {
        name: await attempt("logs", "--tail=20", name)
        for (name, _), code in zip(pods, codes, strict=True)
        if code != "0"
    }
    assert unlike == {}
