"""A Valkey of a test's own, which forgets in each of the ways that a real one does."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from chassis.config.settings import RedisSettings
from chassis.pooling import create_redis
from holdfast_local.ports import LOOPBACK, free_port
from holdfast_local.valkey import EmbeddedValkey
from pydantic import SecretStr
from redis.asyncio import Redis
from waiting import eventually


class ForgetfulRedis:
    """`client` goes on working through everything: the server stays at its address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._password = secrets.token_hex(8)
        self._servers = [self._server("first", self._port)]
        settings = RedisSettings(host=LOOPBACK, port=self._port, password=SecretStr(self._password), prefix="test")
        self.client = create_redis(settings, timeout=5)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ForgetfulRedis"]:
        await self._servers[0].start()
        try:
            yield self
        finally:
            await self.client.aclose()
            for server in self._servers:
                await server.stop()

    async def save(self) -> None:
        """A snapshot (RDB), which the next start loads."""
        await self.client.save()

    async def crash(self) -> None:
        """Killed, and started again: it knows what its last snapshot has, or nothing."""
        process = self._servers[-1].process
        assert process is not None
        process.kill()
        await process.wait()
        await self._servers[-1].start()

    async def replicate(self) -> None:
        """A replica that has everything until now, and nothing of what comes after: its link is cut."""
        await self.client.config_set("repl-diskless-sync-delay", 0)
        replica = self._server("replica", free_port())
        await replica.start()
        self._servers.append(replica)
        async with self._client_of(replica) as client:
            await client.config_set("masterauth", self._password)
            await client.replicaof(LOOPBACK, str(self._port))

            async def is_in_sync() -> bool:
                found = await client.info("replication")
                return found["master_link_status"] == "up"

            await eventually(is_in_sync)
            await client.replicaof("NO", "ONE")

    async def fail_over(self) -> None:
        """The first server is gone, and the replica answers at its address."""
        first, replica = self._servers
        await first.stop()
        async with self._client_of(replica) as client:
            await client.config_set("port", self._port)

    def _server(self, name: str, port: int) -> EmbeddedValkey:
        return EmbeddedValkey(self._folder / name, port=port, password=self._password)

    @asynccontextmanager
    async def _client_of(self, server: EmbeddedValkey) -> AsyncIterator[Redis]:
        settings = RedisSettings(host=LOOPBACK, port=server.port, password=SecretStr(self._password))
        client = create_redis(settings, timeout=5)
        try:
            yield client
        finally:
            await client.aclose()
