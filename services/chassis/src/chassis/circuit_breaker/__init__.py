"""Circuit breaker: stop calling a dependency that is failing, and try again with a few calls at a time.

    closed ──failure rate or slow-call rate reached──▶ open ──open time over──▶ half_open
       ▲                                                 ▲                          │
       └────────all permits succeeded────────────────────┼──────────────────────────┤
                                                         └──one failed or was slow──┘

`StateMachine` decides and knows no clock; `CircuitBreaker` is what calls go through; `BreakerRegistry` holds one per
dependency and operation, since a provider whose refunds hang may still charge. An operator may overrule one for a
stated time: that is its `Mode`, set through the management port (`breaker_routes`).
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import random as uniform
from types import TracebackType
from typing import Literal, Self

from prometheus_client import Counter, Gauge

from chassis.config.settings import BreakerSettings
from chassis.errors import (
    BreakerOpen,
    BulkheadFull,
    DependencyFailed,
    DependencyRejected,
    DependencyTimeout,
    DependencyUnavailable,
)
from chassis.logging import get_logger

log = get_logger(__name__)

_LABELS = ["dependency", "operation"]
state_gauge = Gauge("circuit_breaker_state", "0 closed, 1 open, 2 half-open.", _LABELS)
failures = Counter("circuit_breaker_failures", "Calls the breaker counted as failed.", _LABELS)
rejections = Counter("circuit_breaker_rejections", "Calls refused without trying.", _LABELS)
overruled = Counter("circuit_breaker_overruled", "Calls let through by observe_only, else refused.", _LABELS)
mode_gauge = Gauge("circuit_breaker_mode", "0 automatic, 1 forced open, 2 disabled, 3 observing only.", _LABELS)
transitions = Counter("circuit_breaker_transitions", "Changes of state.", [*_LABELS, "from", "to"])

type State = Literal["closed", "open", "half_open"]
type Mode = Literal["automatic", "forced_open", "disabled", "observe_only"]
"""Who decides: the breaker, or an operator. `observe_only` lets it judge and count, and refuse nothing."""
type Verdict = Literal["success", "failure", "cut_short", "ignored"]
"""`cut_short`: our own deadline ended it, so it proves only that the dependency took that long."""

# How soon to ask again while others are trying: about as long as an attempt takes.
_TRIAL_SECONDS = 1.0

_STATE_NUMBER: dict[State, int] = {"closed": 0, "open": 1, "half_open": 2}
_MODE_NUMBER: dict[Mode, int] = {"automatic": 0, "forced_open": 1, "disabled": 2, "observe_only": 3}


@dataclass(frozen=True, slots=True)
class Admitted:
    """The call may go ahead; its result counts only while the machine is still in the same `term`. None: never."""

    term: int | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The call may not go ahead; asking again makes sense after `retry_after` seconds."""

    retry_after: float


