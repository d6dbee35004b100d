"""Loading: the configuration layers (files, environment, command line) are merged and validated as a whole. All
problems are reported at once.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from chassis.config.layers import Layer, merge, read_layers
from chassis.config.problems import problems_of
from chassis.config.settings import AuthSettings, DatabaseSettings, LogSettings, Ruled, ServiceSettings
from chassis.errors import ConfigurationError


def load[S: ServiceSettings](settings_type: type[S], options: Sequence[str] = ()) -> S:
    """The settings of a service. `options` are `name=value` from the command line, with dotted names.

    Raises `ConfigurationError` with every problem of every layer at once. Each problem names the variable to fix.
    """
    return validate(settings_type, settings_type, read_layers(settings_type, options))


def load_database(settings_type: type[ServiceSettings], options: Sequence[str] = ()) -> DatabaseSettings:
    """Only the group `database` of a service's settings. A command that loads only this group needs no other secret of
    the service.
    """
    return validate(DatabaseSettings, settings_type, read_layers(settings_type, options), "database")


def load_log(settings_type: type[ServiceSettings], options: Sequence[str] = ()) -> LogSettings:
    """Only the group `log` of a service's settings."""
    return validate(LogSettings, settings_type, read_layers(settings_type, options), "log")


def load_auth(settings_type: type[ServiceSettings], options: Sequence[str] = ()) -> AuthSettings:
    """Only the group `auth` of a service's settings."""
    return validate(AuthSettings, settings_type, read_layers(settings_type, options), "auth")


def validate[M: Ruled](
    model: type[M], settings_type: type[ServiceSettings], layers: Sequence[Layer], group: str | None = None
) -> M:
    """The merged values of the layers, validated as `model`: the settings type itself, or the type of its `group`.

    Raises `ConfigurationError` with all problems of all layers at once.
    """
    problems = [problem for layer in layers for problem in layer.problems]
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, layer.values)
    try:
        # A group may wrongly be given as text. `model_validate` reports that as a problem; a constructor call would
        # raise a TypeError.
        validated = model.model_validate(merged.get(group) or {}) if group else model(**merged)
    except ValidationError as error:
        problems += problems_of(error, model, settings_type, merged, layers, group)
        problems = problems or [found["msg"] for found in error.errors(include_input=False)]
    if problems:
        raise ConfigurationError(problems)
    return validated
