"""The connection pool of an HTTP client. Each dependency has a separate pool, with a limit and with metrics."""

import time
from typing import TYPE_CHECKING, Any

import aiohttp
from prometheus_client import Gauge, Histogram

if TYPE_CHECKING:
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

open_connections = Gauge(
    "http_client_open_connections", "Connections by state (active, idle).", ["dependency", "state"]
)
maximum = Gauge("http_client_connection_max", "Connections that the pool may open.", ["dependency"])
wait_seconds = Histogram(
    "http_client_connection_wait_time_seconds",
    "Time to get a connection, including the time to open one.",
    ["dependency"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)


class MeasuredConnector(aiohttp.TCPConnector):
    """A pool of at most `limit` connections. `ClientTimeout.connect` of aiohttp's session bounds the wait for one of
    these connections.
    """

    def __init__(self, dependency: str, *, limit: int, **options: Any) -> None:
        super().__init__(limit=limit, **options)
        self._wait_seconds = wait_seconds.labels(dependency)
        maximum.labels(dependency).set(limit)
        open_connections.labels(dependency, "active").set_function(lambda: len(self._acquired))
        open_connections.labels(dependency, "idle").set_function(lambda: sum(map(len, self._conns.values())))

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: "list[Trace]",
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  aiohttp defines this signature
    ) -> "Connection":
        started = time.perf_counter()
        try:
            return await super().connect(req, traces, timeout)
        finally:
            self._wait_seconds.observe(time.perf_counter() - started)
