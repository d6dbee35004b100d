"""The OpenAPI documents: a client generator accepts them, and they tell the truth about errors and keys."""

from collections.abc import Iterator, Mapping
from typing import Any

import notifications.api
import orders.api
import payments.api
import pytest
import webhook_ingest.api
from chassis.config import Live
from chassis.config.settings import DatabaseSettings, ServiceSettings
from chassis.errors import ErrorCode
from fastapi import FastAPI
from harness import dependency, own_service
from notifications.settings import NotificationsSettings
from openapi_spec_validator import OpenAPIV31SpecValidator
from orders.settings import OrdersSettings
from payments.settings import PaymentsSettings
from pydantic import SecretStr
from webhook_ingest.settings import WebhookIngestSettings, WebhookSecretSettings

DATABASE = DatabaseSettings(name="none", user="none", password=SecretStr("none"))
SECRETS = WebhookSecretSettings(payment_provider=[SecretStr("whsec_" + "YWJj" * 10)])

APPS: Mapping[str, FastAPI] = {
    "orders": orders.api.create_app(Live(OrdersSettings(database=DATABASE, payments=own_service("http://payments")))),
    "payments": payments.api.create_app(
        Live(PaymentsSettings(database=DATABASE, provider=dependency("http://provider")))
    ),
    "notifications": notifications.api.create_app(Live(NotificationsSettings(database=DATABASE))),
    "webhook-ingest": webhook_ingest.api.create_app(
        Live(WebhookIngestSettings(database=DATABASE, webhook_secrets=SECRETS))
    ),
}
SIGNED_INSTEAD = {"receive_webhook"}
ENVELOPE = {"$ref": "#/components/schemas/ErrorEnvelope"}
PROBLEM = {"$ref": "#/components/schemas/Problem"}


@pytest.fixture(params=APPS)
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    return APPS[request.param].openapi()


def operations(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for item in document["paths"].values():
        yield from item.values()


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"].startswith("3.1.")


def test_what_places_cancels_and_pays_is_critical_and_what_lists_can_be_shed() -> None:
    of_class: dict[str, set[str]] = {}
    for app in APPS.values():
        for operation in operations(app.openapi()):
            of_class.setdefault(operation.get("x-criticality", "default"), set()).add(operation["operationId"])
    assert of_class.pop("default")
    assert of_class == {
        "critical": {"place_order", "cancel_order", "request_payment", "refund_payment", "receive_webhook"},
        "sheddable": {
            "list_products",
            "list_orders",
            "get_order_payment",
            "list_mails",
            "list_webhook_endpoints",
            "list_deliveries",
        },
    }


def test_every_operation_has_an_id_of_its_own_that_reads_like_a_name(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for operation in operations(document)]
    assert len(set(ids)) == len(ids) > 0
    assert all(name.isidentifier() and name.islower() for name in ids)


def test_every_error_is_documented_with_the_envelope(document: dict[str, Any]) -> None:
    for operation in operations(document):
        errors = {status: answer for status, answer in operation["responses"].items() if int(status) >= 400}
        assert {"401", "422", "429", "431", "500", "503", "504"} <= errors.keys()
        for status, answer in errors.items():
            assert answer["content"]["application/json"]["schema"] == ENVELOPE
            assert answer["content"]["application/problem+json"]["schema"] == PROBLEM
            codes = [ErrorCode[name] for name in answer["x-error-codes"]]
            assert {code.value.status for code in codes} == {int(status)}
            assert ("Retry-After" in answer.get("headers", {})) == any(code.value.retryable for code in codes)


def test_both_forms_of_an_error_take_their_codes_from_the_catalogue(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["ErrorCodeName"]["enum"] == [code.name for code in ErrorCode]
    for form in (schemas["ErrorBody"], schemas["Problem"]):
        assert form["properties"]["code"] == {"$ref": "#/components/schemas/ErrorCodeName"}


def test_the_frameworks_own_error_shape_is_nowhere(document: dict[str, Any]) -> None:
    assert not {"HTTPValidationError", "ValidationError"} & document["components"]["schemas"].keys()


def test_a_route_that_reads_a_body_documents_how_reading_it_fails(document: dict[str, Any]) -> None:
    for operation in operations(document):
        if "requestBody" in operation:
            assert "413" in operation["responses"]


def test_every_route_asks_for_a_key_unless_its_callers_sign(document: dict[str, Any]) -> None:
    for operation in operations(document):
        assert ("security" in operation) == (operation["operationId"] not in SIGNED_INSTEAD)
        assert ("403" in operation["responses"]) == ("security" in operation)
    if any(operation.get("security") for operation in operations(document)):
        assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}


@pytest.mark.parametrize("service", [OrdersSettings, PaymentsSettings, NotificationsSettings, WebhookIngestSettings])
def test_every_route_names_one_scope_and_every_scope_is_some_route_s(service: type[ServiceSettings]) -> None:
    found = [
        scopes
        for operation in operations(APPS[service.service_name].openapi())
        for requirement in operation.get("security", ())
        for scopes in requirement.values()
    ]
    assert all(len(scopes) == 1 for scopes in found)
    assert {scope for scopes in found for scope in scopes} == service.scopes
