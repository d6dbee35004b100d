"""A route says who may call it, or it does not exist."""

import httpx
import pytest
from chassis.app.api import Router, UndeclaredRoute
from chassis.app.api.application import Application
from chassis.config.settings import HttpSettings
from chassis.errors import ErrorCode
from fastapi import APIRouter


async def endpoint() -> str:
    return "here"


async def another() -> str:
    return "there"


def test_a_route_that_says_neither_access_nor_public_cannot_be_declared() -> None:
    with pytest.raises(UndeclaredRoute, match="/here"):
        Router(prefix="/v1").get("/here")(endpoint)


def test_a_route_cannot_be_public_and_need_access() -> None:
    with pytest.raises(UndeclaredRoute, match="either"):
        Router().post("/here", access="orders:read", public=True)(endpoint)


def test_a_route_that_is_declared_on_the_application_itself_is_refused() -> None:
    with pytest.raises(UndeclaredRoute, match="/here"):
        Application(HttpSettings).get("/here")(endpoint)


async def test_routes_of_another_router_never_serve() -> None:
    router = APIRouter()
    router.get("/here")(endpoint)
    app = Application(HttpSettings)
    app.include_router(router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
        with pytest.raises(UndeclaredRoute, match="declare it"):
            await client.get("/here")


def test_the_document_says_what_the_route_says() -> None:
    router = Router(prefix="/v1")
    router.get("/open", public=True)(another)
    router.get("/mine", access="shop:read", cost=3, criticality="sheddable", errors=[ErrorCode.NOT_FOUND])(endpoint)
    paths = Application(HttpSettings, routers=[router]).openapi()["paths"]
    mine, public = paths["/v1/mine"]["get"], paths["/v1/open"]["get"]
    assert mine["security"] == [{"key": ["shop:read"]}]
    assert mine["x-rate-limit-cost"] == 3
    assert mine["x-criticality"] == "sheddable"
    assert mine["responses"].keys() - public["responses"].keys() == {"401", "403", "404", "429"}
    assert "security" not in public
