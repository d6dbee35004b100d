"""A bulkhead bounds the calls under way and rejects at once."""

import asyncio

import pytest
from chassis.calls.bulkhead import Bulkhead
from chassis.errors import BulkheadFull
from prometheus_client import REGISTRY


async def test_only_as_many_calls_as_allowed_run_at_once_and_the_others_are_rejected_without_waiting() -> None:
    bulkhead = Bulkhead("sick", limit=3)
    release = asyncio.Event()
    reached = 0

    async def call() -> None:
        nonlocal reached
        with bulkhead:
            reached += 1
            await release.wait()

    calls = [asyncio.create_task(call()) for _ in range(100)]
    rejected, _ = await asyncio.wait(calls[3:])
    assert reached == 3
    assert all(isinstance(task.exception(), BulkheadFull) for task in rejected)
    assert REGISTRY.get_sample_value("bulkhead_in_flight", {"dependency": "sick"}) == 3
    release.set()
    await asyncio.gather(*calls[:3])
    assert REGISTRY.get_sample_value("bulkhead_in_flight", {"dependency": "sick"}) == 0


async def test_a_place_comes_back_after_an_error_and_after_cancellation() -> None:
    bulkhead = Bulkhead("flaky", limit=1)
    with pytest.raises(RuntimeError), bulkhead:
        raise RuntimeError

    async def hang() -> None:
        with bulkhead:
            await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await asyncio.sleep(0)
    with pytest.raises(BulkheadFull) as full, bulkhead:
        pass
    assert full.value.outcome == "not_run"
    task.cancel()
    await asyncio.wait([task])
    with bulkhead:
        assert bulkhead.in_flight == 1
