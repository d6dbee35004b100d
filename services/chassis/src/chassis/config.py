"""Configuration: six layers, validated as a whole before anything else happens.

Later wins: defaults in code → common file → service file → environment (`HOLDFAST_…`, nested by `__`; the shell before
`.env`) → secret files (one per setting, named like `database__password`) → command line (`--set http.port=8001`).
Where the files are is told by three variables: HOLDFAST_COMMON_FILE, HOLDFAST_SERVICE_FILE, HOLDFAST_SECRETS_DIR.
"""

import difflib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import PydanticBaseSettingsSource, SettingsError
from pydantic_settings.sources import DotEnvSettingsSource, EnvSettingsSource, NestedSecretsSettingsSource

from chassis.errors import ConfigurationError
from chassis.settings import DatabaseSettings, ServiceSettings

PREFIX = "HOLDFAST_"
LOCATIONS = {
    "HOLDFAST_COMMON_FILE": "/etc/holdfast/common/config.yaml",
    "HOLDFAST_SERVICE_FILE": "/etc/holdfast/service/config.yaml",
    "HOLDFAST_SECRETS_DIR": "/run/secrets/holdfast",
}


@dataclass(frozen=True, slots=True)
class Explained:
    """One setting: its dotted name, its value (a secret as a fingerprint), the layer that won, and those it shadows."""

    name: str
    value: str
    layer: str
    shadowed: tuple[str, ...]


def load[S: ServiceSettings](settings_type: type[S], options: Sequence[str] = ()) -> S:
    """The settings of a service; `options` are `name=value` from the command line, the name dotted.

    Raises `ConfigurationError` with every problem of every layer at once, each naming the variable to fix.
    """
    return _validate(settings_type, _layers(settings_type, options), ())


def load_database(settings_type: type[ServiceSettings], options: Sequence[str] = ()) -> DatabaseSettings:
    """Only the service's `database` group: a command that needs no more is not given the service's other secrets."""
    return _validate(DatabaseSettings, _layers(settings_type, options), ("database",))


def explain(settings_type: type[ServiceSettings], options: Sequence[str] = ()) -> list[Explained]:
    """Every setting with the layer that its value came from; raises `ConfigurationError` like `load`."""
    settings = load(settings_type, options)
    layers = [(layer.name, _names(layer.values)) for layer in _layers(settings_type, options)]
    explained = []
    for name, value in _flatten_model(settings):
        givers = [layer for layer, names in layers if _is_given(name, names)] or ["default"]
        explained.append(Explained(name, _show(value), givers[-1], tuple(givers[:-1])))
    return explained


def variable(name: str | Sequence[str | int]) -> str:
    """The environment variable of a dotted setting name: `http.port` → `HOLDFAST_HTTP__PORT`."""
    parts = name.split(".") if isinstance(name, str) else [str(part) for part in name]
    return PREFIX + "__".join(parts).upper()


@dataclass(frozen=True, slots=True)
class _Layer:
    name: str
    values: dict[str, Any]
    problems: list[str]


def _layers(settings_type: type[ServiceSettings], options: Sequence[str]) -> list[_Layer]:
    """The layers above the defaults, lowest first."""
    places = {name: os.environ.get(name, default) for name, default in LOCATIONS.items()}
    secrets = places["HOLDFAST_SECRETS_DIR"]
    return [
        _file_layer("common file", "HOLDFAST_COMMON_FILE", places["HOLDFAST_COMMON_FILE"]),
        _file_layer("service file", "HOLDFAST_SERVICE_FILE", places["HOLDFAST_SERVICE_FILE"]),
        _source_layer(".env", DotEnvSettingsSource(settings_type, env_file=".env"), []),
        _source_layer("environment", EnvSettingsSource(settings_type), _unknown_variables(settings_type)),
        _source_layer(
            "secret files",
            NestedSecretsSettingsSource(
                settings_type,  # type: ignore[arg-type]  # documented: a settings class works in the source's place
                secrets_dir=secrets,
                secrets_dir_missing="ok",
                secrets_prefix="",
            ),
            _unknown_secrets(settings_type, Path(secrets)),
        ),
        _options_layer(options),
    ]


