"""A value that the chart does not know is refused with its name, and every value that it knows has an effect."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import helm_python
import pytest
from helm_python import HelmRenderError, HelmValuesError
from rendering import HOLDFAST, Json, Rendering, copy_of, leaves, manifests, merge, nested, render, values_of

REFUSED: dict[str, tuple[object, str, str]] = {
    # path: (value, where the message must point, what it must say)
    "postgre.enabled": (True, "", "'postgre' not allowed"),
    "postgres.enable": (True, "/postgres", "'enable' not allowed"),
    "services.ordes": ({}, "/services", "'ordes' not allowed"),
    "services.orders.replica": (2, "/services/orders", "'replica' not allowed"),
    "services.orders.worker.replica": (2, "/services/orders/worker", "'replica' not allowed"),
    "services.orders.resources.limit": ({}, "/services/orders/resources", "'limit' not allowed"),
    "config.databse": ({}, "/config", "'databse' not allowed"),
    "config.database.hots": ("db", "/config/database", "'hots' not allowed"),
    "services.orders.config.pending_limt": (60, "/services/orders/config", "'pending_limt' not allowed"),
    # a setting of another service
    "services.payments.config.smtp": ({}, "/services/payments/config", "'smtp' not allowed"),
    # of the wrong type
    "services.orders.replicas": ("2", "/services/orders/replicas", "got string, want integer"),
    "postgres.enabled": ("yes", "/postgres/enabled", "got string, want boolean"),
    "image.tag": (1.5, "/image/tag", "got number, want string"),
    "config": ([], "/config", "got array, want object"),
    "config.database.pool_size": ("five", "/config/database/pool_size", "got string, want integer"),
    # out of range
    "services.payments.replicas": (-1, "/services/payments/replicas", "got -1"),
    "config.database.port": (70_000, "/config/database/port", "got 70,000, want 65,535"),
    "config.log.level": ("LOUD", "/config/log/level", "must be one of 'DEBUG'"),
    "services.orders.config.pending_limit": (0, "/services/orders/config/pending_limit", "got 0, want 0"),
    "config.cache.ttl_jitter": (1, "/config/cache/ttl_jitter", "got 1, want 1"),
    "rootFilesystem": ("rw", "/rootFilesystem", "must be one of 'read-only'"),
    # what is not the values' business: secrets, and the ports that the templates name
    "config.database.password": ("hunter2", "/config/database", "'password' not allowed"),
    "config.redis.password": ("hunter2", "/config/redis", "'password' not allowed"),
    "config.management.token": ("hunter2", "/config/management", "'token' not allowed"),
    "services.orders.config.auth.keys": ({}, "/services/orders/config/auth", "'keys' not allowed"),
    "services.orders.config.payments.api_key": ("k", "/services/orders/config/payments", "'api_key' not allowed"),
    "config.http.port": (8001, "/config/http", "'port' not allowed"),
    "config.management.host": ("127.0.0.1", "/config/management", "'host' not allowed"),
    "services.orders.env.HOLDFAST_DATABASE__PASSWORD": (
        "hunter2",
        "/services/orders/env/HOLDFAST_DATABASE__PASSWORD",
        "",
    ),
    "services.payments.env.HOLDFAST_PROVIDER__API_KEY": ("k", "/services/payments/env/HOLDFAST_PROVIDER__API_KEY", ""),
    "services.orders.env.HOLDFAST_HTTP__PORT": ("8001", "/services/orders/env/HOLDFAST_HTTP__PORT", ""),
    "services.orders.env.PATH": ("/bin", "/services/orders/env", "'PATH' not allowed"),
}


@pytest.mark.parametrize(("path", "value", "where", "what"), [(path, *it) for path, it in REFUSED.items()], ids=REFUSED)
def test_a_value_that_cannot_be_meant_is_refused_with_its_name(path: str, value: object, where: str, what: str) -> None:
    with pytest.raises(HelmValuesError) as refused:
        render(HOLDFAST, nested(path, value=value))
    assert any(f"at '{where}'" in line and what in line for line in str(refused.value).splitlines()), refused.value


def test_the_page_shows_what_helm_says() -> None:
    page = (HOLDFAST.parents[1] / "docs/tutorial/kubernetes.md").read_text()
    (expression, shown) = re.findall(r"^\$ helm template \S+ \S+ --set (\S+)\nError: ([^`]+)```", page, re.MULTILINE)[0]
    with pytest.raises(HelmValuesError) as refused:
        render(HOLDFAST, helm_python.parse_set_string(expression))
    assert str(refused.value).strip() == shown.strip()


def test_everything_that_is_wrong_is_said_at_once() -> None:
    wrong = merge(nested("config.databse", value={}), nested("services.orders.replicas", value="2"))
    with pytest.raises(HelmValuesError) as refused:
        render(HOLDFAST, wrong)
    assert "'databse' not allowed" in str(refused.value)
    assert "got string, want integer" in str(refused.value)


def test_a_chart_around_this_one_may_share_its_global_values() -> None:
    shared = render(HOLDFAST, nested("global.team", value="platform"))
    assert kinds_and_names(shared) == kinds_and_names(render(HOLDFAST))


def kinds_and_names(rendering: Rendering) -> list[tuple[str, str]]:
    return [(found["kind"], found["metadata"]["name"]) for found in rendering.objects]


def closed(schema: Json, place: str = "") -> Iterable[tuple[str, bool]]:
    """Every object in the schema with properties, by its place, and whether it refuses other names."""
    if "properties" in schema:
        yield place, schema.get("additionalProperties") is False
    for key, inner in schema.items():
        if isinstance(inner, dict):
            yield from closed(inner, f"{place}/{key}")


def test_the_schema_is_closed_everywhere() -> None:
    found = dict(closed(json.loads((HOLDFAST / "values.schema.json").read_text())))
    assert len(found) >= 20
    assert [place for place, is_closed in found.items() if not is_closed] == []


EVERYTHING = merge(
    *(nested(path, value=True) for path, value in leaves(values_of(HOLDFAST)) if value is False),
    nested("config.telemetry.otlp_endpoint", value="http://observability-collector:4318"),
    nested("ingress.tlsSecret", value="tls"),
    nested("postgres.maxConnections", value=10_000),
)
"""What a switch switches has an effect only where it is on."""
# With the bundled servers nobody is called outside: these peers are tested in test_network.
OUTSIDE = {f"networkPolicies.peers.{name}" for name in ("database", "redis", "provider", "mail")}


def unused_values(chart: Path, *, below: str) -> list[str]:
    """The values that can be changed, for all that the schema allows, without any effect on what is rendered."""
    values = {
        path: it for path, it in leaves(merge(values_of(chart), EVERYTHING)) if f"{path}.".startswith(f"{below}.")
    }
    before = without_secrets(manifests(chart, EVERYTHING))
    return [
        path for path, value in values.items() if not any(has_effect(chart, path, it, before) for it in others(value))
    ]


def has_effect(chart: Path, path: str, value: object, before: Mapping[str, str]) -> bool:
    try:
        return without_secrets(manifests(chart, merge(EVERYTHING, nested(path, value=value)))) != before
    except HelmValuesError:
        return False
    except HelmRenderError:
        return True  # a template looked at it, and refused


def others(value: object) -> list[object]:
    """Values in place of one: of its type, in the forms that values have here."""
    match value:
        case bool():
            return [not value]
        case int() | float():
            return [value + 1]
        case str():
            return [f"{value}-other", "2Gi", "2mb", "dev", "writable", "Never", "7m"]
        case list():
            return [["other"], ["other:read"], [{"podSelector": {}}]]
        case _:
            return [{"HOLDFAST_LOG__LEVEL": "DEBUG"}, {"limits": {"memory": "1Mi"}}, {"other": "text"}]


def without_secrets(texts: Mapping[str, str]) -> Mapping[str, str]:
    """Every rendering generates its own: only the names of their keys are compared."""
    return {
        path: re.sub(r": \S+$", ":", text, flags=re.MULTILINE) if path.endswith("/secret.yaml") else text
        for path, text in texts.items()
    }


@pytest.mark.parametrize("part", values_of(HOLDFAST))
def test_every_value_changes_what_is_rendered(part: str) -> None:
    assert set(unused_values(HOLDFAST, below=part)) == {path for path in OUTSIDE if path.startswith(part)}


def test_a_value_that_nothing_uses_is_found(tmp_path: Path) -> None:
    chart = copy_of(HOLDFAST, tmp_path, {"templates/statefulset.yaml": ("{{ .Values.postgres.storage }}", "1Gi")})
    assert unused_values(chart, below="postgres") == ["postgres.storage"]


@pytest.mark.parametrize(
    ("file", "switch", "value", "what"),
    [
        ("values.yaml", "postgres.enabled", False, "config.database.host"),
        ("values.yaml", "valkey.enabled", False, "config.redis.host"),
        ("values.yaml", "simulators.enabled", False, "services.payments.config.provider.base_url"),
        ("values.yaml", "secrets.generate", False, "secrets.generate"),
        ("values-prod.yaml", "postgres.enabled", True, "secrets.generate"),
        ("values-prod.yaml", "valkey.enabled", True, "secrets.generate"),
        ("values-prod.yaml", "simulators.enabled", True, "secrets.generate"),
    ],
)
def test_a_switch_that_leaves_something_without_an_address_or_a_secret_is_refused(
    *, file: str, switch: str, value: bool, what: str
) -> None:
    with pytest.raises(HelmRenderError) as refused:
        render(HOLDFAST, values_of(HOLDFAST, file), nested(switch, value=value))
    assert what in str(refused.value)


@pytest.mark.parametrize(
    ("switch", "elsewhere"),
    [
        ("postgres.enabled", nested("config.database.host", value="holdfast-postgres.example.com")),
        ("postgres.enabled", nested("config.database.host", value="::1")),
        ("valkey.enabled", nested("config.redis.host", value="holdfast-valkey-2")),
    ],
)
def test_a_server_of_ones_own_may_be_called_almost_like_ours(switch: str, elsewhere: Json) -> None:
    render(HOLDFAST, nested(switch, value=False), elsewhere)
