"""Right requests are answered without FastAPI's solver, wrong ones with it: each answer is what FastAPI answers."""

from typing import Annotated, Any
from uuid import UUID

import fastapi.routing
import httpx
import pytest
from chassis.app.api import Router
from chassis.app.api.load_shedding import LoadShedder
from chassis.app.api.middleware import RequestContext
from chassis.config.settings import HttpSettings
from fastapi import APIRouter, Body, Depends, FastAPI, Header, HTTPException, Path, Query, Request, Response
from pydantic import BaseModel
from starlette.routing import BaseRoute


class Thing(BaseModel):
    id: UUID
    size: int = 1


async def _host(request: Request) -> str:
    return request.headers["host"]


async def _known(host: Annotated[str, Depends(_host)], x_token: Annotated[str, Header(max_length=3)]) -> str:
    if x_token == "bad":
        raise HTTPException(403)
    return f"{x_token}@{host}"


def _in_a_thread(request: Request) -> str:
    return request.method


Name = Annotated[str, Path(max_length=4, pattern="^[a-z]+$")]
Known = Annotated[str, Depends(_known)]


async def nothing() -> Response:
    return Response("nothing")


async def of_path(number: int, name: Name, id_: Annotated[UUID, Path(alias="id")]) -> Response:
    return Response(f"{number + 1} {name} {id_.hex}")


async def of_request(name: str, asked: Request, host: Annotated[str, Depends(_host)]) -> Response:
    return Response(f"{name} {asked.method} {host}", status_code=203)


async def of_body(thing: Thing, known: Known, request: Request) -> Response:
    return Response(f"{thing!r} {known} {len(await request.body())}")


async def of_list(things: list[Thing] | None, key: Annotated[str, Header(alias="Key")]) -> Response:
    return Response(f"{things!r} {key}")


async def _thing(thing: Thing) -> Thing:
    return thing


async def of_body_of_a_dependency(thing: Annotated[Thing, Depends(_thing)]) -> Response:
    return Response(repr(thing))


async def _counted(request: Request) -> int:
    request.state.times = getattr(request.state, "times", 0) + 1
    return request.state.times


async def _twice(times: Annotated[int, Depends(_counted)]) -> int:
    return times


async def of_one_thing_twice(a: Annotated[int, Depends(_counted)], b: Annotated[int, Depends(_twice)]) -> Response:
    return Response(f"{a} {b}")


async def of_query(thing: Thing, size: Annotated[int, Query(ge=1)] = 1) -> Response:
    return Response(f"{thing!r} {size}")


async def of_two(thing: Thing, other: Annotated[int, Body()]) -> Response:
    return Response(f"{thing!r} {other}")


async def with_a_thread(method: Annotated[str, Depends(_in_a_thread)]) -> Response:
    return Response(method)


async def with_a_model(thing: Thing) -> Thing:
    return thing


async def with_a_model_and_a_status(thing: Thing, response: Response, more: int | None = None) -> Thing:
    response.headers["X-More"] = str(more)
    if more:
        response.status_code = 202
    return thing


async def _noted(response: Response) -> None:
    response.headers["X-Noted"] = "yes"


async def with_a_note(_: Annotated[None, Depends(_noted)]) -> list[Thing]:
    return [Thing(id=UUID(int=1))]


async def of_lists(
    tag: Annotated[list[str], Query()],
    x_more: Annotated[str | None, Header()] = None,
    size: Annotated[int, Query()] = 1,
) -> Response:
    return Response(f"{tag} {x_more} {size}")


async def with_nothing() -> None:
    return None


SHORT = {
    "/nothing": nothing,
    "/path/{number}/{name}/{id}": of_path,
    "/request/{name}": of_request,
    "/body": of_body,
    "/list": of_list,
    "/dependency": of_body_of_a_dependency,
    "/twice": of_one_thing_twice,
    "/query": of_query,
    "/lists": of_lists,
    "/model": with_a_model,
    "/status": with_a_model_and_a_status,
    "/note": with_a_note,
}
LONG = {
    "/two": of_two,
    "/thread": with_a_thread,
    "/none": with_nothing,
}

