"""Every setting of every service is broken in every way that its model knows, and each one is caught at start.

What there is to break is read from the models, so that a new setting is covered by its own limits; one without limits
fails the first test.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import chassis
import pytest
from chassis.app.worker.stages import GRACE_SECONDS
from chassis.config import load, rules_of, settings_of, variable
from chassis.config.settings import Rule, Ruled, ServiceSettings, ShutdownSettings
from chassis.errors import ConfigurationError
from chassis.telemetry.export import EXPORT_TIMEOUT
from notifications.settings import NotificationsSettings
from orders.settings import OrdersSettings
from payments.settings import PaymentsSettings
from pydantic import BaseModel, TypeAdapter
from webhook_ingest.settings import WebhookIngestSettings

SERVICES = (OrdersSettings, PaymentsSettings, NotificationsSettings, WebhookIngestSettings)
SERVICE_NAMES = [service.service_name for service in SERVICES]

# What has no default, by the last part of its name.
REQUIRED: Mapping[str, Any] = {
    "name": "shop",
    "user": "shop_app",
    "password": "of-the-database",
    "base_url": "http://elsewhere:8000",
    "api_key": "our-key-there",
    "token_secret": "s" * 32,
    "payment_provider": ["whsec_" + "YWJj" * 10],
}
# Rules that are more than an order of two sums: model and validator → settings that break it, what is said of it.
OTHER_RULES: Mapping[tuple[str, str], tuple[Mapping[str, Any], str]] = {
    ("AuthSettings", "_callers_have_scopes"): (
        {"auth.service_secrets": {"orders": ["s" * 32]}},
        "does not have: orders",
    ),
    **{
        (f"{service}Settings", "_scopes_exist"): (
            {
                "auth.service_scopes": {"orders": ["orders:wirte"]},
                "rate_limit.edges": {"orders": dict.fromkeys(SERVICE_NAMES, 1)},
                "rate_limit.clients": 0,
            },
            "does not: orders:wirte",
        )
        for service in ("Orders", "Payments", "Notifications", "WebhookIngest")
    },
    **{
        (service.__name__, "_calling_services_have_limits"): (
            {"auth.service_scopes": {"billing": sorted(service.scopes)[:1]}},
            f"add rate_limit.edges.billing.{service.service_name}",
        )
        for service in SERVICES
        if service.scopes
    },
    **{
        (service.__name__, "_limits_fit"): (
            {"rate_limit.edges": {service.service_name: {cause.dependency: 1}}},
            f"rate_limit.edges.{service.service_name}.{cause.dependency} is 1",
        )
        for service in SERVICES
        for cause in service.causes
    },
    ("RateLimitSettings", "_tiers_exist"): ({"rate_limit.tier_of": {"acme": "gold"}}, "does not have: gold"),
    ("RateLimitSettings", "_tiers_are_within_bounds"): (
        {"rate_limit.tiers": {"gold": 1000}, "rate_limit.rate_per_second": 100},
        "tier gold is above 10,000 a second",
    ),
}

type Schema = Mapping[str, Any]


@pytest.fixture
def service_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_SERVICE_FILE", str(tmp_path / "service.yaml"))
    return tmp_path / "service.yaml"


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.service_name)
def test_every_setting_has_limits_and_says_what_it_is(service: type[ServiceSettings]) -> None:
    for name, field in settings_of(service).items():
        assert field.description, name
        assert _is_limited(_schema(service, name)), name


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.service_name)
def test_every_broken_setting_is_caught_at_start_and_named(service: type[ServiceSettings], service_file: Path) -> None:
    _problems(service, service_file, {}, expect_valid=True)
    caught = Counter[str]()
    for broken in _rounds(_mutations(service)):
        found = _problems(service, service_file, {name: value for name, (_, value) in broken.items()})
        named = {problem.partition(": ")[0] for problem in found}
        assert {name: broken[name] for name in broken if variable(name) not in named} == {}
        caught.update(kind for kind, _ in broken.values())
    assert caught["missing"] >= len(settings_of(service)) // 2
    assert caught["wrong type"] == len(settings_of(service))
    assert caught["out of range"] >= len(settings_of(service))


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.service_name)
def test_every_contradiction_is_caught_at_start(service: type[ServiceSettings], service_file: Path) -> None:
    rules = rules_of(service)
    assert len(rules) >= 14
    for rule in rules:
        found = _problems(service, service_file, _contradiction(service, rule))
        assert any(str(rule) in problem for problem in found), (rule, found)
    for group, validator in _other_rules(service):
        if (validator == "_limits_fit" and not service.causes) or (
            validator == "_calling_services_have_limits" and not service.scopes
        ):
            continue  # such a service has no valid setting that breaks the rule
        broken, said = OTHER_RULES[group, validator]
        (problem,) = _problems(service, service_file, broken)
        assert said in problem


def test_a_setting_given_as_text_is_caught_like_one_in_a_file(service_file: Path) -> None:
    _problems(OrdersSettings, service_file, {}, expect_valid=True)
    for broken in _rounds(it for it in _mutations(OrdersSettings) if _can_be_text(*it)):
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, (_, value) in broken.items()}
        with pytest.raises(ConfigurationError) as invalid:
            load(OrdersSettings, [f"{name}={text}" for name, text in texts.items()])
        named = {problem.partition(": ")[0] for problem in invalid.value.problems}
        assert {name: broken[name] for name in broken if variable(name) not in named} == {}


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.service_name)
def test_every_setting_is_read_by_somebody(service: type[ServiceSettings]) -> None:
    """By its attribute, or by name in a rule: one that nobody reads is a promise that nobody keeps."""
    sources = "\n".join(path.read_text() for path in Path(chassis.__path__[0]).parents[2].glob("*/src/**/*.py"))
    for name in settings_of(service):
        assert re.search(rf'[."]{name.rpartition(".")[2]}\b', sources), name


def test_the_rule_about_the_end_counts_what_a_worker_takes_beyond_its_drain() -> None:
    (rule,) = ShutdownSettings.rules
    assert rule.left.endswith(f"drain_timeout + {2 * GRACE_SECONDS + EXPORT_TIMEOUT:g}")


def _problems(
    service: type[ServiceSettings], file: Path, changes: Mapping[str, Any], *, expect_valid: bool = False
) -> list[str]:
    """What is said of a valid file in which these settings are replaced; `...` takes one away."""
    required = {name: REQUIRED[name.rpartition(".")[2]] for name, f in settings_of(service).items() if f.is_required()}
    values: dict[str, Any] = {}
    for name, value in (required | dict(changes)).items():
        if value is not ...:
            *groups, last = name.split(".")
            inner = values
            for group in groups:
                inner = inner.setdefault(group, {})
            inner[last] = value
    file.write_text(json.dumps(values))
    if expect_valid:
        load(service)
        return []
    try:
        load(service)
    except ConfigurationError as invalid:
        return list(invalid.problems)
    pytest.fail(f"{service.service_name} starts with {changes}")


def _mutations(service: type[ServiceSettings]) -> Iterator[tuple[str, str, Any]]:
    """Setting, in which way it is broken, the broken value."""
    for name, field in settings_of(service).items():
        schema = _schema(service, name)
        if field.is_required():
            yield name, "missing", ...
        if not _may_be_null(service, name):
            yield name, "missing", None
        yield name, "wrong type", ["of", {"another": "shape"}] if schema.get("type") == "object" else {"a": {"b": 1}}
        for value in _out_of_range(schema):
            yield name, "out of range", value


def _rounds(mutations: Iterable[tuple[str, str, Any]]) -> Iterator[Mapping[str, tuple[str, Any]]]:
    """Each mutation once, of as many settings at a time as there are: all that is wrong is said at once."""
    ways: dict[str, list[tuple[str, Any]]] = {}
    for name, kind, value in mutations:
        ways.setdefault(name, []).append((kind, value))
    for number in range(max(map(len, ways.values()))):
        yield {name: those[number] for name, those in ways.items() if number < len(those)}


def _can_be_text(name: str, kind: str, value: Any) -> bool:
    """Text has no null, and any text is one."""
    is_text = _schema(OrdersSettings, name)["type"] == "string"
    return value not in (None, ...) and not (is_text and kind == "wrong type")


def _out_of_range(schema: Schema) -> Iterator[Any]:
    """Values just beyond each limit, and what is no value of this kind at all."""
    match schema:
        case {"enum": _}:
            yield "NEITHER"
        case {"type": "boolean"}:
            yield "perhaps"
        case {"type": "number" | "integer"}:
            yield "many"
            yield from (schema[bound] for bound in ("exclusiveMinimum", "exclusiveMaximum") if bound in schema)
            yield from (schema[bound] - 1 for bound in ("minimum",) if bound in schema)
            yield from (schema[bound] + 1 for bound in ("maximum",) if bound in schema)
        case {"type": "array", "items": items}:
            yield [_some(items)] * (schema["maxItems"] + 1)
            yield from ([] for _ in range(schema.get("minItems", 0)))
            yield from ([value] for value in _out_of_range(items))
        case {"type": "object", "additionalProperties": values}:
            yield {f"name{number}": _some(values) for number in range(schema["maxProperties"] + 1)}
            yield {"Not A Name": _some(values)}
            yield from ({"acme": value} for value in _out_of_range(values))
        case {"type": "string"}:
            if "maxLength" in schema:
                yield "x" * (schema["maxLength"] + 1)
            if schema.get("minLength", 0) > 0:
                yield ""
            if "pattern" in schema or schema.get("format", "password") != "password":
                yield "neither this\tnor that"


def _some(schema: Schema) -> Any:
    """A value of that kind, good or bad: there are too many of them anyway."""
    return {"array": [], "number": 1, "integer": 1}.get(str(schema.get("type")), "x")


def _is_limited(schema: Schema) -> bool:
    """Whether it is bounded on both sides: every number, the length of every text, list and mapping."""
    match schema:
        case {"type": "number" | "integer"}:
            low, high = {"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}
            return bool(low & schema.keys() and high & schema.keys())
        case {"type": "array", "items": items}:
            return "maxItems" in schema and _is_limited(items)
        case {"type": "object", "additionalProperties": values, "propertyNames": names}:
            return "maxProperties" in schema and _is_limited(values) and _is_limited(names)
        case {"type": "string"}:
            return "enum" in schema or "maxLength" in schema or schema.get("format", "password") != "password"
    return schema.get("type") == "boolean"


def _contradiction(service: type[ServiceSettings], rule: Rule) -> Mapping[str, Any]:
    """Each setting valid by itself, and the rule broken: the left side as large as it may be, the right as small."""
    left = [name for name in rule.names if name in rule.left.split(" + ")]
    right = [name for name in rule.names if name not in left]
    if rule.sign == "≠":
        return dict.fromkeys((*left, *right), 8000)
    return {name: _extreme(_schema(service, name), "max") for name in left} | {
        name: _extreme(_schema(service, name), "min") for name in right
    }


def _extreme(schema: Schema, end: str) -> float:
    """The largest or smallest valid value."""
    inclusive, exclusive = f"{end}imum", f"exclusive{end.capitalize()}imum"
    step = 1 if schema["type"] == "integer" else 0.001
    if inclusive in schema:
        return cast("float", schema[inclusive])
    return cast("float", schema[exclusive] + (step if end == "min" else -step))


def _other_rules(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """The validators over several settings that are no `Rule`, by their group's name."""
    for name in model.__pydantic_decorators__.model_validators:
        if name not in Ruled.__pydantic_decorators__.model_validators:
            yield model.__name__, name
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _other_rules(field.annotation)


def _schema(service: type[ServiceSettings], name: str) -> Schema:
    """A setting's JSON schema with what it refers to, without the null of an optional one."""
    field = settings_of(service)[name]
    schema = TypeAdapter(cast("Any", Annotated)[field.annotation, field]).json_schema()
    return _resolve(schema, schema.get("$defs", {}))


def _may_be_null(service: type[ServiceSettings], name: str) -> bool:
    field = settings_of(service)[name]
    schema = TypeAdapter(cast("Any", Annotated)[field.annotation, field]).json_schema()
    return any(option.get("type") == "null" for option in schema.get("anyOf", ()))


def _resolve(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    alternatives = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    merged: dict[str, Any] = {**schema, **(alternatives[0] if alternatives else {})}
    if reference := merged.pop("$ref", ""):
        merged = {**_resolve(definitions[reference.rpartition("/")[2]], definitions), **merged}
    return {
        key: _resolve(value, definitions) if key in {"items", "additionalProperties", "propertyNames"} else value
        for key, value in merged.items()
        if key != "anyOf"
    }
