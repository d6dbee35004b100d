"""The layers of configuration: this module reads files, variables and options, and collects the problems of each
layer.

pydantic-settings parses the layers whose values are text. pydantic-settings itself ignores an unknown variable, and
reports only the first unreadable value. This module reports all unknown names and all unreadable values.
"""

import difflib
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, get_origin

import yaml
from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from chassis.config.settings import ServiceSettings

PREFIX = "HOLDFAST_"
LOCATIONS = {
    "HOLDFAST_COMMON_FILE": "/etc/holdfast/common/config.yaml",
    "HOLDFAST_SERVICE_FILE": "/etc/holdfast/service/config.yaml",
    "HOLDFAST_SECRETS_DIR": "/run/secrets/holdfast",
}


@dataclass(frozen=True, slots=True)
class Layer:
    name: str
    values: dict[str, Any]
    problems: list[str]

    def gives(self, name: str) -> bool:
        """Whether the layer gives this setting or a part of it (`rate_limit.tiers.gold` for `rate_limit.tiers`)."""
        return is_given(name, _names(self.values))


def read_layers(settings_type: type[ServiceSettings], options: Sequence[str]) -> list[Layer]:
    """All layers except the defaults. A later layer in the list takes precedence."""
    dotenv, problems = _dotenv()
    locations = _locations()
    local = _variables_layer(".env", settings_type, dotenv)
    return [
        _file_layer("common file", "HOLDFAST_COMMON_FILE", locations["HOLDFAST_COMMON_FILE"]),
        _file_layer("service file", "HOLDFAST_SERVICE_FILE", locations["HOLDFAST_SERVICE_FILE"]),
        Layer(local.name, local.values, problems + local.problems),
        _variables_layer("environment", settings_type, _environment()),
        _secrets_layer(settings_type, Path(locations["HOLDFAST_SECRETS_DIR"])),
        _options_layer(settings_type, options),
    ]


def digest_of_files() -> str:
    """A digest of the files of all configuration layers. The digest changes when the content of a file changes, and
    when a file is added or removed.
    """
    locations = _locations()
    secrets = Path(locations["HOLDFAST_SECRETS_DIR"])
    files = [Path(".env"), Path(locations["HOLDFAST_COMMON_FILE"]), Path(locations["HOLDFAST_SERVICE_FILE"])]
    digest = hashlib.sha256()
    for path in (*files, *_secret_files(secrets)):
        try:
            content = path.read_bytes()
        except OSError as error:
            content = repr(error.errno).encode()
        digest.update(b"%d %s %d " % (len(path.name), path.name.encode(), len(content)) + content)
    return digest.hexdigest()


def _dotenv() -> tuple[dict[str, str], list[str]]:
    """The `HOLDFAST_…` variables in `.env`, and the problems of that file."""
    try:
        text = Path(".env").read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        # Both cases are fine: the file is optional, and a directory named .env may be a virtual environment.
        return {}, []
    except (OSError, UnicodeDecodeError) as error:
        return {}, [f".env cannot be read: {type(error).__name__}"]
    if broken := [line.original.line for line in parse_stream(StringIO(text)) if line.error]:
        return {}, [f".env, line {number}: must be name=value" for number in broken]
    found = dotenv_values(stream=StringIO(text))  # `dotenv_values` skips broken lines, so the code above reports them
    return {name: text for name, text in found.items() if text is not None and _is_ours(name)}, []


def _environment() -> dict[str, str]:
    """The `HOLDFAST_…` variables in the environment."""
    return {name: text for name, text in os.environ.items() if _is_ours(name)}


def _locations() -> dict[str, str]:
    """The paths of the layers' files, by the names of the environment variables that set them."""
    dotenv, _ = _dotenv()
    return LOCATIONS | {name: text for name, text in (dotenv | _environment()).items() if name in LOCATIONS}


def _secret_files(directory: Path) -> list[Path]:
    """The files of the directory, one per setting. Files with a leading dot in their name are omitted, because
    Kubernetes adds such files to a mounted secret.
    """
    if not directory.is_dir():
        return []
    return [path for path in sorted(directory.iterdir()) if not path.name.startswith(".")]


