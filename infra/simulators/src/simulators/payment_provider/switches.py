"""What can go wrong at the provider. The README says what each switch does."""

from dataclasses import dataclass

from simulators.faults import Switches, number, rate

DAY_SECONDS = 86_400


@dataclass(frozen=True, kw_only=True)
class ProviderSwitches(Switches):
    decline_rate: float = rate()
    refund_failure_rate: float = rate()
    error_rate_before: float = rate()
    error_rate_after: float = rate()
    answer_lost_rate: float = rate()
    latency_seconds: float = number(0.0, low=0, high=600)
    hang: bool = False
    unavailable: bool = False
    capture_delay_seconds: float = number(0.2, low=0, high=DAY_SECONDS)
    webhook_duplicate_rate: float = rate()
    webhook_drop_rate: float = rate()
    webhook_delay_seconds: float = number(0.0, low=0, high=DAY_SECONDS)
    webhook_reorder_rate: float = rate()
    webhook_forged_rate: float = rate()
    clock_skew_seconds: float = number(0.0, low=-DAY_SECONDS, high=DAY_SECONDS)