ID = UUID(int=1)
THING = {"id": str(ID), "size": "3"}
RIGHT: dict[str, dict[str, Any]] = {
    "/nothing": {},
    f"/path/7/rope/{ID}": {},
    "/request/a%20b": {},
    "/body": {"json": THING, "headers": {"X-Token": "abc"}},
    "/list": {"json": [THING, THING], "headers": {"Key": "k"}},
    "/dependency": {"json": THING},
    "/twice": {},
    "/query?size=3": {"json": THING},
    "/query": {"json": THING},
    "/lists?tag=a&tag=b&size=2": {"headers": {"X-More": "more"}},
    "/lists?tag=a": {},
    "/model": {"json": THING},
    "/status": {"json": THING},
    "/status?more=2": {"json": THING},
    "/note": {},
}
JSON = {"Content-Type": "application/json", "X-Token": "abc"}
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("/path/seven/ROPES/no-id", {}),
    (f"/path/7/ropes/{ID}", {}),
    ("/body", {}),
    ("/body", {"json": THING}),
    ("/body", {"json": THING, "headers": {"X-Token": "abcd"}}),
    ("/body", {"json": THING, "headers": {"X-Token": "bad"}}),
    ("/body", {"json": {"size": 0}, "headers": {"X-Token": "bad"}}),
    ("/body", {"json": {"id": "no", "size": []}, "headers": {"X-Token": "abc"}}),
    ("/body", {"content": b"", "headers": JSON}),
    ("/body", {"content": b"null", "headers": JSON}),
    ("/body", {"content": b'{"id": ', "headers": JSON}),
    ("/body", {"content": b"\xff\xfe\x00", "headers": JSON}),
    ("/body", {"content": b"[" * 100_000, "headers": JSON}),
    ("/body", {"json": THING, "headers": {"X-Token": "abc", "Content-Type": "text/plain"}}),
    ("/body", {"json": THING, "headers": {"X-Token": "abc", "Content-Type": "application/json; charset=utf-8"}}),
    ("/body", {"json": THING, "headers": {"X-Token": "abc", "Content-Type": "application/problem+json"}}),
    ("/list", {"content": b"null", "headers": JSON | {"Key": "k"}}),
    ("/list", {"json": [THING, {}], "headers": {"Key": "k"}}),
    ("/list", {"json": []}),
    ("/dependency", {"json": {"size": 0}}),
    ("/query?size=0", {"json": THING}),
    ("/lists", {}),
    ("/model", {"json": {"size": 0}}),
]
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("/two", {"json": {"thing": THING, "other": 1}}),
    ("/thread", {}),
    ("/none", {}),
]


def our_routes() -> list[BaseRoute]:
    router = Router()
    for path, endpoint in (SHORT | LONG).items():
        router.post(path, public=True)(endpoint)
    return [*router.routes]


def fastapis_routes() -> list[BaseRoute]:
    router = APIRouter(generate_unique_id_function=lambda route: route.name)  # as ours does
    for path, endpoint in (SHORT | LONG).items():
        router.post(path)(endpoint)
    return router.routes


def application(routes: list[BaseRoute]) -> FastAPI:
    app = FastAPI(redirect_slashes=False)
    app.load_shedder = LoadShedder(HttpSettings)  # type: ignore[attr-defined]
    app.router.routes.extend(routes)
    return app


async def ask(routes: list[BaseRoute], path: str, **asked: Any) -> httpx.Response:
    transport = httpx.ASGITransport(RequestContext(application(routes), HttpSettings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        answer = await client.post(path, **asked)
    del answer.headers["X-Request-ID"]
    return answer


@pytest.mark.parametrize(("path", "asked"), [*RIGHT.items(), *WRONG, *OTHERS])
async def test_an_answer_is_the_one_that_fastapi_gives(path: str, asked: dict[str, Any]) -> None:
    ours, theirs = await ask(our_routes(), path, **asked), await ask(fastapis_routes(), path, **asked)
    assert (ours.status_code, ours.content, ours.headers) == (theirs.status_code, theirs.content, theirs.headers)


async def test_a_dependency_runs_once_for_a_request_that_is_invalid_beside_it() -> None:
    calls: list[str] = []

    async def spend() -> None:
        calls.append("spent")

    router = Router()

    @router.post("/spend", public=True)
    async def of_spending(_: Annotated[None, Depends(spend)], key: Annotated[str, Header(alias="Key")]) -> Response:
        return Response(key)

    assert (await ask([*router.routes], "/spend")).is_client_error
    assert calls == ["spent"]


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The routes that FastAPI has solved."""
    paths = []
    solve = fastapi.routing.solve_dependencies

    async def noting(**asked: Any) -> Any:
        paths.append(asked["request"].scope["route"].path)
        return await solve(**asked)

    monkeypatch.setattr(fastapi.routing, "solve_dependencies", noting)
    return paths


async def test_a_right_request_pays_for_no_solver(solved: list[str]) -> None:
    for path, asked in RIGHT.items():
        assert (await ask(our_routes(), path, **asked)).is_success
    assert not solved


async def test_a_route_that_asks_for_more_is_solved_by_fastapi(solved: list[str]) -> None:
    for path, asked in OTHERS:
        await ask(our_routes(), path, **asked)
    assert set(solved) == LONG.keys()


def test_the_document_is_the_one_that_fastapi_makes_but_for_errors() -> None:
    ours, theirs = application(our_routes()).openapi(), application(fastapis_routes()).openapi()
    for document in (ours, theirs):
        del document["components"]["schemas"]
        for path in document["paths"].values():
            del path["post"]["responses"]
    assert ours == theirs