def _file_layer(name: str, location: str, path: str) -> Layer:
    """The layer of a YAML file. A missing file is a problem at a configured location, but not at the default one."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Layer(name, {}, _missing(location, path))
    except yaml.MarkedYAMLError as error:
        # The parser's whole message would quote the file, which may hold secrets. So the problem has only the line and
        # the reason.
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return Layer(name, {}, [f"{location}: {path}, line {line}: {error.problem}"])
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        # A ValueError means that the text is not UTF-8, or has an invalid date or number, such as 2026-13-01.
        return Layer(name, {}, [f"{location}: {path} cannot be read: {type(error).__name__}"])
    if values is None:
        return Layer(name, {}, [])
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        return Layer(name, {}, [f"{location}: {path} must hold names and values"])
    return Layer(name, values, [])


def _variables_layer(name: str, settings_type: type[ServiceSettings], given: Mapping[str, str]) -> Layer:
    settings = {variable: text for variable, text in given.items() if variable.upper() not in LOCATIONS}
    return _text_layer(
        name, settings_type, {key: (key[len(PREFIX) :], text) for key, text in settings.items()}, spell=variable
    )


def _secrets_layer(settings_type: type[ServiceSettings], directory: Path) -> Layer:
    if not directory.is_dir():
        return Layer("secret files", {}, _missing("HOLDFAST_SECRETS_DIR", str(directory)))
    given, problems = {}, []
    for path in _secret_files(directory):
        try:
            given[str(path)] = (path.name, path.read_text(encoding="utf-8").rstrip("\r\n"))
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path}: cannot be read: {type(error).__name__}")
    layer = _text_layer("secret files", settings_type, given, spell=flat)
    return Layer(layer.name, layer.values, problems + layer.problems)


def _options_layer(settings_type: type[ServiceSettings], options: Sequence[str]) -> Layer:
    parts = [option.partition("=") for option in options]
    unreadable = [f"--set {name}: must be name=value" for name, equals, _ in parts if not equals]
    given = {f"--set {name}": (flat(name), text) for name, equals, text in parts if equals}
    layer = _text_layer("command line", settings_type, given, spell=str)
    return Layer(layer.name, layer.values, unreadable + layer.problems)


def _text_layer(
    name: str,
    settings_type: type[ServiceSettings],
    given: Mapping[str, tuple[str, str]],
    *,
    spell: Callable[[str], str],
) -> Layer:
    """A layer whose values are text. `given` maps the location of a value, such as a file's path, to the value's name
    and text.

    Each name is spelt as in an environment variable, without the prefix `HOLDFAST_`. Lists, objects and whole groups
    may be given as JSON. `spell` turns a dotted name into the spelling of this layer, which error messages use.
    """
    settings = settings_of(settings_type)
    known = known_names(settings)
    mappings = {flat(setting) for setting, field in settings.items() if get_origin(field.annotation) is dict}
    source = _TextSource(settings_type)
    source.env_vars = {}
    problems = []
    for location, (given_name, text) in given.items():
        spelt = given_name.lower()
        if _is_known(spelt, known, mappings):
            source.env_vars[f"{PREFIX}{spelt}".lower()] = text
        else:
            problems.append(f"{location}: no such setting{nearest(spelt, known, spell)}")
    return Layer(name, source(), problems)


class _TextSource(EnvSettingsSource):
    """Parses `env_vars`, which contains the values of one layer as text. Invalid JSON stays text, so that the later
    validation reports the text with the setting's name.
    """

    env_vars: dict[str, str | None]

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def settings_of(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Every setting by its dotted name, in the order of the models' fields."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= settings_of(inner, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = field
    return found


def variable(name: str) -> str:
    """The environment variable of a setting: `http.port` → `HOLDFAST_HTTP__PORT`."""
    return PREFIX + flat(name).upper()


def flat(name: str) -> str:
    """The name with `__` for each dot, as in variables and secret files: `http.port` → `http__port`."""
    return name.replace(".", "__")


def is_given(name: str, names: Iterable[str]) -> bool:
    """Whether one of the dotted `names` is the setting `name` or a part of that setting."""
    return any(given == name or given.startswith(f"{name}.") for given in names)


def known_names(settings: Mapping[str, FieldInfo]) -> dict[str, str]:
    """Maps each name as a variable spells it to the dotted name, such as `http__port` to `http.port`. Groups have
    names, too, because a variable may give a group as JSON.
    """
    parts = [name.split(".") for name in settings]
    return {"__".join(part[:n]): ".".join(part[:n]) for part in parts for n in range(1, len(part) + 1)}


def nearest(name: str, known: Mapping[str, str], spell: Callable[[str], str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"; did you mean {spell(known[close[0]])}?" if close else ""


def _is_known(name: str, known: Mapping[str, str], mappings: set[str]) -> bool:
    """Whether this is the name of a setting, of a group or of an entry of a mapping (`rate_limit__tiers__gold`)."""
    return name in known or any(name.startswith(f"{mapping}__") for mapping in mappings)


def _is_ours(name: str) -> bool:
    return name.upper().startswith(PREFIX)


def _missing(location: str, path: str) -> list[str]:
    return [f"{location}: there is nothing at {path}"] if path != LOCATIONS[location] else []


def _names(values: Mapping[str, Any], prefix: str = "") -> set[str]:
    """The dotted names of all values of a layer."""
    names = set()
    for name, value in values.items():
        inner = isinstance(value, dict) and value
        names |= _names(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}"}
    return names
