"""Routes that ask for little are answered as FastAPI would answer them, and without its solver of dependencies."""

from typing import Annotated
from uuid import UUID

import fastapi.routing
import httpx
import pytest
from chassis.app.routing import Router
from chassis.load_shedding import LoadShedder
from chassis.settings import HttpSettings
from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response


async def _host(request: Request) -> str:
    return request.headers["host"]


def _in_a_thread(request: Request) -> str:
    return request.method


Host = Annotated[str, Depends(_host)]
Name = Annotated[str, Path(max_length=4, pattern="^[a-z]+$")]


async def nothing() -> Response:
    return Response("nothing")


async def of_path(number: int, name: Name, id_: Annotated[UUID, Path(alias="id")]) -> Response:
    return Response(f"{number + 1} {name} {id_.hex}")


async def of_request(name: str, asked: Request, host: Host) -> Response:
    return Response(f"{name} {asked.method} {host}", status_code=203)


async def of_query(name: str, size: Annotated[int, Query(ge=1)] = 1) -> Response:
    return Response(f"{name} {size}")


async def with_a_thread(method: Annotated[str, Depends(_in_a_thread)]) -> Response:
    return Response(method)


async def with_a_model() -> dict[str, int]:
    return {"a": 1}


LITTLE = {"/nothing": nothing, "/path/{number}/{name}/{id}": of_path, "/request/{name}": of_request}
MORE = {"/query/{name}": of_query, "/thread": with_a_thread, "/model": with_a_model}
ASKED = [
    "/nothing",
    f"/path/7/rope/{UUID(int=1)}",
    "/path/seven/ROPES/no-id",
    "/path/7/rope/no-id",
    "/request/a%20b",
    "/query/a?size=3",
    "/query/a?size=0",
    "/thread",
    "/model",
]


def application(router: APIRouter) -> FastAPI:
    for path, endpoint in (LITTLE | MORE).items():
        router.get(path)(endpoint)
    app = FastAPI(redirect_slashes=False)
    app.state.load_shedder = LoadShedder(HttpSettings)
    app.router.routes.extend(router.routes)
    return app


async def ask(router: APIRouter, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(application(router))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        return await client.get(path)


@pytest.mark.parametrize("path", ASKED)
async def test_an_answer_is_the_one_that_fastapi_gives(path: str) -> None:
    ours, theirs = await ask(Router(), path), await ask(APIRouter(), path)
    assert (ours.status_code, ours.content, ours.headers) == (theirs.status_code, theirs.content, theirs.headers)


def test_every_route_stands_in_the_document() -> None:
    document = application(Router()).openapi()
    assert document["paths"].keys() == (LITTLE | MORE).keys()
    parameters = document["paths"]["/path/{number}/{name}/{id}"]["get"]["parameters"]
    assert [(one["name"], one["in"]) for one in parameters] == [("number", "path"), ("name", "path"), ("id", "path")]


async def test_only_who_asks_for_more_than_path_and_request_pays_for_the_solver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    solved = []
    solve = fastapi.routing.solve_dependencies

    async def noting(**asked: object) -> object:
        solved.append(asked["request"].scope["route"].path)  # type: ignore[attr-defined]
        return await solve(**asked)  # type: ignore[arg-type]

    monkeypatch.setattr(fastapi.routing, "solve_dependencies", noting)
    for path in ASKED:
        await ask(Router(), path)
    assert set(solved) == MORE.keys()
