"""The judgement on a change: what breaks somebody is named, what breaks nobody is not."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from compatibility import broken_catalogue, broken_document, broken_event, widenings

CATALOGUE: dict[str, Any] = {
    "NOT_FOUND": {"status": 404, "retryable": False, "message": "There is nothing here."},
    "OVERLOADED": {"status": 503, "retryable": True, "message": "Too much to do."},
}

ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "status": {"type": "string", "enum": ["pending", "confirmed"]},
        "reason": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "note": {"type": "string"},
        "lines": {"type": "array", "items": {"$ref": "#/components/schemas/OrderLine"}},
    },
    "required": ["id", "status", "reason", "lines"],
}
LINE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "product": {"type": "string", "maxLength": 64, "pattern": "^[a-z]+$"},
        "quantity": {"type": "integer", "minimum": 1, "maximum": 1000},
        "part_of": {"$ref": "#/components/schemas/Line"},
    },
    "required": ["product"],
    "additionalProperties": False,
}
DOCUMENT: dict[str, Any] = {
    "paths": {
        "/orders": {
            "post": {
                "operationId": "place_order",
                "security": [{"key": []}],
                "parameters": [{"in": "header", "name": "Idempotency-Key", "schema": {"type": "string"}}],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Line"}}},
                },
                "responses": {
                    "201": {
                        "headers": {"Location": {"required": True}},
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}},
                    },
                    "404": {"content": {"application/json": {"schema": {"type": "object"}}}},
                },
            },
            "get": {"operationId": "list_orders", "responses": {"200": {}}},
        }
    },
    "components": {
        "schemas": {
            "Order": ORDER,
            "Line": LINE,
            "OrderLine": {"type": "object", "properties": {"quantity": {"type": "integer", "maximum": 1000}}},
        }
    },
}
EVENT: dict[str, Any] = {
    "stream": "events:orders",
    "version": 1,
    "schema": {
        "type": "object",
        "properties": {"status": {"type": "string"}, "note": {"type": "string"}},
        "required": ["status"],
    },
}

type Change = Callable[[dict[str, Any]], object]


def post(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["paths"]["/orders"]["post"]
    return found


def line(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"]["Line"]["properties"]
    return found


def order(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"]["Order"]
    return found


BREAKS: dict[str, tuple[Change, str]] = {
    "a path is removed": (lambda d: d["paths"].pop("/orders"), "POST /orders was removed"),
    "an operation is removed": (lambda d: d["paths"]["/orders"].pop("get"), "GET /orders was removed"),
    "an operation is renamed": (lambda d: post(d).update(operationId="order"), "operationId was place_order"),
    "a key is asked for": (lambda d: d["paths"]["/orders"]["get"].update(security=[{"key": []}]), "security was None"),
    "a parameter is removed": (lambda d: post(d)["parameters"].clear(), "header Idempotency-Key is no longer taken"),
    "a parameter is now required": (
        lambda d: post(d)["parameters"][0].update(required=True),
        "header Idempotency-Key is now required",
    ),
    "a required parameter is new": (
        lambda d: post(d)["parameters"].append({"in": "query", "name": "q", "required": True, "schema": {}}),
        "query q is now required",
    ),
    "a body is now required": (
        lambda d: d["paths"]["/orders"]["get"].update(requestBody={"required": True, "content": {}}),
        "body is now required",
    ),
    "a media type is no longer taken": (
        lambda d: post(d)["requestBody"].update(content={"text/csv": {"schema": {}}}),
        "body application/json is no longer taken",
    ),
    "a field of a request is new and required": (
        lambda d: d["components"]["schemas"]["Line"]["required"].append("quantity"),
        "body.quantity may be missing",
    ),
    "a field of a request is removed": (lambda d: line(d).pop("quantity"), "body.quantity is not known"),
    "a maximum is lowered": (lambda d: line(d)["quantity"].update(maximum=10), "body.quantity: maximum 1000 is above"),
    "a minimum is raised": (lambda d: line(d)["quantity"].update(minimum=2), "body.quantity: minimum 1 is below 2"),
    "a minimum is new": (lambda d: line(d)["product"].update(minLength=3), "body.product: minLength None is below 3"),
    "a pattern changes": (lambda d: line(d)["product"].update(pattern="^[a-f]+$"), "body.product: pattern ^[a-z]+$"),
    "a field takes another type": (lambda d: line(d)["quantity"].update(type="string"), "type integer is no string"),
    "a field takes a few values only": (lambda d: line(d)["product"].update(enum=["rope"]), "where only 'rope' are"),
    "a keyword nobody here knows is new": (
        lambda d: line(d)["product"].update(contentEncoding="base64"),
        "contentEncoding None is not base64",
    ),
    "a field of an answer is removed": (
        lambda d: order(d)["properties"].pop("note"),
        "201.note is gone",
    ),
    "a field of an answer may be missing": (
        lambda d: order(d)["required"].remove("reason"),
        "201.reason may be missing",
    ),
    "a field of an answer has a new value": (
        lambda d: order(d)["properties"]["status"]["enum"].append("lost"),
        "201.status: 'lost' not among 'pending', 'confirmed'",
    ),
    "a field of an answer is any text": (
        lambda d: order(d)["properties"]["status"].pop("enum"),
        "201.status: any value, where only",
    ),
    "a field of an answer may be null": (
        lambda d: order(d)["properties"].update(note={"anyOf": [{"type": "string"}, {"type": "null"}]}),
        "201.note: type null is no string",
    ),
    "a field of an answer that may be null may be a number": (
        lambda d: order(d)["properties"]["reason"]["anyOf"].append({"type": "number"}),
        "201.reason: number fits none of string, null",
    ),
    "a field deep in an answer has no maximum": (
        lambda d: d["components"]["schemas"]["OrderLine"]["properties"]["quantity"].pop("maximum"),
        "201.lines[].quantity: maximum None is above 1000",
    ),
    "a success is answered otherwise": (
        lambda d: post(d)["responses"].update({"202": post(d)["responses"].pop("201")}),
        "201 is no longer answered",
    ),
    "an answer's media type changes": (
        lambda d: post(d)["responses"]["201"].update(content={}),
        "201 application/json is no longer answered",
    ),
    "a header is no longer promised": (
        lambda d: post(d)["responses"]["201"].update(headers={}),
        "201: header Location is no longer promised",
    ),
}

BREAKS_NOBODY: dict[str, Change] = {
    "nothing changes": lambda _: None,
    "a path is new": lambda d: d["paths"].update({"/mails": {"get": {"responses": {}}}}),
    "prose changes": lambda d: line(d)["product"].update(description="Which one."),
    "a parameter is new and optional": lambda d: post(d)["parameters"].append(
        {"in": "query", "name": "q", "schema": {}}
    ),
    "a field of a request is new and optional": lambda d: line(d).update(colour={"type": "string"}),
    "an error is new": lambda d: post(d)["responses"].update({"409": {}}),
    "an error no longer happens": lambda d: post(d)["responses"].pop("404"),
    "a field of an answer is new": lambda d: order(d)["properties"].update(total={"type": "integer"}),
    "an answer never has one of its values": lambda d: order(d)["properties"]["status"]["enum"].remove("confirmed"),
    "an answer is never null": lambda d: order(d)["properties"].update(reason={"type": "string"}),
    "an answer always has a field": lambda d: order(d)["required"].append("note"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_change_that_breaks_a_client_is_named(name: str) -> None:
    change, expected = BREAKS[name]
    new = deepcopy(DOCUMENT)
    change(new)
    found = broken_document(DOCUMENT, new)
    assert any(expected in problem for problem in found), found
    assert all("/orders" in problem for problem in found)


@pytest.mark.parametrize("name", BREAKS_NOBODY)
def test_a_change_that_breaks_nobody_is_not(name: str) -> None:
    new = deepcopy(DOCUMENT)
    BREAKS_NOBODY[name](new)
    assert broken_document(DOCUMENT, new) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.pop("NOT_FOUND"), ["code NOT_FOUND was removed"]),
        (lambda c: c["NOT_FOUND"].update(status=410), ["code NOT_FOUND: status was 404, is 410"]),
        (lambda c: c["OVERLOADED"].update(retryable=False), ["code OVERLOADED: retryable was True, is False"]),
        (lambda c: c["NOT_FOUND"].update(message="Nothing."), []),
        (lambda c: c.update(NEW={"status": 400, "retryable": False}), []),
    ],
)
def test_a_code_keeps_its_name_its_status_and_whether_to_retry(change: Change, expected: list[str]) -> None:
    new = deepcopy(CATALOGUE)
    change(new)
    assert broken_catalogue(CATALOGUE, new) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda e: e["schema"]["properties"].pop("note"), ["payload.note is gone"]),
        (lambda e: e["schema"]["required"].remove("status"), ["payload.status may be missing"]),
        (lambda e: e.update(stream="events:other"), ["stream was events:orders, is events:other"]),
        (lambda e: e.update(version=0), ["version was 1, is 0"]),
        (lambda e: e["schema"]["properties"].update(total={"type": "integer"}), []),
        (lambda e: (e["schema"]["properties"].clear(), e.update(version=2)), []),
    ],
)
def test_an_event_keeps_what_its_consumers_read_unless_its_version_says_so(change: Change, expected: list[str]) -> None:
    new = deepcopy(EVENT)
    change(new)
    assert broken_event(EVENT, new) == expected


def test_a_list_that_may_grow_may_grow() -> None:
    known = {"type": "string", "enum": ["a"], "x-extensible": True}
    assert not list(widenings({"type": "string", "enum": ["a", "b"]}, known, of={}, to={}, at="code"))


def test_a_whole_number_is_a_number_and_not_the_other_way_round() -> None:
    integer, number = {"type": "integer"}, {"type": "number"}
    assert not list(widenings(integer, number, of={}, to={}, at="x"))
    assert list(widenings(number, integer, of={}, to={}, at="x")) == ["x: type number is no integer"]
