"""The breaker around a call: the state machine with a clock, metrics and logs."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import random as default_random
from types import TracebackType
from typing import Self

from prometheus_client import Counter, Gauge

from chassis.circuit_breaker.outcomes import outcome_of
from chassis.circuit_breaker.state_machine import Admitted, Mode, Refused, State, StateMachine
from chassis.config.settings import BreakerSettings
from chassis.errors import BreakerOpen
from chassis.logging import get_logger

log = get_logger(__name__)

_LABELS = ["dependency", "operation"]
state_gauge = Gauge("circuit_breaker_state", "0 closed, 1 open, 2 half-open.", _LABELS)
failures = Counter("circuit_breaker_failures", "Calls that the breaker counted as failed.", _LABELS)
rejections = Counter("circuit_breaker_rejections", "Calls that the breaker refused.", _LABELS)
overruled = Counter("circuit_breaker_overruled", "Calls that only the mode observe_only let through.", _LABELS)
mode_gauge = Gauge("circuit_breaker_mode", "0 automatic, 1 forced open, 2 disabled, 3 observing only.", _LABELS)
transitions = Counter("circuit_breaker_transitions", "Changes of state.", [*_LABELS, "from", "to"])

_STATE_NUMBER: dict[State, int] = {"closed": 0, "open": 1, "half_open": 2}
_MODE_NUMBER: dict[Mode, int] = {"automatic": 0, "forced_open": 1, "disabled": 2, "observe_only": 3}


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """The facts about one breaker that the management port lists."""

    dependency: str
    operation: str
    state: State
    mode: Mode
    mode_seconds_left: float | None
    """Seconds until the mode is automatic again; None when the mode is automatic."""


class CircuitBreaker:
    """The breaker of one operation of one dependency. Wrap each call in `with breaker.permit() as permit:`."""

    def __init__(
        self,
        dependency: str,
        operation: str,
        settings: BreakerSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = default_random,
    ) -> None:
        self.dependency = dependency
        self.operation = operation
        self._clock = clock
        self._machine = StateMachine(settings, random)
        self._published_state: State = "closed"
        self._published_mode: Mode = "automatic"
        self._overruled = overruled.labels(dependency, operation)
        self._mode_gauge = mode_gauge.labels(dependency, operation)
        self._failures = failures.labels(dependency, operation)
        self._rejections = rejections.labels(dependency, operation)
        self._gauge = state_gauge.labels(dependency, operation)
        self._gauge.set(_STATE_NUMBER["closed"])

    @property
    def state(self) -> State:
        """The state after the latest call. When the open time (the time for which the breaker refuses calls) is over,
        the state stays `open` until the next call. That call makes the breaker half-open.
        """
        return self._machine.state

    def set_mode(self, mode: Mode, *, seconds: float) -> None:
        """Set a mode that overrules the breaker's state for `seconds`. The mode `automatic` ends an earlier mode."""
        now = self._clock()
        self._machine.set_mode(mode, until=now + seconds, now=now)
        self._publish()

    def snapshot(self) -> BreakerSnapshot:
        left = self._machine.mode_seconds_left(self._clock())
        self._publish()
        mode = self._machine.mode
        return BreakerSnapshot(
            self.dependency, self.operation, self.state, mode, None if mode == "automatic" else round(left, 1)
        )

    def permit(self) -> "Permit":
        """A context manager around one call. Entering the context manager raises `BreakerOpen` if the call may not
        start.
        """
        return Permit(self, self._clock)

    def admit(self) -> Admitted:
        decision = self._machine.admit(self._clock())
        self._publish()
        if isinstance(decision, Refused):
            self._rejections.inc()
            raise BreakerOpen(self.dependency, retry_after=decision.retry_after)
        if decision.term is None and self._machine.mode == "observe_only":
            self._overruled.inc()
        return decision

    def settle(self, call: Admitted, error: BaseException | None, *, started: float) -> None:
        outcome = outcome_of(error)
        if outcome == "failure":
            self._failures.inc()
        now = self._clock()
        self._machine.settle(call, outcome, duration=now - started, now=now)
        self._publish()

    def _publish(self) -> None:
        """Count and log a change of mode or state since the previous call of this method."""
        state, mode = self._machine.state, self._machine.mode
        if mode != self._published_mode:
            self._publish_mode(mode)
        if state == self._published_state:
            return
        transitions.labels(self.dependency, self.operation, self._published_state, state).inc()
        self._gauge.set(_STATE_NUMBER[state])
        log.warning(
            "circuit_breaker_changed",
            dependency=self.dependency,
            operation=self.operation,
            source=self._published_state,
            target=state,
        )
        self._published_state = state

    def _publish_mode(self, mode: Mode) -> None:
        self._mode_gauge.set(_MODE_NUMBER[mode])
        log.warning(
            "circuit_breaker_mode_changed",
            dependency=self.dependency,
            operation=self.operation,
            source=self._published_mode,
            target=mode,
        )
        self._published_mode = mode


class Permit:
    """One admitted call. The breaker gets the outcome of the call even if the `with` block raises an error or is
    cancelled.
    """

    __slots__ = ("_breaker", "_call", "_clock", "_started")

    def __init__(self, breaker: CircuitBreaker, clock: Callable[[], float]) -> None:
        self._breaker = breaker
        self._clock = clock

    def __enter__(self) -> Self:
        self._call = self._breaker.admit()
        self._started = self._clock()
        return self

    def restart(self) -> None:
        """Measure the call's duration from now on, so that the time for preparing the call does not count."""
        self._started = self._clock()

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._breaker.settle(self._call, error, started=self._started)
