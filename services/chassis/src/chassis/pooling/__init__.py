"""Connection pooling: a process has one pool per purpose, each limit is explicit, and an exhausted pool fails fast.

A request or job takes a connection only when its code needs one, gives the connection back as soon as possible, and
never holds a connection during an outbound call. Requests and jobs take a connection with `Database.transaction()` or
`Database.read()`. Only the job queue, which claims and ends jobs, takes a connection with `Database.driver()`.
"""

from chassis.pooling.checkouts import ConnectionHeld, check_nothing_held
from chassis.pooling.database import Database, open_health_pool
from chassis.pooling.engine import Passwords, open_connection
from chassis.pooling.failures import Failure, failure_of, is_transient
from chassis.pooling.redis_pool import create_redis, create_shared_redis, names_of
from chassis.pooling.session import Row, Session, after_commit, log_after_commit, wake_after_commit

__all__ = [
    "ConnectionHeld",
    "Database",
    "Failure",
    "Passwords",
    "Row",
    "Session",
    "after_commit",
    "check_nothing_held",
    "create_redis",
    "create_shared_redis",
    "failure_of",
    "is_transient",
    "log_after_commit",
    "names_of",
    "open_connection",
    "open_health_pool",
    "wake_after_commit",
]
