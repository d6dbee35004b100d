"""What a wrong field's detail may say: enough to correct it, never what must not be shown back."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import httpx
import pytest
from chassis.app.api import Router
from chassis.app.api.application import Application
from chassis.config.settings import HttpSettings
from chassis.errors import ApiError, ErrorCode, ErrorDetail
from fastapi import Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

MARKED = "marked-and-never-to-be-seen"
CARD = "4111 1111 1111 1111"


def quoting(value: str) -> str:
    raise ValueError(f"{value} is not one of ours")


class Pin(BaseModel):
    kind: Literal["pin"]
    digits: Annotated[str, Field(max_length=4)]


class Phrase(BaseModel):
    kind: Literal["phrase"]
    words: Annotated[list[str], Field(min_length=3)]


class Person(BaseModel):
    nickname: Annotated[str, Field(max_length=3, json_schema_extra={"writeOnly": True})]
    city: Annotated[str, Field(max_length=3)] = "Ulm"


class SignUp(BaseModel):
    model_config = ConfigDict(extra="forbid")

    email: Annotated[str, Field(pattern="@", json_schema_extra={"writeOnly": True})] = "a@b"
    person: Person | None = None
    people: list[Person] = []
    tax_number: Annotated[str, Field(json_schema_extra={"writeOnly": True}), AfterValidator(quoting)] = "none"
    answer: SecretStr | None = Field(None, max_length=3)
    proof: Annotated[Pin | Phrase, Field(discriminator="kind", json_schema_extra={"writeOnly": True})] | None = None
    colour: Annotated[str, AfterValidator(quoting)] = "red"
    count: int = 0


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    router = Router()

    @router.post("/sign-ups", public=True)
    async def sign_up(body: SignUp) -> None:
        """Take the body."""

    @router.get("/sign-ups", public=True)
    async def find(hint: Annotated[str, Query(max_length=3, json_schema_extra={"writeOnly": True})]) -> None:
        """Take the query."""

    @router.post("/ours/{field}", public=True)
    async def refuse(field: str, said: str) -> None:
        raise ApiError(ErrorCode.VALIDATION_FAILED, said, details=[ErrorDetail(field, said, said)])

    @router.get("/codes/{name}", public=True)
    async def raise_code(name: str) -> None:
        raise ApiError(ErrorCode[name])

    app = Application(HttpSettings, routers=[router])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
        yield client


async def details(client: httpx.AsyncClient, body: Any) -> dict[str, dict[str, str]]:
    response = await client.post("/sign-ups", json=body)
    assert response.status_code == 422, response.text
    assert MARKED not in response.text
    return {detail["field"]: detail for detail in response.json()["error"]["details"]}


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"person": {"nickname": MARKED}}, "person.nickname", "String should have at most 3 characters"),
        ({"people": [{"nickname": MARKED}]}, "people.0.nickname", "String should have at most 3 characters"),
        ({"people": [{"nickname": {"deep": [MARKED]}}]}, "people.0.nickname", "Input should be a valid string"),
        ({"email": MARKED}, "email", "String should match pattern '@'"),
        ({"tax_number": MARKED}, "tax_number", "This value is not valid."),
        ({"answer": MARKED}, "answer", "This value is not valid."),
        ({"proof": {"kind": MARKED}}, "proof", "This value is not valid."),
        ({"proof": {"kind": "pin", "digits": MARKED}}, "proof.pin.digits", "String should have at most 4 characters"),
        ({"proof": {"kind": "phrase", "words": [MARKED]}}, "proof.phrase.words", "This value is not valid."),
        ({"pasword": MARKED}, "pasword", "Extra inputs are not permitted"),
        (MARKED, "body", "Input should be a valid dictionary or object to extract fields from"),
    ],
)
async def test_what_is_marked_is_not_shown_back_wherever_it_is(
    client: httpx.AsyncClient, body: Any, field: str, message: str
) -> None:
    found = await details(client, body)
    assert found[field]["message"] == message
    assert "received" not in found[field]


async def test_a_marked_parameter_is_not_shown_back(client: httpx.AsyncClient) -> None:
    response = await client.get("/sign-ups", params={"hint": MARKED})
    assert response.json()["error"]["details"] == [
        {"field": "hint", "message": "String should have at most 3 characters"}
    ]


async def test_what_is_not_marked_is_shown_beside_what_is(client: httpx.AsyncClient) -> None:
    found = await details(client, {"person": {"nickname": MARKED, "city": "Bonn"}, "count": "many", "colour": "blue"})
    assert {field: detail.get("received") for field, detail in found.items()} == {
        "person.nickname": None,
        "person.city": "Bonn",
        "count": "many",
        "colour": "blue",
    }
    assert found["colour"]["message"] == "Value error, blue is not one of ours"


async def test_a_message_that_quotes_a_card_number_is_sent_without_it(client: httpx.AsyncClient) -> None:
    found = await details(client, {"colour": CARD})
    assert found["colour"] == {
        "field": "colour",
        "message": "Value error, [redacted] is not one of ours",
        "received": "[redacted]",
    }


async def test_a_message_that_quotes_everything_is_cut(client: httpx.AsyncClient) -> None:
    found = await details(client, {"colour": "x" * 10_000})
    assert len(found["colour"]["message"]) == 300
    assert len(found["colour"]["received"]) == 100


@pytest.mark.parametrize("field", ["password", "card.cvc", "nickname", "items.0.tax_number"])
async def test_a_detail_of_our_own_about_such_a_field_leaves_it_out_too(client: httpx.AsyncClient, field: str) -> None:
    response = await client.post(f"/ours/{field}", params={"said": "wrong"})
    assert response.json()["error"]["details"] == [{"field": field, "message": "wrong"}]


@pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.name)
async def test_the_catalogue_s_own_words_are_no_secret(client: httpx.AsyncClient, code: ErrorCode) -> None:
    response = await client.get(f"/codes/{code.name}")
    assert response.json()["error"]["message"] == code.value.message


async def test_what_we_say_ourselves_is_sent_without_secrets(client: httpx.AsyncClient) -> None:
    response = await client.post("/ours/url", params={"said": f"https://ada:hunter2@example.com {CARD}"})
    error = response.json()["error"]
    shown = "https://[redacted]@example.com [redacted]"
    assert (error["message"], error["details"][0]["message"], error["details"][0]["received"]) == (shown,) * 3
