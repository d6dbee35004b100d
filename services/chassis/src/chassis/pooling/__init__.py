"""Connection pooling: one pool per process and purpose, every limit explicit, exhaustion answered quickly.

A request or job takes a connection late, gives it back early and never holds it across an outbound call:
`Database.transaction()` and `Database.read()` are the two ways to one, `Database.hot_transaction()` that of the few
statements that most requests pay for, and `Database.driver()` a worker's loops' own.
"""

from chassis.pooling.checkouts import ConnectionHeld, check_nothing_held
from chassis.pooling.database import NOTIFY, Database, after_commit, log_after_commit, open_health_pool
from chassis.pooling.engine import Passwords, open_connection
from chassis.pooling.failures import Failure, failure_of, is_transient
from chassis.pooling.hot import HotSession, execute_in
from chassis.pooling.redis_pool import create_redis, create_shared_redis, names_of

__all__ = [
    "NOTIFY",
    "ConnectionHeld",
    "Database",
    "Failure",
    "HotSession",
    "Passwords",
    "after_commit",
    "check_nothing_held",
    "create_redis",
    "create_shared_redis",
    "execute_in",
    "failure_of",
    "is_transient",
    "log_after_commit",
    "names_of",
    "open_connection",
    "open_health_pool",
]
