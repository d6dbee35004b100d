"""Configuration: six layers, validated as a whole before anything else happens.

Later wins: defaults in code → common file → service file → environment (`HOLDFAST_…`, nested by `__`; the shell before
`.env`) → secret files (one per setting, named like `database__password`) → command line (`--set http.port=8001`).
Where the files are is told by three variables: HOLDFAST_COMMON_FILE, HOLDFAST_SERVICE_FILE, HOLDFAST_SECRETS_DIR.

What a process runs with is one immutable snapshot, held by `Live`: when a mounted file changes, the settings of the
allow-list are taken over from it (`chassis.process.reloading`), as a whole or not at all.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, cast, get_args

from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from chassis.config.layers import (
    LOCATIONS,
    Layer,
    digest_of_files,
    flat,
    is_given,
    known_names,
    merge,
    nearest,
    read_layers,
    settings_of,
    variable,
)
from chassis.config.settings import (
    BROKEN_RULE,
    AuthSettings,
    DatabaseSettings,
    LogSettings,
    Rule,
    Ruled,
    ServiceSettings,
)
from chassis.errors import ConfigurationError

__all__ = [
    "LOCATIONS",
    "Explained",
    "Live",
    "config_hash",
    "differences",
    "explain",
    "fingerprint",
    "load",
    "load_auth",
    "load_database",
    "load_live",
    "load_log",
    "rules_of",
    "settings_of",
    "variable",
]


@dataclass(frozen=True, slots=True)
class Explained:
    """One setting: its dotted name, its value (a secret as a fingerprint), the layer that won, and those it shadows."""

    name: str
    value: str
    layer: str
    shadowed: tuple[str, ...]


class Live[S: ServiceSettings]:
    """The settings of this process now. `current` is a snapshot that nothing changes; a reload puts another there.

    Whoever needs a setting of the allow-list at its newest reads it through here each time it acts.
    """

    def __init__(self, settings: S, *, read: Callable[[], S] | None = None, digest: str = "") -> None:
        self._current = settings
        self._read = read
        self._watchers: list[Callable[[S], None]] = []
        self.digest = digest
        """Of the files that the layers came from when they were last read."""

    @property
    def current(self) -> S:
        return self._current

    @property
    def hash(self) -> str:
        return config_hash(self._current)

    def passwords(self) -> Sequence[SecretStr]:
        """Those of the database that may be valid now, the likeliest first."""
        return self._current.database.passwords

    def read(self) -> S:
        """What the layers say now, not yet taken over; raises `ConfigurationError` like `load`."""
        return self._read() if self._read else self._current

    def replace(self, settings: S) -> None:
        """From here on these are the settings; whoever asked with `watch` is told."""
        self._current = settings
        for told in self._watchers:
            told(settings)

    def watch(self, told: Callable[[S], None]) -> None:
        """Call `told` now and after each change: for what cannot read the current settings each time it acts."""
        self._watchers.append(told)
        told(self._current)


def load[S: ServiceSettings](settings_type: type[S], options: Sequence[str] = ()) -> S:
    """The settings of a service; `options` are `name=value` from the command line, the name dotted.

    Raises `ConfigurationError` with every problem of every layer at once, each naming the variable to fix.
    """
    return _validate(settings_type, settings_type, read_layers(settings_type, options))


def load_live[S: ServiceSettings](settings_type: type[S], options: Sequence[str] = ()) -> Live[S]:
    """The settings as `load` gives them, for a process that goes on reading them."""
    digest = digest_of_files()  # before: what changes while they are read is then noticed
    return Live(load(settings_type, options), read=lambda: load(settings_type, options), digest=digest)


def load_database(settings_type: type[ServiceSettings], options: Sequence[str] = ()) -> DatabaseSettings:
    """Only the service's `database` group: a command that needs no more is not given the service's other secrets."""
    return _validate(DatabaseSettings, settings_type, read_layers(settings_type, options), "database")


def load_log(settings_type: type[ServiceSettings], options: Sequence[str] = ()) -> LogSettings:
    """Only the service's `log` group, as `load_database`."""
    return _validate(LogSettings, settings_type, read_layers(settings_type, options), "log")


def load_auth(settings_type: type[ServiceSettings], options: Sequence[str] = ()) -> AuthSettings:
    """Only the service's `auth` group, as `load_database`."""
    return _validate(AuthSettings, settings_type, read_layers(settings_type, options), "auth")


def explain(settings_type: type[ServiceSettings], options: Sequence[str] = ()) -> list[Explained]:
    """Every setting with the layer that its value came from; raises `ConfigurationError` like `load`."""
    layers = read_layers(settings_type, options)
    settings = _validate(settings_type, settings_type, layers)
    explained = []
    for name, value in _flatten(settings):
        givers = ["default", *(layer.name for layer in layers if layer.gives(name))]
        explained.append(Explained(name, _show(value), givers[-1], tuple(givers[-2:0:-1])))
    return explained


def config_hash(settings: ServiceSettings) -> str:
    """12 hex digits that differ when any setting does, secrets left out: replicas with two hashes have drifted."""
    secret = {name for name, field in settings_of(type(settings)).items() if _holds_secrets(field.annotation)}
    values = "\n".join(f"{name}={_show(value)}" for name, value in _flatten(settings) if name not in secret)
    return hashlib.sha256(values.encode()).hexdigest()[:12]


def differences(old: ServiceSettings, new: ServiceSettings) -> list[str]:
    """The dotted names of the settings that differ."""
    before = dict(_flatten(old))
    return [name for name, value in _flatten(new) if value != before[name]]


