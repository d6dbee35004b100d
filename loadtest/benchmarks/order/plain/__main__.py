"""One process of the plain saga: `python plain orm|sql|batched SERVICE migrate|api|worker`, set up by PLAIN_…."""

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import orm
import sql
import uvicorn
import uvloop
from saga import BATCH, CONNECTIONS, Store, create_api, run_worker

PRODUCTS = (("rope", 1999), ("cleat", 1450))
FORMS = {"orm": orm.open_store, "sql": sql.open_store, "batched": sql.open_store}


async def work(service: str, open_store: Callable[[], AbstractAsyncContextManager[Store]], *, batch: int) -> None:
    async with open_store() as store:
        await run_worker(service, store, batch=batch)


def main(form: str, service: str, role: str) -> None:
    dsn = os.environ["PLAIN_DSN"]
    open_store = partial(FORMS[form], dsn, connections=CONNECTIONS)
    match role:
        case "migrate":
            asyncio.run(orm.create_tables(dsn, PRODUCTS))
        case "api":
            uvicorn.run(create_api(service, open_store), port=int(os.environ["PLAIN_PORT"]))
        case "worker":
            uvloop.run(work(service, open_store, batch=BATCH if form == "batched" else 1))


if __name__ == "__main__":
    main(*sys.argv[1:])