class StateMachine:
    """The decisions. `now` is in seconds of any monotonic clock; `random` gives U(0, 1) for the open time's jitter.

    Every admitted call must come back through `settle`, once. A term ends with each change of state: a result that
    arrives from an earlier term says nothing about the present one and is dropped.
    """

    def __init__(self, settings: BreakerSettings, random: Callable[[], float]) -> None:
        self._settings = settings
        self._random = random
        self._window = _Window(settings.window_size, settings.window_seconds)
        self._term = 0
        self._open_until = 0.0
        self._times_opened = 0
        self._in_flight = 0
        self._succeeded = 0
        self._mode_until = math.inf
        self.state: State = "closed"
        self.mode: Mode = "automatic"

    def set_mode(self, mode: Mode, *, until: float, now: float) -> None:
        """Let `mode` hold until then. Forced open ends in a trial, as every open time does."""
        if self.mode == "forced_open":
            self._open_until = now
        if mode == "forced_open":
            self._open_until = until
            self._enter("open")
        elif mode == "disabled":
            self._times_opened = 0
            self._enter("closed")
        self.mode = mode
        self._mode_until = math.inf if mode == "automatic" else until

    def mode_seconds_left(self, now: float) -> float:
        """How long the mode goes on to hold, which is for ever when it is automatic; one that is over ends here."""
        if now >= self._mode_until:
            self.set_mode("automatic", until=math.inf, now=now)
        return self._mode_until - now

    def admit(self, now: float) -> Admitted | Refused:
        self.mode_seconds_left(now)
        if self.mode == "disabled":
            return Admitted(None)
        decision = self._decide(now)
        if self.mode == "observe_only" and isinstance(decision, Refused):
            return Admitted(None)
        return decision

    def _decide(self, now: float) -> Admitted | Refused:
        if self.state == "open" and now >= self._open_until:
            self._enter("half_open")
        if self.state == "open":
            # Forced open may last for hours, and end sooner: nobody is sent away for longer than the cap.
            longest = self._settings.max_open_seconds * (1 + self._settings.open_jitter)
            return Refused(min(self._open_until - now, longest))
        if self.state == "half_open":
            # Counted in flight: were successes alone counted, every concurrent caller would be let through.
            if self._in_flight + self._succeeded >= self._settings.half_open_calls:
                return Refused(_TRIAL_SECONDS)
            self._in_flight += 1
        return Admitted(self._term)

    def settle(self, call: Admitted, verdict: Verdict, *, duration: float, now: float) -> None:
        """Take in how an admitted call ended; "ignored" only gives its permit back."""
        if call.term != self._term:
            return
        slow = duration >= self._settings.slow_call_duration
        if verdict == "cut_short":
            # Without this, callers in a hurry would open it for everybody; or never see that it hangs.
            verdict = "success" if slow else "ignored"
        if self.state == "half_open":
            self._settle_trial(verdict, slow=slow, now=now)
        elif verdict != "ignored":
            self._window.add(now, failed=verdict == "failure", slow=slow)
            if self._is_tripped():
                self._open(now)

    def _settle_trial(self, verdict: Verdict, *, slow: bool, now: float) -> None:
        self._in_flight -= 1
        if verdict == "ignored":
            return
        if verdict == "failure" or slow:
            self._open(now)
            return
        self._succeeded += 1
        if self._succeeded >= self._settings.half_open_calls:
            self._times_opened = 0
            self._enter("closed")

    def _is_tripped(self) -> bool:
        window, settings = self._window, self._settings
        return window.calls >= settings.minimum_calls and (
            window.failed / window.calls >= settings.failure_rate
            or window.slow / window.calls >= settings.slow_call_rate
        )

    def _open(self, now: float) -> None:
        settings = self._settings
        # The exponent is bounded because a float overflows at 2**1024; the cap is reached long before.
        seconds = min(settings.max_open_seconds, settings.open_seconds * 2.0 ** min(self._times_opened, 30))
        self._open_until = now + seconds * (1 + settings.open_jitter * (2 * self._random() - 1))
        self._times_opened += 1
        self._enter("open")

    def _enter(self, state: State) -> None:
        self.state = state
        self._term += 1
        self._in_flight = self._succeeded = 0
        self._window.clear()


class _Window:
    """The latest calls: at most `size` of them, none older than `seconds`. Constant time per call, amortised."""

    def __init__(self, size: int, seconds: float) -> None:
        self._size = size
        self._seconds = seconds
        self._entries: deque[tuple[float, bool, bool]] = deque()
        self.failed = self.slow = 0

    @property
    def calls(self) -> int:
        return len(self._entries)

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        self._entries.append((now, failed, slow))
        self.failed += failed
        self.slow += slow
        while len(self._entries) > self._size or self._entries[0][0] <= now - self._seconds:
            _, failed, slow = self._entries.popleft()
            self.failed -= failed
            self.slow -= slow

    def clear(self) -> None:
        self._entries.clear()
        self.failed = self.slow = 0


def classify(error: BaseException | None) -> Verdict:
    """What a call's end says about the dependency's health.

    A 4xx is the answer of a healthy dependency. A 429, a full bulkhead, a cancellation and errors from elsewhere say
    nothing: the first asks for fewer calls, the others are about the caller.
    """
    match error:
        case None | DependencyRejected():
            return "success"
        case BulkheadFull() | BreakerOpen():
            return "ignored"
        case DependencyTimeout(cut_short=True):
            return "cut_short"
        case DependencyTimeout() | DependencyFailed() | DependencyUnavailable(status=None):
            return "failure"
        case _:
            return "ignored"


