"""Events between services. An event commits with the change that it reports, and each consumer handles the event once.

A service imports the names in `__all__`. Read the modules in this order:

1. `outbox` with `outbox.sql` stores an event in the transaction of the change that it reports. `relay` copies
   the stored events to Redis streams; its parts are `positions`, `floors` (where the relay
   begins to read), and `sending` with `outbox.lua`.
2. `inbox` with `inbox.sql` stores the ids of received events, so that a second delivery of an event has no effect.
3. `consumer` reads the streams. The consumer's parts are `group` with `consumer_*.lua` (the consumer group in Redis)
   and `delivery` (the delivery of one event).
4. `dead_events` lets an operator read and replay the events that a consumer could not handle.
"""

from chassis.events.inbox import Kinds, Received, Undeliverable, in_order
from chassis.events.outbox import Event, publish

__all__ = ["Event", "Kinds", "Received", "Undeliverable", "in_order", "publish"]
