"""The resources of an API: a route gets the object that its service's composition root opened, with its type."""

from dataclasses import dataclass
from typing import Annotated

import httpx
import pytest
from captured_logs import captured_logs
from chassis.app.api import Application, Router, opened
from chassis.config.settings import HttpSettings
from fastapi import Depends


@dataclass(frozen=True)
class Resources:
    greeting: str


router = Router()


@router.get("/", public=True)
async def greet(given: Annotated[Resources, Depends(opened(Resources))]) -> str:
    return given.greeting


async def answer(found: object) -> httpx.Response:
    app = Application(HttpSettings, routers=[router])
    app.opened = found
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
        return await client.get("/")


async def test_a_route_gets_what_the_composition_root_opened() -> None:
    assert (await answer(Resources("hello"))).json() == "hello"


@pytest.mark.parametrize(("found", "name"), [(None, "NoneType"), ("hello", "str")])
async def test_a_route_whose_resources_were_not_opened_fails_and_the_log_names_both_types(
    found: object, name: str
) -> None:
    with captured_logs() as logs:
        assert (await answer(found)).status_code == 500
    assert f"the routes need Resources, but {name} was opened" in str(logs.one("request_failed"))
