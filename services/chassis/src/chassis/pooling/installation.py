"""Which installation this is, so that a prefix in Redis has one: a second one with the same prefix is refused.

A service's database has an id, and Redis the id of the database that the prefix belongs to, for each service. The first
one to come owns a prefix. When Redis was emptied, the processes that run write their id again before anything else
does: relays and consumers with each batch, every process each `CLAIM_EVERY_SECONDS`. A restored database has its id
still. A copy of it is the same installation: give it another prefix.
"""

import asyncio
import signal
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import text

from chassis.errors import ConfigurationError, PoolExhausted
from chassis.logging import get_logger
from chassis.pooling import Database, names_of

log = get_logger(__name__)

CLAIM_EVERY_SECONDS = 5.0

_MAKE = text(
    "INSERT INTO installation DEFAULT VALUES ON CONFLICT DO NOTHING"
)  # its migration did, unless it was emptied
_READ = text("SELECT id::text FROM installation")


class ForeignPrefix(ConfigurationError):
    """What begins with our prefix in Redis belongs to another installation."""

    def __init__(self, prefix: str, key: str, owner: str) -> None:
        problem = (
            f"HOLDFAST_REDIS__PREFIX: in this Redis {prefix!r} belongs to another installation ({owner}); "
            f"choose another prefix, or delete {key} if that installation is gone"
        )
        super().__init__([problem])


async def installation_id(database: Database) -> str:
    """Of this database; raises `PoolExhausted` when it cannot be used now."""
    async with database.transaction() as session:
        await session.execute(_MAKE)
        found: str = (await session.execute(_READ)).scalar_one()
    return found


async def claim(redis: Redis, installation: str, *, service: str) -> None:
    """Raises `ForeignPrefix`, or what Redis raises."""
    names = names_of(redis)
    key = names.owner(service)
    owner: Any = await redis.set(key, installation, nx=True, get=True)
    if owner is not None and owner.decode() != installation:
        raise ForeignPrefix(names.prefix, key, owner.decode())


async def claim_at_start(redis: Redis, database: Database, *, service: str) -> None:
    """Raises `ForeignPrefix`; when Redis or the database is away, `keep_claim` sees to it later."""
    try:
        await claim(redis, await installation_id(database), service=service)
    except (RedisError, TimeoutError, PoolExhausted) as error:
        log.info("redis_prefix_unclaimed", reason=str(error))


async def keep_claim(redis: Redis, database: Database, *, service: str) -> None:
    """Claim the prefix again and again; when it belongs to another installation, stop the process as SIGTERM does.

    Started again, it finds that out at once, and says so.
    """
    while True:
        await asyncio.sleep(CLAIM_EVERY_SECONDS)
        try:
            await claim(redis, await installation_id(database), service=service)
        except ForeignPrefix as error:
            log.critical("redis_prefix_foreign", reason=str(error))
            signal.raise_signal(signal.SIGTERM)
            await asyncio.Event().wait()  # until the process has drained: a second signal would end it at once
        except (RedisError, TimeoutError, PoolExhausted) as error:
            log.info("redis_prefix_unclaimed", reason=str(error))
