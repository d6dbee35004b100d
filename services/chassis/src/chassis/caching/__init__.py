"""Caching: cache-aside in Redis. Many readers of a missing key cause one load from the origin, which is usually the
database. A load that began before an invalidation cannot store its value.

A lease is a random token that a load writes to Redis beside the value. While the token is in Redis, other processes
wait for this load. The load stores its value only if its token is still in Redis. A service that changes the origin
commits the change and then invalidates the key. The invalidation deletes the value and the token in one command.
Memcached has the same mechanism: Nishtala et al., Scaling Memcache at Facebook, NSDI 2013, section 3.2.1.

A service uses `Cache`. Read in this order: `entries` (how fresh a value is), `cache` (reads and invalidations),
`flights` (loads shared by readers), `loading` (loads under the lease), `store` and `end_lease.lua` (Redis), then
`near_cache` (the process's memory), `pending` (invalidations that Redis has not confirmed) and `metrics`.
"""

from chassis.caching.cache import Cache
from chassis.caching.entries import Json
from chassis.caching.metrics import Result

__all__ = ["Cache", "Json", "Result"]
