"""An HTTP server. An API process has one server for the public port and one for the management port. A worker has only
the server for the management port.

uvicorn's signal handling is disabled, because `chassis.app` stops the servers and the work in order.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator, Sequence

import uvicorn
from starlette.types import ASGIApp

from chassis.errors import HoldfastError
from chassis.logging import get_logger
from chassis.process.http_protocol import HttpProtocol

log = get_logger(__name__)

ARRIVAL_SECONDS = 0.1
"""A server that stops waits this long before it closes idle connections, because the first request of an accepted
connection may still arrive.
"""
LAST_WORDS_SECONDS = 0.5
"""The time that a cancelled request has to roll back and to answer. The database and Redis are still open meanwhile."""
_DRAIN_POLL_SECONDS = 0.02  # uvicorn polls every 0.1 s, which would delay the end of a drained process
KEEP_ALIVE = 75
"""Seconds after which the server closes an idle connection. Common proxies close an idle connection after 60 s. A proxy
must close the connection before the server does: otherwise the proxy could send a request on a connection that the
server is just closing."""


class ServeError(HoldfastError):
    """The server could not start (the port is taken, or a resource of the process failed to open), or it has ended by
    itself.
    """


class Server(uvicorn.Server):
    """Serves `app` on host and port. The host `*` stands for every IPv4 and IPv6 address of the machine.

    When the server stops, requests under way have `drain_timeout` seconds to finish. Then the remaining requests are
    cancelled, and counted in `cut_off`. `trusted_proxies` are networks of proxies that append the address of their
    caller to X-Forwarded-For. The client's address is the last address in X-Forwarded-For that is outside these
    networks.
    """

    def __init__(
        self, app: ASGIApp, *, host: str, port: int, drain_timeout: float, trusted_proxies: Sequence[str] = ()
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host="" if host == "*" else host,
                port=port,
                log_config=None,
                access_log=False,
                http=HttpProtocol,
                # A request to upgrade to another protocol gets a normal answer, even if a WebSocket library is
                # installed.
                ws="none",
                # X-Forwarded-For is read from these networks only. Without networks, uvicorn does not look for the
                # header.
                proxy_headers=bool(trusted_proxies),
                forwarded_allow_ips=list(trusted_proxies),
                # With lifespan="auto", uvicorn would serve requests even if the application fails to open its
                # resources.
                lifespan="on",
                server_header=False,
                date_header=False,
                timeout_keep_alive=KEEP_ALIVE,
            )
        )
        self.cut_off = 0
        self._drain_timeout = drain_timeout

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @property
    def requests(self) -> int:
        """The number of requests under way."""
        return len(self.server_state.tasks)

    def send_clients_away(self) -> None:
        """From now on every answer closes its connection, so that the client's next request reaches another process."""
        # uvicorn copies the first list into the second only once a second, so this method changes both lists.
        for headers in (self.config.encoded_headers, self.server_state.default_headers):
            headers.append((b"connection", b"close"))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port at once, and idle connections after `ARRIVAL_SECONDS`. Then wait for the requests
        under way, for `drain_timeout` seconds at most.

        uvicorn's own method closes connections whose request is just arriving, and does not count the requests that it
        cuts off.
        """
        del sockets  # uvicorn itself opens the sockets of this server, and passes only sockets from elsewhere
        for server in self.servers:
            server.close()
        await asyncio.sleep(ARRIVAL_SECONDS)
        for connection in list(self.server_state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self._drain_timeout):
                while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110  uvicorn has no event to wait for
                    await asyncio.sleep(_DRAIN_POLL_SECONDS)
        except TimeoutError:
            self.cut_off = self.requests
        if self.cut_off:
            log.error("requests_cut_off", requests=self.cut_off)
            requests = list(self.server_state.tasks)
            for request in requests:
                request.cancel()
            await asyncio.wait(requests, timeout=LAST_WORDS_SECONDS)
        await self.lifespan.shutdown()

    @contextlib.asynccontextmanager
    async def running(self, stopping: asyncio.Event | None = None) -> AsyncIterator[None]:
        """Serve while the block runs. The end of the block drains requests and closes the application.

        Raises `ServeError` if the server cannot start, or if the server ended before the block did. The end of the
        server sets `stopping`, so that the process does not go on without a server.
        """
        task = asyncio.create_task(self._serve_or_raise(stopping), name=f"server:{self.config.port}")
        try:
            while not self.started:
                done, _ = await asyncio.wait({task}, timeout=0.01)
                if done:
                    task.result()
                    raise ServeError(f"cannot serve on {self.config.host}:{self.config.port}")
            if stopping is not None:
                task.add_done_callback(lambda _: stopping.set())
            yield
        finally:
            has_ended = task.done()
            self.should_exit = True
            await task
        if has_ended:
            raise ServeError(f"the server on port {self.config.port} ended by itself")

    async def _serve_or_raise(self, stopping: asyncio.Event | None) -> None:
        try:
            await self.serve()
        except SystemExit as error:
            # uvicorn exits the process if the port is taken, but this process may have to close its other server first.
            raise ServeError(f"cannot serve on {self.config.host}:{self.config.port}: port taken?") from error
        except Exception:
            if self.started and not self.should_exit:
                if stopping is not None:
                    stopping.set()
                await self.shutdown()  # drains requests and closes the application, as after a normal stop
            raise
