"""An HTTP server of a process. A process has one or two of them: the public port and the management port.

Both live in one process, so uvicorn leaves signals alone here and the composition root stops things in the right order.
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

ARRIVAL_SECONDS = 0.1  # from a connection's acceptance to its request, with room for a busy loop
LAST_WORDS_SECONDS = 0.5
"""For a request that is cut off to roll back and say so to its caller, while what it uses is still open."""
_DRAIN_POLL_SECONDS = 0.02  # a fifth of what uvicorn waits: a process that has drained should not stay
KEEP_ALIVE = 75  # seconds; above the 60 s of common proxies, so that it is they who close an idle connection


class ServeError(HoldfastError):
    """The server could not start: the port is taken, or opening the process' resources failed."""


class Server(uvicorn.Server):
    """Serves `app` on host and port; when it stops, requests under way get `drain_timeout` seconds.

    The host `*` is every address of the machine: a socket for IPv4 and one for IPv6, where it has both.

    Those that take longer are cancelled, and counted in `cut_off`. `trusted_proxies`: networks of proxies that append
    to X-Forwarded-For whom they were asked by; the last one there that is not of them is the client.
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
                # Whatever is installed: a request to upgrade is answered like any other.
                ws="none",
                # What a caller says of where it comes from is believed of these networks alone. No network is nobody:
                # then uvicorn need not look for it in each request.
                proxy_headers=bool(trusted_proxies),
                forwarded_allow_ips=list(trusted_proxies),
                # Without it uvicorn goes on serving when opening the application's resources fails early.
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
        """How many are being answered."""
        return len(self.server_state.tasks)

    def send_clients_away(self) -> None:
        """From now on every answer ends its connection, so that the next request finds another process."""
        for headers in (self.config.encoded_headers, self.server_state.default_headers):  # of later answers, and of now
            headers.append((b"connection", b"close"))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, and only after a moment the connections that carry no request.

        uvicorn's own closes, unanswered, connections whose request is just arriving, and does not say what it cut off.
        """
        del sockets  # there are none but those of the servers
        for server in self.servers:
            server.close()
        await asyncio.sleep(ARRIVAL_SECONDS)
        for connection in list(self.server_state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self._drain_timeout):
                while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110  nobody tells of them
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
        """The block runs while the port is open; at its end requests are drained and the application is closed.

        Raises `ServeError` when it cannot start, or when it has ended before the block did. It sets `stopping` when it
        ends, so that the process does not go on without it.
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
            # uvicorn ends the process when the port is taken; here another server has to be closed first.
            raise ServeError(f"cannot serve on {self.config.host}:{self.config.port}: port taken?") from error
        except Exception:
            if self.started and not self.should_exit:
                if stopping is not None:
                    stopping.set()
                await self.shutdown()  # its requests and its application are closed like those of one that is stopped
            raise
