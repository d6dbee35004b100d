"""Puts the provider together and runs it."""

import asyncio
import base64
import binascii
import logging
import sys
from argparse import Namespace
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from starlette.applications import Starlette

from simulators.answers import EXCEPTION_HANDLERS
from simulators.faults import Switchboard
from simulators.payment_provider.api import Api
from simulators.payment_provider.charging import Charging
from simulators.payment_provider.store import SCHEMA, Store
from simulators.payment_provider.switches import ProviderSwitches
from simulators.payment_provider.webhooks import Clerk
from simulators.process import exit_quietly_on_signals, listen, log, open_database, serve

MAX_BODY_BYTES = 65_536


def run(arguments: Namespace) -> None:
    exit_quietly_on_signals()
    url = webhook_url(arguments.webhook_url)
    api_key = read_secret(arguments.secrets_dir / "api_key")
    webhook_secret = decoded(read_secret(arguments.secrets_dir / "webhook_secret"))
    listener = listen(arguments.host, arguments.port)
    database = open_database(arguments.database, SCHEMA)
    store, faults = Store(database), Switchboard(ProviderSwitches, database)
    charging = Charging(store, faults)
    clerk = Clerk(
        store,
        charging,
        faults,
        url=url,
        secret=webhook_secret,
        schedule_seconds=arguments.webhook_schedule,
        timeout_seconds=arguments.webhook_timeout,
    )
    api = Api(store, charging, faults, api_key=api_key, on_change=clerk.wake)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        clerk_task = asyncio.create_task(clerk.run())
        clerk_task.add_done_callback(stop_when_crashed)
        log("started", port=listener.getsockname()[1], webhook_url=arguments.webhook_url)
        yield
        clerk_task.cancel()
        await asyncio.wait([clerk_task])
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


def stop_when_crashed(clerk_task: asyncio.Task[None]) -> None:
    """Without its clerk the provider would accept charges for ever and settle none: better not to run."""
    if not clerk_task.cancelled() and (error := clerk_task.exception()):
        logging.getLogger(__name__).critical("the clerk crashed", exc_info=error)
        sys.exit(1)


def webhook_url(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        valid = url.scheme in {"http", "https"} and url.hostname and url.port != 0
    except ValueError:
        valid = False
    if not valid:
        sys.exit(f"--webhook-url {text} is no http or https URL")
    return url


def read_secret(path: Path) -> str:
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"cannot read the secret {path}: {getattr(error, 'strerror', None) or error}")
    if not secret:
        sys.exit(f"the secret {path} is empty")
    return secret


def decoded(secret: str) -> bytes:
    """The key behind `whsec_` + base64."""
    try:
        if secret.startswith("whsec_") and (key := base64.b64decode(secret[6:] + "==")):
            return key
    except binascii.Error:
        pass
    sys.exit("the secret webhook_secret must be whsec_ followed by base64")