def _validate[M: BaseModel](model: type[M], layers: Sequence[_Layer], path: tuple[str, ...]) -> M:
    """The model filled from what the layers give at `path`; all problems of all layers at once."""
    problems = [problem for layer in layers for problem in layer.problems]
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer.values)
    for name in path:
        merged = merged.get(name, {})
    try:
        validated = model(**merged)
    except ValidationError as error:
        found = error.errors(include_input=False)
        problems += [_describe((*path, *problem["loc"]), problem["msg"], layers) for problem in found]
    if problems:
        raise ConfigurationError(problems)
    return validated


def _file_layer(name: str, location: str, path: str) -> _Layer:
    """A YAML file. One that nobody asked for may be missing."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _Layer(name, {}, [f"{location}: there is no file {path}"] if location in os.environ else [])
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return _Layer(name, {}, [f"{location}: {path} cannot be read: {error}"])
    if not isinstance(values, dict | None):
        return _Layer(name, {}, [f"{location}: {path} must hold names and values"])
    return _Layer(name, values or {}, [])


def _source_layer(name: str, source: PydanticBaseSettingsSource, problems: list[str]) -> _Layer:
    try:
        return _Layer(name, source(), problems)
    except SettingsError as error:
        return _Layer(name, {}, [*problems, f"{name}: {error}"])


def _options_layer(options: Sequence[str]) -> _Layer:
    values: dict[str, Any] = {}
    problems = []
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            problems.append(f"command line: --set takes name=value, not {name}")
            continue
        nested: dict[str, Any] | str = value
        for part in reversed(name.split(".")):
            nested = {part: nested}
        values = _merge(values, nested if isinstance(nested, dict) else {})
    return _Layer("command line", values, problems)


def _merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _describe(location: Sequence[str | int], message: str, layers: Sequence[_Layer]) -> str:
    """A line for one problem: the variable, what is wrong, and the layer that the value came from."""
    name = ".".join(str(part) for part in location)
    givers = [layer.name for layer in layers if _is_given(name, _names(layer.values))]
    origin = f" (from: {givers[-1]})" if givers else ""
    return f"{variable(location)}: {message}{origin}"


def _unknown_variables(settings_type: type[ServiceSettings]) -> list[str]:
    given = [name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in LOCATIONS]
    known = {variable(name) for name in setting_names(settings_type)}
    return [
        f"{name}: no such setting{_nearest(name.upper(), known)}"
        for name in given
        if not _is_known(name.upper(), known)
    ]


def _unknown_secrets(settings_type: type[ServiceSettings], directory: Path) -> list[str]:
    if not directory.is_dir():
        return []
    given = [path.name for path in directory.iterdir() if not path.name.startswith(".")]
    known = {name.replace(".", "__") for name in setting_names(settings_type)}
    return [
        f"{directory / name}: no such setting{_nearest(name.lower(), known)}"
        for name in given
        if not _is_known(name.lower(), known)
    ]


def _is_known(name: str, known: set[str]) -> bool:
    """Whether it is a setting, or one whose value has parts of its own (`HOLDFAST_AUTH` as one JSON object)."""
    return name in known or any(other.startswith(f"{name}__") for other in known)


def _nearest(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else ""


def setting_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting's dotted name, in the order of the models."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from setting_names(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _names(values: Mapping[str, Any], prefix: str = "") -> set[str]:
    """The dotted names that a layer gives values to."""
    names = set()
    for name, value in values.items():
        names |= _names(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}"}
    return names


def _is_given(name: str, names: set[str]) -> bool:
    """Whether a layer gives this setting, as a whole or in part (`auth.keys.acme` gives a part of `auth.keys`)."""
    return any(given == name or given.startswith(f"{name}.") for given in names)


def _flatten_model(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _flatten_model(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _show(value: Any) -> str:
    """The value as text; of a secret only a fingerprint, which tells whether two processes have the same one."""
    if isinstance(value, SecretStr):
        return f"secret:{hashlib.sha256(value.get_secret_value().encode()).hexdigest()[:8]}"
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, SecretStr) for item in value):
        return "[" + ", ".join(_show(item) for item in value) + "]"
    return "" if value is None else str(value)
