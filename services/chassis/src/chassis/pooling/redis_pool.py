"""The connection pool of a Redis client, with a limit and with metrics. The client does not retry.

A redis-py client retries a failed command ten times if the client creates its pool itself, and never if the client
receives a pool. Here each client receives a pool, so that only the caller decides about retries.
"""

import time
from collections.abc import Iterable
from typing import Any

from redis.asyncio import BlockingConnectionPool, Connection, Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from chassis.config.settings import RedisSettings
from chassis.fast.shared_redis import SharedRedis
from chassis.pooling import metrics
from chassis.pooling.failures import is_transport_closed
from chassis.pooling.redis_names import RedisNames


def create_redis(settings: RedisSettings, *, timeout: float, pool: str = "redis") -> Redis:
    """A Redis client with a bounded pool. `timeout` (seconds) bounds each wait for a connection and for an answer."""
    return Redis.from_pool(_create_pool(settings, timeout=timeout, pool=pool))


def create_shared_redis(settings: RedisSettings, *, timeout: float, pool: str = "redis") -> SharedRedis:
    """A Redis client whose short commands share one connection. `timeout` (seconds) bounds the wait for an answer."""
    others = _create_pool(settings, timeout=timeout, pool=pool)
    shared = SharedRedis(others, observe_wait=metrics.wait_seconds.labels(pool).observe, timeout=timeout)
    metrics.count.labels(pool, "used").set_function(lambda: others.in_use + shared.is_connected)
    metrics.pending_requests.labels(pool).set_function(lambda: others.pending + shared.pending)
    metrics.maximum.labels(pool).set(settings.max_connections + 1)
    return shared


def names_of(redis: Redis) -> RedisNames:
    """The names of the client's keys, which begin with the prefix from the client's settings."""
    pool = redis.connection_pool
    assert isinstance(pool, _MeasuredPool)  # noqa: S101  only this pool has the prefix of the keys
    return pool.names


def _create_pool(settings: RedisSettings, *, timeout: float, pool: str) -> "_MeasuredPool":
    return _MeasuredPool(
        pool,
        names=RedisNames(settings.prefix),
        host=settings.host,
        port=settings.port,
        password=settings.password.get_secret_value() if settings.password else None,
        max_connections=settings.max_connections,
        timeout=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        connection_class=_Connection,
    )


class _Connection(Connection):
    """A connection on which a write raises an `OSError` if the server has reset the connection. redis-py handles an
    `OSError`: redis-py closes the connection and raises its `ConnectionError`.

    On uvloop, redis-py's own connection would raise a RuntimeError, which redis-py does not handle. On asyncio's loop a
    write after a reset has no effect, and the next read raises an `OSError`.
    """

    async def _send_packed_command(self, command: Iterable[bytes]) -> None:
        try:
            await super()._send_packed_command(command)
        except RuntimeError as error:
            if not is_transport_closed(error):
                raise
            raise ConnectionResetError("the connection was reset") from error


class _MeasuredPool(BlockingConnectionPool):
    """A pool with the same metrics as a pool of database connections."""

    def __init__(self, pool: str, *, names: RedisNames, max_connections: int, **options: Any) -> None:
        super().__init__(max_connections=max_connections, **options)
        self.names = names
        self.pending = 0
        self._timeouts = metrics.timeouts.labels(pool)
        self._wait_seconds = metrics.wait_seconds.labels(pool)
        metrics.count.labels(pool, "used").set_function(lambda: self.in_use)
        metrics.count.labels(pool, "idle").set_function(lambda: len(self._available_connections))
        metrics.pending_requests.labels(pool).set_function(lambda: self.pending)
        metrics.maximum.labels(pool).set(max_connections)

    @property
    def in_use(self) -> int:
        return len(self._in_use_connections)

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> AbstractConnection:
        del command_name, keys, options  # redis-py has deprecated these arguments and no longer passes them
        started = time.perf_counter()
        self.pending += 1
        try:
            connection: AbstractConnection = await super().get_connection()  # type: ignore[no-untyped-call]
        except RedisConnectionError:
            # If the pool has capacity left, the error means that Redis cannot be reached, not that the wait timed out.
            if not self.can_get_connection():
                self._timeouts.inc()
            raise
        else:
            return connection
        finally:
            self.pending -= 1
            self._wait_seconds.observe(time.perf_counter() - started)