def rules_of(model: type[Ruled], prefix: str = "") -> list[Rule]:
    """Every rule across settings, those of the groups with names as seen from the whole."""
    found = [rule.within(prefix) for rule in model.rules]
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Ruled):
            found += rules_of(inner, f"{prefix}{name}.")
    return found


def _validate[M: Ruled](
    model: type[M], settings_type: type[ServiceSettings], layers: Sequence[Layer], group: str | None = None
) -> M:
    """The model filled from what the layers give, at `group` if it is one; all problems of all layers at once."""
    problems = [problem for layer in layers for problem in layer.problems]
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, layer.values)
    try:
        # A group may be given as a text, which has no names to unpack: a problem like any other.
        validated = model.model_validate(merged.get(group) or {}) if group else model(**merged)
    except ValidationError as error:
        all_found = error.errors(include_input=False)
        for found in _first_causes(all_found):
            location = (group, *found["loc"]) if group else found["loc"]
            problems += _describe(location, found, settings_of(settings_type), layers)
        problems += _broken_rules(rules_of(model, f"{group}." if group else ""), settings_type, merged, layers)
        problems = problems or [found["msg"] for found in all_found]
    if problems:
        raise ConfigurationError(problems)
    return validated


def _first_causes(problems: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Without broken rules, which are judged apart, and without lists that are too short for what is wrong in them."""
    return [
        problem
        for problem in problems
        if problem["type"] != BROKEN_RULE
        and not (
            problem["type"] == "too_short"
            and any(other["loc"][:-1] == problem["loc"] for other in problems if other is not problem)
        )
    ]


def _describe(
    location: Sequence[str | int], problem: ErrorDetails, settings: Mapping[str, FieldInfo], layers: Sequence[Layer]
) -> list[str]:
    """A line for each variable to fix: what is wrong with it, and the layer that its value came from."""
    name, rest = _split(location, settings)
    match problem["type"]:
        case "missing" if not rest:
            needed = [other for other, field in settings.items() if field.is_required()]
            return [f"{variable(other)}: has no value" for other in needed if is_given(name, {other})]
        case "extra_forbidden":
            name, rest = ".".join(map(str, location)), ""
            message = f"no such setting{nearest(flat(name).lower(), known_names(settings), variable)}"
        case _:
            message = problem["msg"].removeprefix("Value error, ")
    if name not in settings and problem["type"] != "extra_forbidden":
        return [f"{variable(name)}__…: {rest}{message}"]  # a rule across a group, whose values may have many origins
    return [f"{variable(name)}: {rest}{message}{_origin(name, layers)}"]


def _origin(name: str, layers: Sequence[Layer]) -> str:
    givers = [layer.name for layer in layers if layer.gives(name)]
    return f" (from: {givers[-1]})" if givers else ""


def _split(location: Sequence[str | int], settings: Mapping[str, FieldInfo]) -> tuple[str, str]:
    """The setting or group that an error is in, dotted, and where in its value: `("rate_limit.tiers", "gold: ")`."""
    parts = [str(part) for part in location]
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if is_given(name, settings):
            return name, ".".join(parts[length:]) + ": " if length < len(parts) else ""
    return ".".join(parts), ""


def _broken_rules(
    rules: Sequence[Rule], settings_type: type[ServiceSettings], merged: Mapping[str, Any], layers: Sequence[Layer]
) -> list[str]:
    """The rules across settings that do not hold, judged also while other settings are wrong or missing."""
    values = dict(_valid_values(settings_type, merged))
    broken = []
    for rule in rules:
        if all(name in values for name in rule.names) and not rule.holds(values.__getitem__):
            # The one that somebody gave is the one to fix; between two, the first.
            named = next((name for name in rule.names if _origin(name, layers)), rule.names[0])
            shown = ", ".join(f"{name} = {values[name]}" for name in rule.names)
            broken.append(f"{variable(named)}: {rule} ({shown}){_origin(named, layers)}")
    return broken


def _valid_values(settings_type: type[BaseModel], merged: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each setting that is valid by itself, a default where none is given."""
    alone = _alone(settings_type)
    for name, field in settings_of(settings_type).items():
        given: Any = merged
        for part in name.split("."):
            given = given.get(part, ...) if isinstance(given, Mapping) else ...
        if given is ...:
            if not field.is_required():
                yield name, field.get_default(call_default_factory=True, validated_data={})
            continue
        with suppress(ValidationError):
            yield name, alone[name].validate_python(given)


@lru_cache(maxsize=8)  # they are costly to build, and a file that stays wrong is read again and again
def _alone(settings_type: type[BaseModel]) -> Mapping[str, TypeAdapter[Any]]:
    """What judges each setting by itself."""
    return {
        name: TypeAdapter(cast("Any", Annotated)[field.annotation, field])
        for name, field in settings_of(settings_type).items()
    }


def _flatten(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _holds_secrets(kind: Any) -> bool:
    """Whether values of this type may hold a secret: none at the moment is no difference either."""
    kind = getattr(kind, "__value__", kind)
    return kind is SecretStr or any(_holds_secrets(inner) for inner in get_args(kind))


def fingerprint(secret: SecretStr) -> str:
    """What may be shown of a secret: enough to tell whether two processes have the same one."""
    return f"secret:{hashlib.sha256(secret.get_secret_value().encode()).hexdigest()[:8]}"


def _show(value: Any) -> str:
    """The value as text; of a secret only its fingerprint."""
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
