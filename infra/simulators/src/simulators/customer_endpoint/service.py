"""Puts the customer's endpoint together and runs it."""

from argparse import Namespace
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette

from simulators.answers import EXCEPTION_HANDLERS
from simulators.customer_endpoint.api import Api
from simulators.customer_endpoint.attempts import SCHEMA, Attempts
from simulators.customer_endpoint.switches import EndpointSwitches
from simulators.customer_endpoint.verification import Secrets
from simulators.faults import Switchboard
from simulators.process import exit_quietly_on_signals, listen, log, open_database, serve

MAX_BODY_BYTES = 2**20


def run(arguments: Namespace) -> None:
    exit_quietly_on_signals()
    secrets = Secrets(arguments.secrets_dir)
    listener = listen(arguments.host, arguments.port)
    database = open_database(arguments.database, SCHEMA)
    api = Api(Attempts(database), secrets, Switchboard(EndpointSwitches, database))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        log("started", port=listener.getsockname()[1])
        yield
        database.close()
        log("stopped")

    serve(
        Starlette(
            routes=api.routes(),
            exception_handlers=EXCEPTION_HANDLERS,
            lifespan=lifespan,
            max_body_size=MAX_BODY_BYTES,
        ),
        listener,
    )
