"""The retry budget bounds the retries of all calls together, whereas `max_attempts` bounds the retries of one call."""

from prometheus_client import Gauge

from chassis.config.settings import RetrySettings

retry_budget_balance = Gauge("retry_budget_balance", "Retries that the budget allows now.", ["dependency"])


class RetryBudget:
    """A token bucket per dependency that bounds retries to a share of the calls.

    Each call earns `budget_ratio` tokens, and each retry spends one token. The bucket holds at most `budget_floor`
    tokens, so a quiet hour does not save up tokens for a retry storm. Without any calls, an empty bucket refills within
    `budget_refill_seconds`, so a service with few calls can retry as well.
    """

    def __init__(self, dependency: str, policy: RetrySettings) -> None:
        self._capacity = max(1.0, policy.budget_floor)
        self._ratio = policy.budget_ratio
        self._refill_per_second = policy.budget_floor / policy.budget_refill_seconds
        self._updated: float | None = None
        self.balance = policy.budget_floor
        retry_budget_balance.labels(dependency).set_function(lambda: self.balance)

    def earn(self, now: float) -> None:
        """Add the tokens that a new call earns. `now` is in seconds of any monotonic clock."""
        self.balance = self._refilled(now) + self._ratio

    def spend(self, now: float) -> bool:
        """Take one token. If less than one token is left, takes no token and returns False."""
        balance = self._refilled(now)
        affordable = balance >= 1
        self.balance = balance - affordable
        return affordable

    def _refilled(self, now: float) -> float:
        elapsed = 0.0 if self._updated is None else now - self._updated
        self._updated = now
        return min(self._capacity, self.balance + elapsed * self._refill_per_second)