class CircuitBreaker:
    """The breaker of one operation of one dependency. Each call goes `with breaker.permit() as permit: …`."""

    def __init__(
        self,
        dependency: str,
        operation: str,
        settings: BreakerSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = uniform,
    ) -> None:
        self.dependency = dependency
        self.operation = operation
        self._clock = clock
        self._machine = StateMachine(settings, random)
        self._seen: State = "closed"
        self._seen_mode: Mode = "automatic"
        self._overruled = overruled.labels(dependency, operation)
        self._mode_gauge = mode_gauge.labels(dependency, operation)
        self._failures = failures.labels(dependency, operation)
        self._rejections = rejections.labels(dependency, operation)
        self._gauge = state_gauge.labels(dependency, operation)
        self._gauge.set(_STATE_NUMBER["closed"])

    @property
    def state(self) -> State:
        """The state as of the last call; an open breaker turns half-open when the next call comes."""
        return self._machine.state

    def set_mode(self, mode: Mode, *, seconds: float) -> None:
        """Overrule the breaker for `seconds`; automatic ends that at once."""
        now = self._clock()
        self._machine.set_mode(mode, until=now + seconds, now=now)
        self._publish()

    def snapshot(self) -> "BreakerSnapshot":
        left = self._machine.mode_seconds_left(self._clock())
        self._publish()
        mode = self._machine.mode
        return BreakerSnapshot(
            self.dependency, self.operation, self.state, mode, None if mode == "automatic" else round(left, 1)
        )

    def permit(self) -> "Permit":
        """A context manager around one call: entering it raises `BreakerOpen` when the call may not go ahead."""
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
        verdict = classify(error)
        if verdict == "failure":
            self._failures.inc()
        now = self._clock()
        self._machine.settle(call, verdict, duration=now - started, now=now)
        self._publish()

    def _publish(self) -> None:
        state, mode = self._machine.state, self._machine.mode
        if mode != self._seen_mode:
            self._publish_mode(mode)
        if state == self._seen:
            return
        transitions.labels(self.dependency, self.operation, self._seen, state).inc()
        self._gauge.set(_STATE_NUMBER[state])
        log.warning(
            "circuit_breaker_changed",
            dependency=self.dependency,
            operation=self.operation,
            source=self._seen,
            target=state,
        )
        self._seen = state

    def _publish_mode(self, mode: Mode) -> None:
        self._mode_gauge.set(_MODE_NUMBER[mode])
        log.warning(
            "circuit_breaker_mode_changed",
            dependency=self.dependency,
            operation=self.operation,
            source=self._seen_mode,
            target=mode,
        )
        self._seen_mode = mode


class Permit:
    """One call's way through a breaker. However the block ends, cancellation included, the permit comes back."""

    __slots__ = ("_breaker", "_call", "_clock", "_started")

    def __init__(self, breaker: CircuitBreaker, clock: Callable[[], float]) -> None:
        self._breaker = breaker
        self._clock = clock

    def __enter__(self) -> Self:
        self._call = self._breaker.admit()
        self._started = self._clock()
        return self

    def restart(self) -> None:
        """Measure from now on: what the block did so far is not the dependency's time."""
        self._started = self._clock()

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._breaker.settle(self._call, error, started=self._started)


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """One line of the management port's list."""

    dependency: str
    operation: str
    state: State
    mode: Mode
    mode_seconds_left: float | None
    """Seconds until it is automatic again; None when it is."""


class BreakerRegistry:
    """All breakers of a process: made in its composition root, shown on its management port."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, random: Callable[[], float] = uniform) -> None:
        self._clock = clock
        self._random = random
        self._breakers: dict[tuple[str, str], CircuitBreaker] = {}

    def get(self, dependency: str, operation: str, settings: BreakerSettings) -> CircuitBreaker:
        """The breaker of this operation, made with `settings` when it is asked for first."""
        key = (dependency, operation)
        if key not in self._breakers:
            self._breakers[key] = CircuitBreaker(
                dependency, operation, settings, clock=self._clock, random=self._random
            )
        return self._breakers[key]

    def find(self, dependency: str, operation: str) -> CircuitBreaker | None:
        """The breaker of this operation if it has been called yet."""
        return self._breakers.get((dependency, operation))

    def snapshot(self) -> list[BreakerSnapshot]:
        return [breaker.snapshot() for _, breaker in sorted(self._breakers.items())]
