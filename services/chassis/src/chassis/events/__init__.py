"""Events between services: stored with the change that they report, delivered at least once, handled once.

A service imports the names in `__all__`. Read in this order:

1. `outbox` with `outbox.sql`: an event commits with its change. `relay` with `outbox.lua` copies it to a Redis stream.
2. `inbox` with `inbox.sql`: the functions and statements by which an event has its effect only once.
3. `consumer`, then its parts: `group` with `consumer_*.lua` (the consumer group in Redis) and `delivery` (one
   delivery).
4. `dead_events`: functions for operators.
"""

from chassis.events.inbox import Kinds, Received, Undeliverable, in_order
from chassis.events.outbox import Event, publish

__all__ = ["Event", "Kinds", "Received", "Undeliverable", "in_order", "publish"]
