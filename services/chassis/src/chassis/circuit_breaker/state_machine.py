"""The breaker's decisions: whether a call may start, and how the outcome of the call changes the state. This module
does no I/O.

The breaker changes its state as follows. A half-open breaker admits a few trial calls.

    closed ──failure rate or slow-call rate reached──▶ open ──the open time is over──▶ half_open
       ▲                                                 ▲                                 │
       └────────all trial calls succeeded────────────────┼─────────────────────────────────┤
                                                         └──a trial call failed or is slow─┘
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from chassis.circuit_breaker.outcomes import CallOutcome
from chassis.circuit_breaker.window import Window
from chassis.config.settings import BreakerSettings

type State = Literal["closed", "open", "half_open"]
type Mode = Literal["automatic", "forced_open", "disabled", "observe_only"]
"""In the mode `automatic` the breaker's state decides whether a call may start. An operator may set another mode:
`forced_open` refuses every call, `disabled` admits every call and counts none, `observe_only` counts every call and
refuses none.
"""

_TRIAL_SECONDS = 1.0
"""The `retry_after` of a half-open breaker that refuses a call because enough trial calls are under way: about the
duration of one call.
"""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The call may start. A term is the time between two changes of state. The call's outcome counts only if the call
    ends in the `term` in which it started. If `term` is None, as in the mode `disabled`, the outcome never counts.
    """

    term: int | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The call may not start. The caller may try again after `retry_after` seconds."""

    retry_after: float


class StateMachine:
    """State and mode of one breaker.

    `now` is in seconds of any monotonic clock. `random` (uniform on [0, 1)) varies the open time, for which an open
    breaker refuses calls.

    After each admitted call, the caller calls `settle` once. Each change of state begins a new term. The outcome of a
    call that started in an earlier term is dropped, because that call says nothing about the present state.
    """

    def __init__(self, settings: BreakerSettings, random: Callable[[], float]) -> None:
        self._settings = settings
        self._random = random
        self._window = Window(settings.window_size, settings.window_seconds)
        self._term = 0
        self._open_until = 0.0
        self._times_opened = 0
        self._in_flight = 0
        self._succeeded = 0
        self._mode_until = math.inf
        self.state: State = "closed"
        self.mode: Mode = "automatic"

    def set_mode(self, mode: Mode, *, until: float, now: float) -> None:
        """Set the mode, which ends at the time `until`. When `forced_open` ends, the breaker becomes half-open at the
        next call and admits a few trial calls.
        """
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
        """Seconds until the mode is automatic again; infinite if the mode is automatic. This call ends a mode whose
        time is over.
        """
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
            # An operator may force the breaker open for hours, and may end this mode early. So `retry_after` has a cap.
            # Without the cap, a caller would wait for hours although the mode has ended.
            longest = self._settings.max_open_seconds * (1 + self._settings.open_jitter)
            return Refused(min(self._open_until - now, longest))
        if self.state == "half_open":
            # Trial calls in flight count as well. If only successful calls counted, every caller would be admitted
            # until the first trial call ends.
            if self._in_flight + self._succeeded >= self._settings.half_open_calls:
                return Refused(_TRIAL_SECONDS)
            self._in_flight += 1
        return Admitted(self._term)

    def settle(self, call: Admitted, outcome: CallOutcome, *, duration: float, now: float) -> None:
        """Count the outcome of an admitted call. After a trial call with the outcome `ignored`, the state stays, and
        another trial call may start.
        """
        if call.term != self._term:
            return
        slow = duration >= self._settings.slow_call_duration
        if outcome == "cut_short":
            # The caller's deadline ended this call. If such a call counted as a failure, callers with short deadlines
            # would open the breaker of a healthy dependency. If such calls were always ignored, a dependency that hangs
            # would go unnoticed. So such a call counts as slow if it took `slow_call_duration` or longer, and is
            # ignored otherwise.
            outcome = "success" if slow else "ignored"
        if self.state == "half_open":
            self._settle_trial(outcome, slow=slow, now=now)
        elif outcome != "ignored":
            self._window.add(now, failed=outcome == "failure", slow=slow)
            if self._is_tripped():
                self._open(now)

    def _settle_trial(self, outcome: CallOutcome, *, slow: bool, now: float) -> None:
        self._in_flight -= 1
        if outcome == "ignored":
            return
        if outcome == "failure" or slow:
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
        # The exponent has a bound, because a float overflows at 2**1024. `max_open_seconds` is reached long before the
        # bound.
        seconds = min(settings.max_open_seconds, settings.open_seconds * 2.0 ** min(self._times_opened, 30))
        self._open_until = now + seconds * (1 + settings.open_jitter * (2 * self._random() - 1))
        self._times_opened += 1
        self._enter("open")

    def _enter(self, state: State) -> None:
        self.state = state
        self._term += 1
        self._in_flight = self._succeeded = 0
        self._window.clear()
