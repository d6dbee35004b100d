"""Kinds that operators bring into a cluster, and of each what the chart uses. Closed: anything else is a mistake.

Written from KEDA's documentation of ScaledObject and its Prometheus scaler, and from the Prometheus Operator's API
reference of PodMonitor: Kubernetes' own schemas know neither.
"""

from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator

type Schema = dict[str, Any]


def _object(*optional: str, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


_TEXT: Schema = {"type": "string", "minLength": 1}
_TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
_DURATION: Schema = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d|w|y))+$"}
_METADATA = _object("annotations", name=_TEXT, namespace=_TEXT, labels=_TEXTS, annotations=_TEXTS)
_EXPRESSION = _object(key=_TEXT, operator={"enum": ["In", "NotIn"]}, values={"type": "array", "items": _TEXT})
_PROMETHEUS = _object(
    type={"const": "prometheus"},
    metricType={"enum": ["Value", "AverageValue"]},
    # Numbers are text here, too: it is a map of strings.
    metadata=_object(serverAddress=_TEXT, query=_TEXT, threshold={"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}),
)
_RELABELING = _object(sourceLabels={"type": "array", "items": _TEXT}, targetLabel=_TEXT)
_ENDPOINT = _object(
    port=_TEXT, path=_TEXT, interval=_DURATION, honorLabels={"type": "boolean"},
    relabelings={"type": "array", "items": _RELABELING},
)  # fmt: skip

SCHEMAS: dict[str, Schema] = {
    "keda.sh/v1alpha1": _object(
        apiVersion={"type": "string"},
        kind={"const": "ScaledObject"},
        metadata=_METADATA,
        spec=_object(
            scaleTargetRef=_object(name=_TEXT),
            minReplicaCount={"type": "integer", "minimum": 0},
            maxReplicaCount={"type": "integer", "minimum": 1},
            triggers={"type": "array", "items": _PROMETHEUS, "minItems": 1},
        ),
    ),
    "monitoring.coreos.com/v1": _object(
        apiVersion={"type": "string"},
        kind={"const": "PodMonitor"},
        metadata=_METADATA,
        spec=_object(
            selector=_object(matchLabels=_TEXTS, matchExpressions={"type": "array", "items": _EXPRESSION}),
            podMetricsEndpoints={"type": "array", "items": _ENDPOINT, "minItems": 1},
        ),
    ),
}
"""By `apiVersion`."""


def problems(found: Schema) -> Iterator[str]:
    for error in Draft202012Validator(SCHEMAS[found["apiVersion"]]).iter_errors(found):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
