"""The budget of retries is the dependency's: all calls of a process share it, and other dependencies have their own."""

import asyncio

import pytest
import test_http_client
from chassis.config.settings import RetrySettings
from chassis.errors import DependencyFailed
from test_http_client import Server, charge, dependency

server = test_http_client.server

TWO_RETRIES = RetrySettings(
    max_attempts=3, base_delay=0.001, max_delay=0.001, budget_ratio=0, budget_floor=2, budget_refill_seconds=3600
)


@pytest.mark.parametrize("at_once", [True, False])
async def test_calls_share_the_retries_of_their_dependency(server: Server, *, at_once: bool) -> None:
    server.answers(*[503] * 100)

    async def call() -> None:
        with pytest.raises(DependencyFailed):
            await charge(called, retrying=True)

    async with dependency(server.url, retry=TWO_RETRIES) as called:
        if at_once:
            await asyncio.gather(*(call() for _ in range(10)))
        else:
            for _ in range(10):
                await call()
    assert len(server.requests) == 10 + 2


async def test_each_dependency_has_a_budget_of_its_own(server: Server) -> None:
    server.answers(*[503] * 100)
    async with (
        dependency(server.url, name="payments", retry=TWO_RETRIES) as payments,
        dependency(server.url, name="provider", retry=TWO_RETRIES) as provider,
    ):
        for called in (payments, provider):
            with pytest.raises(DependencyFailed):
                await charge(called, retrying=True)
    assert len(server.requests) == 2 * 3
