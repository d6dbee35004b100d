"""An attempt that our own deadline cut short is no failure of the dependency's; at most it was a slow call."""

import asyncio

import pytest
from chassis.calls.http_client import HttpDependency
from chassis.circuit_breaker import BreakerRegistry
from chassis.circuit_breaker.breaker import failures
from chassis.circuit_breaker.outcomes import CallOutcome
from chassis.circuit_breaker.state_machine import StateMachine
from chassis.config.settings import BreakerSettings
from chassis.errors import BreakerOpen, DependencyTimeout
from chassis.retries import deadlines
from test_http_client import Server, charge, dependency, server

__all__ = ["server"]

TOUCHY = BreakerSettings(minimum_calls=1, window_size=1, slow_call_duration=1)
HASTY, PATIENT = 0.1, 2.0


def state_after(outcome: CallOutcome, *, seconds: float) -> str:
    machine = StateMachine(TOUCHY, lambda: 0.5)
    call = machine.admit(0)
    machine.settle(call, outcome, duration=seconds, now=seconds)
    return machine.state


@pytest.mark.parametrize(("seconds", "state"), [(0.0, "closed"), (0.99, "closed"), (1.0, "open"), (1.9, "open")])
def test_cut_short_it_counts_as_slow_once_it_took_as_long_as_a_slow_call(seconds: float, state: str) -> None:
    assert state_after("cut_short", seconds=seconds) == state
    assert state_after("failure", seconds=seconds) == "open"


async def give_up_after(provider: HttpDependency, seconds: float) -> None:
    with deadlines.deadline(seconds), pytest.raises(DependencyTimeout):
        await charge(provider)


async def test_callers_in_a_hurry_open_the_breaker_for_nobody_else(server: Server) -> None:
    server.answer = server.hang
    counted = failures.labels("hurried", "charge")
    async with dependency(server.url, name="hurried", breaker=TOUCHY) as provider:
        before = counted._value.get()
        await asyncio.gather(*(give_up_after(provider, HASTY) for _ in range(5)))
        assert counted._value.get() == before
        server.release.set()
        assert (await charge(provider)).status == 201


async def test_a_time_out_of_the_policys_own_opens_it_however_long_the_caller_would_wait(server: Server) -> None:
    server.answer = server.hang
    quick = TOUCHY.model_copy(update={"slow_call_duration": HASTY / 2})
    limits = {"attempt_timeout": HASTY, "connect_timeout": HASTY, "breaker": quick}
    async with dependency(server.url, breakers=BreakerRegistry(), **limits) as provider:
        await give_up_after(provider, PATIENT)
        with pytest.raises(BreakerOpen):
            await charge(provider)
