"""Configuration: six layers, validated as a whole before anything else happens.

Later wins: defaults in code → common file → service file → environment (`HOLDFAST_…`, nested by `__`; the shell before
`.env`) → secret files (one per setting, named like `database__password`) → command line (`--set http.port=8001`).
Where the files are is told by three variables: HOLDFAST_COMMON_FILE, HOLDFAST_SERVICE_FILE, HOLDFAST_SECRETS_DIR.

pydantic-settings reads each layer of text; what it does not do is done here: it ignores a variable that it does not
know, lets one unreadable value hide every other problem, and cannot say which layer a value came from.
"""

import difflib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

import yaml
from dotenv import dotenv_values
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource

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
    return _validate(settings_type, settings_type, _layers(settings_type, options))


def load_database(settings_type: type[ServiceSettings], options: Sequence[str] = ()) -> DatabaseSettings:
    """Only the service's `database` group: a command that needs no more is not given the service's other secrets."""
    return _validate(DatabaseSettings, settings_type, _layers(settings_type, options), "database")


def explain(settings_type: type[ServiceSettings], options: Sequence[str] = ()) -> list[Explained]:
    """Every setting with the layer that its value came from; raises `ConfigurationError` like `load`."""
    layers = _layers(settings_type, options)
    settings = _validate(settings_type, settings_type, layers)
    given = [(layer.name, _names(layer.values)) for layer in layers]
    explained = []
    for name, value in _flatten(settings):
        givers = ["default", *(layer for layer, names in given if _is_given(name, names))]
        explained.append(Explained(name, _show(value), givers[-1], tuple(givers[-2:0:-1])))
    return explained


def config_hash(settings: ServiceSettings) -> str:
    """12 hex digits that differ when any setting does, secrets left out: replicas with two hashes have drifted."""
    values = "\n".join(f"{name}={_show(value)}" for name, value in _flatten(settings) if not _is_secret(value))
    return hashlib.sha256(values.encode()).hexdigest()[:12]


def variable(name: str) -> str:
    """The environment variable of a dotted setting name: `http.port` → `HOLDFAST_HTTP__PORT`."""
    return PREFIX + _flat(name).upper()


