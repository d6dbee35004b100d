"""`charts/holdfast/values.schema.json`: the chart's values, and in them every setting as the settings models have it.

Closed at every level, so that a typo fails `helm template` with its name, and so does a number outside its limits.
What a ConfigMap must not hold or the chart itself decides is not accepted as a setting: secrets, ports, addresses.
"""
# ruff: noqa: INP001  beside generate.py, which writes it

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from chassis.config import variable
from chassis.config.layers import LOCATIONS
from chassis.config.settings import ServiceSettings

type Schema = dict[str, Any]

THE_CHARTS_OWN = {
    "DatabaseSettings": {"budget"},
    "HttpSettings": {"host", "port"},
    "ManagementSettings": {"host", "port"},
    "RateLimitSettings": {"replicas"},
    "ShutdownSettings": {"grace_period"},
}
"""Settings that follow from the rest of the chart: ports of Services and probes, numbers of replicas, a pod's end."""


type IsSecret = Callable[[Schema, Schema], bool]
"""Whether a setting of a model's JSON schema, whose definitions are given, is secret."""


def values_schema(
    services: Sequence[type[ServiceSettings]], *, is_secret: IsSecret, secrets: Mapping[str, Sequence[str]]
) -> str:
    """As a file. `secrets`: service → the variables that would be secrets, and must be files."""
    configs, groups = {}, {}
    for settings in (ServiceSettings, *services):
        schema = settings.model_json_schema()
        definitions = schema.pop("$defs")
        found = {name: _group(name, group, definitions, is_secret) for name, group in definitions.items()}
        configs[settings] = _group("", schema, definitions, is_secret) | {"additionalProperties": False}
        groups |= found
    own = {
        s.service_name: _object(_SERVICE, env=_variables(secrets[s.service_name]), config=configs[s]) for s in services
    }
    values = _object(
        _VALUES,
        config=configs[ServiceSettings],
        services={"type": "object", "properties": own, "additionalProperties": False},
        optional=["global"],
    )
    text = json.dumps([values, groups])
    used = {name: group for name, group in groups.items() if f'"#/$defs/{name}"' in text}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Written by docs/generate.py: change the settings models or docs/values_schema.py, then run it.",
        "title": "Values of the chart holdfast",
        **values,
        "$defs": _DEFINITIONS | used,
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _group(name: str, group: Schema, definitions: Schema, is_secret: IsSecret) -> Schema:
    """Without what it requires, since another layer may give it, and without defaults, which stay in the code."""
    kept = _or_template(_without(group, "title", "default", "required"))
    if "properties" in group:
        kept["properties"] = {
            setting: _or_template(_without(field, "title", "default"))
            for setting, field in group["properties"].items()
            if setting not in THE_CHARTS_OWN.get(name, ()) and not is_secret(field, definitions)
        }
    return kept


