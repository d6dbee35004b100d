"""Puts the mailbox together and runs it."""

import asyncio
from argparse import Namespace
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from simulators.answers import EXCEPTION_HANDLERS, page_of, read_object, strings
from simulators.faults import Switchboard, faults_route
from simulators.mailbox.messages import SCHEMA, Mailbox
from simulators.mailbox.page import HEADERS, page
from simulators.mailbox.smtp import Postman
from simulators.mailbox.switches import MailboxSwitches
from simulators.process import exit_quietly_on_signals, listen, log, open_database, serve


def run(arguments: Namespace) -> None:
    exit_quietly_on_signals()
    http_listener = listen(arguments.host, arguments.http_port)
    smtp_listener = listen(arguments.host, arguments.smtp_port)
    database = open_database(arguments.database, SCHEMA)
    mailbox, faults = Mailbox(database), Switchboard(MailboxSwitches, database)
    postman = Postman(mailbox, faults)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        smtp = await asyncio.get_running_loop().create_server(postman.connection, sock=smtp_listener)
        log("started", port=http_listener.getsockname()[1], smtp_port=smtp_listener.getsockname()[1])
        yield
        smtp.close()
        database.close()
        log("stopped")

    app = Starlette(
        routes=[*mail_routes(mailbox), faults_route(faults)],
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=lifespan,
        max_body_size=65_536,
    )
    serve(app, http_listener)


def mail_routes(mailbox: Mailbox) -> list[Route]:
    async def show_page(_request: Request) -> Response:
        return HTMLResponse(page(mailbox), headers=HEADERS)

    async def get_messages(request: Request) -> Response:
        query = request.query_params
        messages = mailbox.messages(to=query.get("to"), message_id=query.get("message_id"), page=page_of(request))
        return JSONResponse([message.shown() for message in messages])

    async def search_messages(request: Request) -> Response:
        local_parts = strings(await read_object(request), "local_parts")
        return JSONResponse(mailbox.with_local_parts(local_parts))

    async def get_totals(_request: Request) -> Response:
        return JSONResponse({"messages": mailbox.count()})

    async def delete_messages(_request: Request) -> Response:
        return JSONResponse({"deleted": mailbox.clear()})

    async def get_readiness(_request: Request) -> Response:
        mailbox.count()
        return JSONResponse({"status": "ready"})

    return [
        Route("/", show_page),
        Route("/messages", get_messages, methods=["GET"]),
        Route("/messages", delete_messages, methods=["DELETE"]),
        Route("/messages/search", search_messages, methods=["POST"]),
        Route("/messages/totals", get_totals),
        Route("/readyz", get_readiness),
    ]
