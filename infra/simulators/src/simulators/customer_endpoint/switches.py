"""What can go wrong at the customer's. The README says what each switch does."""

from dataclasses import dataclass

from simulators.faults import Switches, number, rate, whole

DAY_SECONDS = 86_400


@dataclass(frozen=True, kw_only=True)
class EndpointSwitches(Switches):
    error_rate: float = rate()
    gone_rate: float = rate()
    reject_rate: float = rate()
    throttle_rate: float = rate()
    retry_after_seconds: int = whole(1, low=0, high=DAY_SECONDS)
    redirect: bool = False
    latency_seconds: float = number(0.0, low=0, high=600)
    hang: bool = False
    answer_lost_rate: float = rate()
    slow_body: bool = False
    clock_skew_seconds: float = number(0.0, low=-DAY_SECONDS, high=DAY_SECONDS)