def _or_template(schema: Schema) -> Schema:
    """Text in the values may be a template, which names the release: its result is validated by the process."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [_or_template(choice) for choice in schema["anyOf"]]}
    return {**schema, "pattern": rf"\{{\{{|{schema['pattern']}"} if "pattern" in schema else schema


def _variables(secrets: Sequence[str]) -> Schema:
    own = [
        variable(name)
        for name in ("http.host", "http.port", "management.host", "management.port", "shutdown.grace_period")
    ]
    return {
        "type": "object",
        "properties": dict.fromkeys([*LOCATIONS, *own, *secrets], False),
        "patternProperties": {"^HOLDFAST_[A-Z0-9_]+$": _TEXT},
        "additionalProperties": False,
    }


def _without(schema: Schema, *keys: str) -> Schema:
    return {key: value for key, value in schema.items() if key not in keys}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _object(properties: Schema, *, optional: Iterable[str] = (), **more: Schema) -> Schema:
    """All of its properties have to be there: values.yaml has them, and only null takes one away."""
    every = properties | more
    required = [name for name in every if name not in set(optional)]
    return {"type": "object", "properties": every, "required": required, "additionalProperties": False}


_TEXT: Schema = {"type": "string"}
_NAME: Schema = {"type": "string", "minLength": 1}
_SWITCH: Schema = {"type": "boolean"}
_REPLICAS: Schema = {"type": "integer", "minimum": 1}

_DEFINITIONS: Schema = {
    "quantity": {"type": ["string", "number"], "pattern": "^[0-9.]+([mkMGT]|[KMGT]i)?$"},
    "quantities": {
        "type": "object",
        "properties": {"cpu": _ref("quantity"), "memory": _ref("quantity"), "ephemeral-storage": _ref("quantity")},
        "additionalProperties": False,
    },
    "resources": {
        "type": "object",
        "properties": {"requests": _ref("quantities"), "limits": _ref("quantities")},
        "additionalProperties": False,
    },
    "selector": {
        "type": "object",
        "properties": {"matchLabels": {"type": "object"}, "matchExpressions": {"type": "array"}},
        "additionalProperties": False,
    },
    "peer": {
        "type": "object",
        "description": "A NetworkPolicyPeer of Kubernetes.",
        "properties": {
            "namespaceSelector": _ref("selector"),
            "podSelector": _ref("selector"),
            "ipBlock": {
                "type": "object",
                "properties": {"cidr": {"type": "string"}, "except": {"type": "array", "items": {"type": "string"}}},
                "required": ["cidr"],
                "additionalProperties": False,
            },
        },
        "minProperties": 1,
        "additionalProperties": False,
    },
}

_HOST: Schema = {"type": "string", "pattern": "^$|^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"}
_TEXTS: Schema = {"type": "object", "additionalProperties": _TEXT}
_PEERS: Schema = {"type": "array", "items": _ref("peer")}

_SERVICE: Schema = {
    "image": _NAME,
    "replicas": _REPLICAS,
    "maxReplicas": _REPLICAS,
    "resources": _ref("resources"),
    "worker": _object(
        {"replicas": {"type": "integer", "minimum": 0}, "maxReplicas": _REPLICAS, "resources": _ref("resources")}
    ),
    "existingSecret": _TEXT,
    "existingMigrationSecret": _TEXT,
    "clientScopes": {"type": "array", "items": _NAME, "uniqueItems": True},
}

_VALUES: Schema = {
    "global": {"type": "object", "description": "Helm's own: values that a chart around this one shares."},
    "image": _object(
        {
            "registry": _TEXT,
            "tag": _TEXT,
            "pullPolicy": {"enum": ["", "Always", "IfNotPresent", "Never"]},
            "pullSecrets": {"type": "array", "items": _NAME},
        }
    ),
    "rootFilesystem": {"enum": ["read-only", "writable"]},
    "resources": _object({"api": _ref("resources"), "worker": _ref("resources"), "migration": _ref("resources")}),
    "secrets": _object(
        {
            "generate": _SWITCH,
            "clients": {
                "type": "array",
                "items": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"},
                "uniqueItems": True,
            },
        }
    ),
    "postgres": _object(
        {
            "enabled": _SWITCH,
            "image": _NAME,
            "maxConnections": {"type": "integer", "minimum": 1},
            "reservedConnections": {"type": "integer", "minimum": 0, "maximum": 10_000},
            "storage": _ref("quantity"),
            "resources": _ref("resources"),
        }
    ),
    "valkey": _object(
        {
            "enabled": _SWITCH,
            "image": _NAME,
            "maxMemory": {"type": "string", "pattern": "^[0-9]+(mb|gb)$"},
            "resources": _ref("resources"),
        }
    ),
    "simulators": _object({"enabled": _SWITCH}),
    "helmTest": _object({"enabled": _SWITCH}),
    "load": _object(
        {
            "enabled": _SWITCH,
            "scenario": {"type": "string", "pattern": "^[a-z_]+$"},
            "seconds": {"type": "number", "minimum": 0, "maximum": 86_400},
            "rate": {"type": "number", "minimum": 0.01, "maximum": 100},
            "seed": {"type": "integer"},
            "resources": _ref("resources"),
        }
    ),
    "autoscaling": _object(
        {
            "apis": _object({"enabled": _SWITCH, "averageCPU": _ref("quantity")}),
            "workers": _object(
                {
                    "enabled": _SWITCH,
                    "queueAgeSeconds": {"type": "number", "exclusiveMinimum": 0},
                    "prometheus": {"type": "string", "pattern": "^https?://"},
                    "query": _NAME,
                }
            ),
        }
    ),
    "preStopSeconds": {"type": "integer", "minimum": 0, "maximum": 300},
    "priorityClassNames": _object({"api": _TEXT, "worker": _TEXT, "migration": _TEXT}),
    "podAnnotations": _TEXTS,
    "ingress": _object(
        {
            "enabled": _SWITCH,
            "className": _TEXT,
            "annotations": _TEXTS,
            "hosts": _object({"orders": _HOST, "notifications": _HOST, "webhook-ingest": _HOST}),
            "tlsSecret": _TEXT,
        }
    ),
    "networkPolicies": _object(
        {
            "enabled": _SWITCH,
            "peers": _object(
                dict.fromkeys(
                    ("dns", "ingressController", "prometheus", "collector", "database", "redis", "provider", "mail"),
                    _PEERS,
                )
            ),
        }
    ),
    "podMonitor": _object(
        {"enabled": _SWITCH, "labels": _TEXTS, "interval": {"type": "string", "pattern": "^[0-9]+(s|m)$"}}
    ),
    "tools": _object({"image": _NAME, "resources": _ref("resources")}),
}
