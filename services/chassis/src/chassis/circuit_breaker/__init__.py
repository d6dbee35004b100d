"""Circuit breaker: stops the calls to a dependency that fails, and after a pause lets a few trial calls through.

Each operation of a dependency has its own breaker: a payment provider whose refunds hang may still accept charges. An
operator may overrule a breaker for a limited time through the management port, for example to force it open.

Read in this order: `outcomes` (how a call counts), `state_machine` (the decisions), `breaker` (the context manager
around a call), `registry` (one breaker per operation), `routes` (the management port). `chassis.calls.http_client`
wraps each attempt in a breaker, so a service rarely uses a breaker directly.
"""

from chassis.circuit_breaker.breaker import BreakerSnapshot, CircuitBreaker
from chassis.circuit_breaker.registry import BreakerRegistry
from chassis.circuit_breaker.state_machine import Mode, State

__all__ = ["BreakerRegistry", "BreakerSnapshot", "CircuitBreaker", "Mode", "State"]