def settings_of(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Every setting by its dotted name, in the order of the models."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= settings_of(inner, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = field
    return found


@dataclass(frozen=True, slots=True)
class _Layer:
    name: str
    values: dict[str, Any]
    problems: list[str]


def _layers(settings_type: type[ServiceSettings], options: Sequence[str]) -> list[_Layer]:
    """The layers above the defaults, lowest first."""
    dotenv = {name: text for name, text in dotenv_values(".env").items() if text is not None and _is_ours(name)}
    environment = {name: text for name, text in os.environ.items() if _is_ours(name)}
    places = LOCATIONS | {name: text for name, text in (dotenv | environment).items() if name in LOCATIONS}
    return [
        _file_layer("common file", "HOLDFAST_COMMON_FILE", places["HOLDFAST_COMMON_FILE"]),
        _file_layer("service file", "HOLDFAST_SERVICE_FILE", places["HOLDFAST_SERVICE_FILE"]),
        _variables_layer(".env", settings_type, dotenv),
        _variables_layer("environment", settings_type, environment),
        _secrets_layer(settings_type, Path(places["HOLDFAST_SECRETS_DIR"])),
        _options_layer(settings_type, options),
    ]


def _file_layer(name: str, location: str, path: str) -> _Layer:
    """A YAML file. One that nobody asked for may be missing."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _Layer(name, {}, _missing(location, path))
    except yaml.MarkedYAMLError as error:
        # Not the whole message: it quotes the file.
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return _Layer(name, {}, [f"{location}: {path}, line {line}: {error.problem}"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return _Layer(name, {}, [f"{location}: {path} cannot be read: {type(error).__name__}"])
    if values is None:
        return _Layer(name, {}, [])
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        return _Layer(name, {}, [f"{location}: {path} must hold names and values"])
    return _Layer(name, values, [])


def _variables_layer(name: str, settings_type: type[ServiceSettings], given: Mapping[str, str]) -> _Layer:
    settings = {variable: text for variable, text in given.items() if variable.upper() not in LOCATIONS}
    return _text_layer(
        name, settings_type, {key: (key[len(PREFIX) :], text) for key, text in settings.items()}, spell=variable
    )


def _secrets_layer(settings_type: type[ServiceSettings], directory: Path) -> _Layer:
    """One file per setting. Kubernetes keeps its own files, which start with a dot, beside them."""
    if not directory.is_dir():
        return _Layer("secret files", {}, _missing("HOLDFAST_SECRETS_DIR", str(directory)))
    given, problems = {}, []
    for path in sorted(directory.iterdir()):
        if path.name.startswith("."):
            continue
        try:
            given[str(path)] = (path.name, path.read_text(encoding="utf-8").rstrip("\r\n"))
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path}: cannot be read: {type(error).__name__}")
    layer = _text_layer("secret files", settings_type, given, spell=_flat)
    return _Layer(layer.name, layer.values, problems + layer.problems)


def _options_layer(settings_type: type[ServiceSettings], options: Sequence[str]) -> _Layer:
    parts = [option.partition("=") for option in options]
    unreadable = [f"--set {name}: must be name=value" for name, equals, _ in parts if not equals]
    given = {f"--set {name}": (_flat(name), text) for name, equals, text in parts if equals}
    layer = _text_layer("command line", settings_type, given, spell=str)
    return _Layer(layer.name, layer.values, unreadable + layer.problems)


def _text_layer(
    name: str,
    settings_type: type[ServiceSettings],
    given: Mapping[str, tuple[str, str]],
    *,
    spell: Callable[[str], str],
) -> _Layer:
    """What was given as text: where it stands → (its name as in a variable, without prefix; the text).

    Lists, objects and whole groups may be given as JSON. `spell` turns a dotted name into how this layer writes it.
    """
    settings = settings_of(settings_type)
    known = _known(settings)
    mappings = {_flat(setting) for setting, field in settings.items() if get_origin(field.annotation) is dict}
    source = _TextSource(settings_type)
    source.env_vars = {}
    problems = []
    for place, (given_name, text) in given.items():
        flat = given_name.lower()
        if _is_known(flat, known, mappings):
            source.env_vars[f"{PREFIX}{flat}".lower()] = text
        else:
            problems.append(f"{place}: no such setting{_nearest(flat, known, spell)}")
    return _Layer(name, source(), problems)


class _TextSource(EnvSettingsSource):
    """Reads `env_vars`, whatever they came from. JSON that cannot be read is left to validation, which names it."""

    env_vars: dict[str, str | None]

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def _validate[M: BaseModel](
    model: type[M], settings_type: type[ServiceSettings], layers: Sequence[_Layer], group: str | None = None
) -> M:
    """The model filled from what the layers give, at `group` if it is one; all problems of all layers at once."""
    problems = [problem for layer in layers for problem in layer.problems]
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer.values)
    try:
        validated = model(**(merged.get(group) or {} if group else merged))
    except ValidationError as error:
        for found in error.errors(include_input=False):
            location = (group, *found["loc"]) if group else found["loc"]
            problems += _describe(location, found, settings_of(settings_type), layers)
    if problems:
        raise ConfigurationError(problems)
    return validated


def _merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _describe(
    location: Sequence[str | int], problem: ErrorDetails, settings: Mapping[str, FieldInfo], layers: Sequence[_Layer]
) -> list[str]:
    """A line for each variable to fix: what is wrong with it, and the layer that its value came from."""
    name, rest = _split(location, settings)
    match problem["type"]:
        case "missing" if not rest:
            needed = [other for other, field in settings.items() if field.is_required()]
            return [f"{variable(other)}: has no value" for other in needed if _is_given(name, {other})]
        case "extra_forbidden":
            name, rest = ".".join(map(str, location)), ""
            message = f"no such setting{_nearest(_flat(name).lower(), _known(settings), variable)}"
        case _:
            message = problem["msg"].removeprefix("Value error, ")
    if name not in settings and problem["type"] != "extra_forbidden":
        return [f"{variable(name)}__…: {rest}{message}"]  # a rule across a group, whose values may have many origins
    givers = [layer.name for layer in layers if _is_given(name, _names(layer.values))]
    origin = f" (from: {givers[-1]})" if givers else ""
    return [f"{variable(name)}: {rest}{message}{origin}"]


def _split(location: Sequence[str | int], settings: Mapping[str, FieldInfo]) -> tuple[str, str]:
    """The setting or group that an error is in, dotted, and where in its value: `("auth.keys", "acme: ")`."""
    parts = [str(part) for part in location]
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if any(_is_given(name, {setting}) for setting in settings):
            return name, ".".join(parts[length:]) + ": " if length < len(parts) else ""
    return ".".join(parts), ""


def _is_ours(name: str) -> bool:
    return name.upper().startswith(PREFIX)


def _flat(name: str) -> str:
    """`http.port` → `http__port`."""
    return name.replace(".", "__")


def _missing(location: str, path: str) -> list[str]:
    return [f"{location}: there is nothing at {path}"] if path != LOCATIONS[location] else []


def _known(settings: Mapping[str, FieldInfo]) -> dict[str, str]:
    """The dotted names of settings and of groups (a group may be given as JSON), by how a variable spells them."""
    parts = [name.split(".") for name in settings]
    return {"__".join(part[:n]): ".".join(part[:n]) for part in parts for n in range(1, len(part) + 1)}


def _is_known(name: str, known: Mapping[str, str], mappings: set[str]) -> bool:
    """Whether it is a setting, a group or an entry of a mapping (`rate_limit__tiers__gold`)."""
    return name in known or any(name.startswith(f"{mapping}__") for mapping in mappings)


def _nearest(name: str, known: Mapping[str, str], spell: Callable[[str], str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"; did you mean {spell(known[close[0]])}?" if close else ""


def _names(values: Mapping[str, Any], prefix: str = "") -> set[str]:
    """The dotted names that a layer gives values to."""
    names = set()
    for name, value in values.items():
        inner = isinstance(value, dict) and value
        names |= _names(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}"}
    return names


def _is_given(name: str, names: set[str]) -> bool:
    """Whether a layer gives this setting, as a whole or in part (`auth.keys.acme` gives a part of `auth.keys`)."""
    return any(given == name or given.startswith(f"{name}.") for given in names)


def _flatten(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_secret(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(item, SecretStr) for item in inner)


def _show(value: Any) -> str:
    """The value as text; of a secret only a fingerprint, which tells whether two processes have the same one."""
    match value:
        case SecretStr():
            return f"secret:{hashlib.sha256(value.get_secret_value().encode()).hexdigest()[:8]}"
        case dict():
            return "{" + ", ".join(f"{key}: {_show(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(_show(item) for item in value) + "]"
        case None:
            return ""
        case _:
            return str(value)
