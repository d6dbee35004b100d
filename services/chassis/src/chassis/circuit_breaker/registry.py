"""All breakers of one process."""

import time
from collections.abc import Callable
from random import random as default_random

from chassis.circuit_breaker.breaker import BreakerSnapshot, CircuitBreaker
from chassis.config.settings import BreakerSettings


class BreakerRegistry:
    """One breaker per dependency and operation. The code that assembles the process creates this registry, and the
    management port lists the breakers.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, random: Callable[[], float] = default_random
    ) -> None:
        self._clock = clock
        self._random = random
        self._breakers: dict[tuple[str, str], CircuitBreaker] = {}

    def get(self, dependency: str, operation: str, settings: BreakerSettings) -> CircuitBreaker:
        """The breaker of this operation. The first call for an operation creates its breaker, with `settings`."""
        key = (dependency, operation)
        if key not in self._breakers:
            self._breakers[key] = CircuitBreaker(
                dependency, operation, settings, clock=self._clock, random=self._random
            )
        return self._breakers[key]

    def find(self, dependency: str, operation: str) -> CircuitBreaker | None:
        """The breaker of this operation; None until the operation is called for the first time."""
        return self._breakers.get((dependency, operation))

    def snapshot(self) -> list[BreakerSnapshot]:
        return [breaker.snapshot() for _, breaker in sorted(self._breakers.items())]
