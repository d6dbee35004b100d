"""Events between services. Read `outbox` first (it publishes an event), then `relay`, then `inbox` and `consumer`."""
