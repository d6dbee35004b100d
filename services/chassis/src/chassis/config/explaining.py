"""Shows each setting's value and origin, with a fingerprint for each secret, and compares two configurations."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, SecretStr

from chassis.config.layers import read_layers, settings_of
from chassis.config.loading import validate
from chassis.config.settings import Declaration, ServiceSettings, flags_of


@dataclass(frozen=True, slots=True)
class Explained:
    """One setting: its dotted name, its value as text, the layer (such as a file or the environment) that gave the
    value, and the layers that this layer overrides. A setting of a feature flag has the flag's declaration, too.
    """

    name: str
    value: str
    layer: str
    shadowed: tuple[str, ...]
    flag: Declaration | None = None


def explain(settings_type: type[ServiceSettings], options: Sequence[str] = ()) -> list[Explained]:
    """Every setting with the layer that its value came from. Raises `ConfigurationError` as `load` does."""
    layers = read_layers(settings_type, options)
    settings = validate(settings_type, settings_type, layers)
    flags = {f"flags.{declared.name}": declared for declared in flags_of(settings_type)}
    explained = []
    for name, value in _flatten(settings):
        givers = ["default", *(layer.name for layer in layers if layer.gives(name))]
        flag = flags.get(name.rpartition(".")[0])
        explained.append(Explained(name, _show(value), givers[-1], tuple(givers[-2:0:-1]), flag))
    return explained


def config_hash(settings: ServiceSettings) -> str:
    """A hash (12 hex digits) of all settings except secrets. Replicas with different hashes run different settings."""
    secret = {name for name, field in settings_of(type(settings)).items() if _holds_secrets(field.annotation)}
    values = "\n".join(f"{name}={_show(value)}" for name, value in _flatten(settings) if name not in secret)
    return hashlib.sha256(values.encode()).hexdigest()[:12]


def differences(old: ServiceSettings, new: ServiceSettings) -> list[str]:
    """The dotted names of the settings whose values in `old` and `new` differ."""
    before = dict(_flatten(old))
    return [name for name, value in _flatten(new) if value != before[name]]


def fingerprint(secret: SecretStr) -> str:
    """A short hash of a secret. Operators compare the hashes of two processes to see whether both have the same secret.
    The hash does not reveal the secret.
    """
    return f"secret:{hashlib.sha256(secret.get_secret_value().encode()).hexdigest()[:8]}"


def _flatten(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _holds_secrets(kind: Any) -> bool:
    """Whether values of this type may hold a secret, even if the present value holds none."""
    kind = getattr(kind, "__value__", kind)
    return kind is SecretStr or any(_holds_secrets(inner) for inner in get_args(kind))


def _show(value: Any) -> str:
    """The value as text, with a fingerprint in the place of each secret."""
    match value:
        case SecretStr():
            return fingerprint(value)
        case dict():
            return "{" + ", ".join(f"{key}: {_show(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(_show(item) for item in value) + "]"
        case None:
            return ""
        case _:
            return str(value)
