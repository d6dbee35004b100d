"""One installation per prefix in Redis: a second installation with the same prefix is refused.

All keys of an installation in Redis begin with its prefix, which is a setting. The database of each service has an id,
and Redis stores, for each service, the id of the database that owns the prefix. If the prefix has no owner, the first
process that claims the prefix makes the database of this process the owner. After Redis has lost its data, running
processes write their database's id to Redis again: relays and consumers with each batch, and every process every
`CLAIM_EVERY_SECONDS`. A database that is restored from a backup has the same id as before. A copy of a database has the
id of the original, so this check cannot distinguish them: give the copy's installation another prefix.
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

# A migration has inserted the only row of this table. The statement inserts a new row if an operator has emptied the
# table.
_MAKE = text("INSERT INTO installation DEFAULT VALUES ON CONFLICT DO NOTHING")
_READ = text("SELECT id::text FROM installation")


class ForeignPrefix(ConfigurationError):
    """The keys with our prefix in Redis belong to another installation."""

    def __init__(self, prefix: str, key: str, owner: str) -> None:
        problem = (
            f"HOLDFAST_REDIS__PREFIX: in this Redis {prefix!r} belongs to another installation ({owner}); "
            f"choose another prefix, or delete {key} if that installation is gone"
        )
        super().__init__([problem])


async def installation_id(database: Database) -> str:
    """The id of this database. Raises `PoolExhausted` when the database is unavailable."""
    async with database.transaction() as session:
        await session.execute(_MAKE)
        found: str = (await session.execute(_READ)).scalar_one()
    return found


async def claim(redis: Redis, installation: str, *, service: str) -> None:
    """Make `installation` the owner of the prefix if the prefix has no owner.

    Raises `ForeignPrefix` when another installation owns the prefix, and the errors of Redis.
    """
    names = names_of(redis)
    key = names.owner(service)
    owner: Any = await redis.set(key, installation, nx=True, get=True)
    if owner is not None and owner.decode() != installation:
        raise ForeignPrefix(names.prefix, key, owner.decode())


async def claim_at_start(redis: Redis, database: Database, *, service: str) -> None:
    """Claim the prefix, and raise `ForeignPrefix` if another installation owns the prefix.

    If Redis or the database is down, the process starts without the claim, and `keep_claim` claims the prefix later.
    """
    try:
        await claim(redis, await installation_id(database), service=service)
    except (RedisError, TimeoutError, PoolExhausted) as error:
        log.info("redis_prefix_unclaimed", reason=str(error))


async def keep_claim(redis: Redis, database: Database, *, service: str) -> None:
    """Claim the prefix periodically. When the prefix belongs to another installation, stop the process as SIGTERM does.

    When Kubernetes restarts the process, `claim_at_start` raises `ForeignPrefix`, whose message says why the process
    cannot run.
    """
    while True:
        await asyncio.sleep(CLAIM_EVERY_SECONDS)
        try:
            await claim(redis, await installation_id(database), service=service)
        except ForeignPrefix as error:
            log.critical("redis_prefix_foreign", reason=str(error))
            signal.raise_signal(signal.SIGTERM)
            # Wait until this task is cancelled. The loop would otherwise raise a second SIGTERM, which would end the
            # process at once, without a drain.
            await asyncio.Event().wait()
        except (RedisError, TimeoutError, PoolExhausted) as error:
            log.info("redis_prefix_unclaimed", reason=str(error))
