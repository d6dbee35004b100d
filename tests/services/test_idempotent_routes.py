"""Every unsafe public route takes an Idempotency-Key, or docs/reference/idempotency.md says why it needs none."""

import json
import re
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_UNSAFE = {"post", "put", "patch", "delete"}
_CODES = {"IDEMPOTENCY_KEY_MISSING", "IDEMPOTENCY_KEY_IN_PROGRESS", "IDEMPOTENCY_KEY_REUSED"}


def unsafe_routes() -> dict[str, dict[str, Any]]:
    """`orders POST /v1/orders` and so on, each with its operation in the OpenAPI document."""
    return {
        f"{document.stem} {method.upper()} {path}": operation
        for document in sorted((_ROOT / "contracts" / "openapi").glob("*.json"))
        for path, operations in json.loads(document.read_text())["paths"].items()
        for method, operation in operations.items()
        if method in _UNSAFE
    }


def takes_key(operation: dict[str, Any]) -> bool:
    return any(
        (parameter["name"], parameter["in"], parameter["required"]) == ("Idempotency-Key", "header", True)
        for parameter in operation.get("parameters", ())
    )


def exempt_routes() -> dict[str, str]:
    """The table of those without a key, each with its reason."""
    page = (_ROOT / "docs" / "reference" / "idempotency.md").read_text()
    return dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", page.partition("## Routes without a key")[2], re.MULTILINE))


def test_every_unsafe_route_takes_a_key_or_has_a_reason_not_to() -> None:
    without = {route for route, operation in unsafe_routes().items() if not takes_key(operation)}
    assert without == set(exempt_routes())
    assert all(exempt_routes().values())


def test_a_route_that_takes_a_key_documents_what_may_be_wrong_with_it() -> None:
    for route, operation in unsafe_routes().items():
        if takes_key(operation):
            codes = {code for answer in operation["responses"].values() for code in answer.get("x-error-codes", ())}
            assert codes >= _CODES, route
