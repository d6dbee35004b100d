"""The problems of a configuration: one line for each thing to fix, with its variable and the layer (such as a file or
the environment) that its value came from.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Annotated, Any, cast

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from chassis.config.layers import Layer, flat, is_given, known_names, nearest, settings_of, variable
from chassis.config.settings import BROKEN_RULE, Rule, Ruled, ServiceSettings
from chassis.config.settings.model import rules_of


def problems_of(
    error: ValidationError,
    model: type[Ruled],
    settings_type: type[ServiceSettings],
    merged: Mapping[str, Any],
    layers: Sequence[Layer],
    group: str | None,
) -> list[str]:
    """The lines that describe `error`, which the validation of `model` raised: wrong values first, then broken rules
    (relations between settings).

    `group` is the name of the group of settings that `model` describes, such as `database`, or None if `model`
    describes all settings.
    """
    problems = []
    for found in _causes(error.errors(include_input=False)):
        location = (group, *found["loc"]) if group else found["loc"]
        problems += _describe(location, found, settings_of(settings_type), layers)
    rules = rules_of(model, f"{group}." if group else "")
    return problems + _broken_rules(rules, settings_type, merged, layers)


def _causes(problems: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """The problems that are not consequences of other problems. Broken rules (relations between settings) are omitted,
    because `_broken_rules` reports them. The problem that a list is too short is omitted if an entry of the list is
    invalid, because Pydantic does not count an invalid entry.
    """
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
    """A line for each variable to fix: the problem of its value, and the layer that the value came from."""
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
    if not name:
        return [message]  # a rule between groups is broken, and the message of the rule names the settings
    if name not in settings and problem["type"] != "extra_forbidden":
        # `name` is a group. The values of a group may come from several layers, so the line names no layer.
        return [f"{variable(name)}__…: {rest}{message}"]
    return [f"{variable(name)}: {rest}{message}{_origin(name, layers)}"]


def _origin(name: str, layers: Sequence[Layer]) -> str:
    givers = [layer.name for layer in layers if layer.gives(name)]
    return f" (from: {givers[-1]})" if givers else ""


def _split(location: Sequence[str | int], settings: Mapping[str, FieldInfo]) -> tuple[str, str]:
    """The dotted name of the setting or group, and the location inside its value: `("rate_limit.tiers", "gold: ")`."""
    parts = [str(part) for part in location]
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if is_given(name, settings):
            return name, ".".join(parts[length:]) + ": " if length < len(parts) else ""
    return ".".join(parts), ""


def _broken_rules(
    rules: Sequence[Rule], settings_type: type[ServiceSettings], merged: Mapping[str, Any], layers: Sequence[Layer]
) -> list[str]:
    """A line for each broken rule. A rule is checked if all settings that the rule mentions are valid, even when other
    settings are invalid.
    """
    values = dict(_valid_values(settings_type, merged))
    broken = []
    for rule in rules:
        if all(name in values for name in rule.names) and not rule.holds(values.__getitem__):
            # The line names the first setting of the rule that a layer gives. An operator can change a value in a
            # layer, but not a default in the code.
            named = next((name for name in rule.names if _origin(name, layers)), rule.names[0])
            shown = ", ".join(f"{name} = {values[name]}" for name in rule.names)
            broken.append(f"{variable(named)}: {rule} ({shown}){_origin(named, layers)}")
    return broken


def _valid_values(settings_type: type[BaseModel], merged: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The name and value of each setting with a valid value. A setting that no layer gives has its default."""
    validators = _validators(settings_type)
    for name, field in settings_of(settings_type).items():
        given: Any = merged
        for part in name.split("."):
            given = given.get(part, ...) if isinstance(given, Mapping) else ...
        if given is ...:
            if not field.is_required():
                yield name, field.get_default(call_default_factory=True, validated_data={})
            continue
        with suppress(ValidationError):
            yield name, validators[name].validate_python(given)


# The validators are cached, because their construction is slow and every reload of an invalid file needs them.
@lru_cache(maxsize=8)
def _validators(settings_type: type[BaseModel]) -> Mapping[str, TypeAdapter[Any]]:
    """A validator for each single setting, by its dotted name."""
    return {
        name: TypeAdapter(cast("Any", Annotated)[field.annotation, field])
        for name, field in settings_of(settings_type).items()
    }
