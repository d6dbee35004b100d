"""Pages that follow from the code, so that they cannot disagree with it: `python docs/generate.py`.

With `--check` nothing is written: it exits with 1 and names every page that is not what the code says.
"""
# ruff: noqa: INP001  a script beside the pages it writes, not a package

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from chart_page import sections
from chassis.config import rules_of, variable
from chassis.config.settings import Rule, ServiceSettings, flags_of
from chassis.errors import ErrorCode
from holdfast_local.settings import PROJECT, LocalSettings
from metrics_page import metrics_page
from notifications.settings import NotificationsSettings
from orders.settings import OrdersSettings
from payments.settings import PaymentsSettings
from pydantic import BaseModel
from values_schema import values_schema
from webhook_ingest.settings import WebhookIngestSettings

SERVICES: tuple[type[ServiceSettings], ...] = (
    OrdersSettings,
    PaymentsSettings,
    WebhookIngestSettings,
    NotificationsSettings,
)


class Setting(NamedTuple):
    """One setting as its pages show it. `default` is None when it has to be given."""

    name: str
    values: str
    default: str | None
    description: str
    is_secret: bool
    is_reloaded: bool


def errors_page() -> str:
    sections = [
        f"## {code.name}\n\n{code.value.status} · {'retry after' if code.value.retryable else 'do not retry'}"
        f"{f' {code.value.retry_after} s, or what Retry-After says' if code.value.retryable else ''} · "
        f"“{code.value.message}”\n\n{code.value.remedy}"
        for code in ErrorCode
    ]
    return _page(
        "# Errors",
        _GENERATED,
        "Every error answer names one of these codes; its `documentation_url` leads here. The shape of the answer is "
        "in [the page on API errors](../patterns/errors.md). A code, once released, keeps its meaning.",
        *sections,
    )


def configuration_page() -> str:
    common = [_group(name, rows) for name, rows in _by_group(_settings(ServiceSettings)).items()]
    own = [
        f"## Only {service.service_name}\n\n" + _table(rows) for service in SERVICES if (rows := _own_settings(service))
    ]
    of_one = [
        (service, rule) for service in SERVICES for rule in rules_of(service) if rule not in rules_of(ServiceSettings)
    ]
    rules = [
        "## Rules across settings\n\nA process that breaks one does not start, and no reload that breaks one is taken "
        "over.\n\n"
        + "\n".join(f"- {_rule(rule)}" for rule in rules_of(ServiceSettings))
        + "\n"
        + "\n".join(f"- {service.service_name}: {_rule(rule)}" for service, rule in of_one)
    ]
    flags = (
        "## Feature flags\n\nEach flag has the settings `flags.<flag>.share` and `flags.<flag>.principals`, and is off "
        "by default.\n\n| Flag | Service | Owner | Last day | What it does while it is on |\n|---|---|---|---|---|\n"
        + "\n".join(
            f"| `{flag.name}` | {service.service_name} | {flag.owner} | {flag.until} | {_cell(flag.description)} |"
            for service in SERVICES
            for flag in flags_of(service)
        )
    )
    return _page(
        "# Configuration",
        _GENERATED,
        "`database.pool_size` is `HOLDFAST_DATABASE__POOL_SIZE` as a variable, `database__pool_size` as a secret file "
        "and `--set database.pool_size=10` on the command line. Which layer wins is in [the page on "
        "configuration](../patterns/config.md); `orders config explain` prints what a process would run with. "
        "Times are seconds. A setting in **bold** has to be given. One with ↻ is taken over while the process runs "
        "when its file changes; every other one needs a restart.",
        *common,
        *own,
        flags,
        *rules,
    )


def env_example() -> str:
    """Everything commented out, so that a copy changes nothing."""
    runner = _by_group([setting._replace(name=f"local_{setting.name}") for setting in _settings(LocalSettings)])
    own = {service.service_name: [setting.name for setting in _own_settings(service)] for service in SERVICES}
    lines = [
        "# Copy to .env and uncomment what you change. Written by docs/generate.py; a copy of it changes nothing.",
        "# Variables of the shell win over this file, secret files and the command line over both.",
        "",
        "# The runner on this machine (make up, make demo).",
        *(_example(setting, setting.name.upper()) for rows in runner.values() for setting in rows),
        "",
        "# Every service. Secrets have files instead: one each, named like database__password. Here the runner tells",
        "# each process its ports and where PostgreSQL and Valkey are; what is said of those below is for elsewhere.",
        *(
            _example(setting, variable(setting.name))
            for setting in _settings(ServiceSettings)
            if not setting.is_secret and setting.default is not None
        ),
        "",
        "# Not here: what differs between services. All of them read this file, and a name that one does not know",
        "# keeps it from starting. These are in infra/local/config/<service>.yaml: each one's database.name and its",
        *(f"# - {service}: {', '.join(sorted(_groups(names)))}" for service, names in own.items() if names),
    ]
    return "\n".join(lines) + "\n"


def chart_values_schema() -> str:
    return values_schema(
        SERVICES,
        is_secret=lambda field, known: _is_secret(_resolve(field, known), known),
        secrets={s.service_name: [variable(it.name) for it in _settings(s) if it.is_secret] for s in SERVICES},
    )


def chart_page() -> str:
    return _page(
        "# The chart's values",
        _GENERATED,
        "`charts/holdfast/values.yaml`, part by part; [on Kubernetes](../tutorial/kubernetes.md) says how to install "
        "it, [in production](../tutorial/production.md) what to look at first. A name that is not here, and a value "
        "outside its limits, fails `helm template`. At the end is what the other values files change.",
        *sections(PROJECT / "charts" / "holdfast"),
    )


def chart_reloaded() -> str:
    """What the chart may change without a restart: the settings that every service takes over while it runs."""
    reloaded = {setting.name for service in SERVICES for setting in _settings(service) if setting.is_reloaded}
    secret = {setting.name for service in SERVICES for setting in _settings(service) if setting.is_secret}
    head = "# Written by docs/generate.py from the settings models: a change of these starts no pod (_config.tpl).\n"
    return head + "".join(f"- {name}\n" for name in sorted(reloaded - secret))


PAGES: Mapping[Path, Callable[[], str]] = {
    PROJECT / "docs" / "reference" / "errors.md": errors_page,
    PROJECT / "docs" / "reference" / "configuration.md": configuration_page,
    PROJECT / "docs" / "reference" / "metrics.md": lambda: metrics_page(_GENERATED),
    PROJECT / "docs" / "reference" / "chart.md": chart_page,
    PROJECT / ".env.example": env_example,
    PROJECT / "charts" / "holdfast" / "values.schema.json": chart_values_schema,
    PROJECT / "charts" / "holdfast" / "files" / "reloaded.yaml": chart_reloaded,
}

_GENERATED = "<!-- Written by docs/generate.py: change the code, then run it. -->"


def stale_pages() -> list[Path]:
    """The pages that are not what the code says."""
    return [path for path, write in PAGES.items() if not path.exists() or path.read_text("utf-8") != write()]


def _settings(model: type[BaseModel]) -> list[Setting]:
    schema = model.model_json_schema()
    return list(_walk(schema, schema.get("$defs", {}), "", {}))


def _own_settings(service: type[ServiceSettings]) -> list[Setting]:
    """What no other service has, or not with this default."""
    common = set(_settings(ServiceSettings))
    return [setting for setting in _settings(service) if setting not in common]


def _walk(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str, defaults: Mapping[str, Any]
) -> Iterator[Setting]:
    """The settings of a model's JSON schema; `defaults` are those that the group around them was given."""
    for name, field in schema.get("properties", {}).items():
        found = _resolve(field, definitions)
        if "properties" in found:
            yield from _walk(found, definitions, f"{prefix}{name}.", found.get("default", {}))
            continue
        # Without a default it has to be given, save for collections, which begin empty.
        is_required = name in schema.get("required", ()) and name not in defaults
        default = defaults.get(name, found.get("default", {} if found.get("type") == "object" else None))
        yield Setting(
            name=f"{prefix}{name}",
            values=_values(found, definitions),
            default=None if is_required else _text(default),
            description=found.get("description", ""),
            is_secret=_is_secret(found, definitions),
            is_reloaded=found.get("reloaded", False),
        )


def _resolve(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The field with what it refers to, and without the null of an optional one."""
    alternatives = [option for option in field.get("anyOf", ()) if option.get("type") != "null"]
    inner = field if not alternatives else {**field, **alternatives[0]}
    if "$ref" in inner:
        return _resolve(definitions[inner["$ref"].rpartition("/")[2]], definitions) | {
            key: value for key, value in inner.items() if key not in {"$ref", "anyOf"}
        }
    return dict(inner)


def _is_secret(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> bool:
    """Whether the value is a secret, or a list or mapping of secrets."""
    inner = field.get("items") or field.get("additionalProperties")
    if isinstance(inner, dict):
        return _is_secret(_resolve(inner, definitions), definitions)
    return field.get("format") == "password"


def _values(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    inner = field.get("items") or field.get("additionalProperties")
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if isinstance(inner, dict):
        most = field.get("maxItems") or field.get("maxProperties")
        kind = "list of" if "items" in field else "name →"
        return f"{kind} {_values(_resolve(inner, definitions), definitions)}" + (
            f"; ≤ {most:,} entries" if most else ""
        )
    if field.get("format") == "password":
        return f"secret {_length(field)}".strip()
    kinds = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    limits = [f"{sign} {_number(field[key])}" for key, sign in signs.items() if key in field]
    return " ".join([kinds.get(field.get("type", ""), "text"), ", ".join([*limits, _length(field)])]).strip(" ,")


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _length(field: Mapping[str, Any]) -> str:
    if "maxLength" not in field:
        return ""
    least = field.get("minLength", 0)
    return f"{least} to {field['maxLength']} characters" if least > 1 else f"≤ {field['maxLength']} characters"


def _rule(rule: Rule) -> str:
    return f"`{rule.left}` {rule.sign} `{rule.right}`, {rule.because}"


def _text(value: Any) -> str:
    """A default as it is written in a variable."""
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value)
    return text.removeprefix(f"{PROJECT}/")


def _groups(names: list[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def _by_group(settings: list[Setting]) -> dict[str, list[Setting]]:
    groups: dict[str, list[Setting]] = {}
    for setting in settings:
        groups.setdefault(setting.name.partition(".")[0] if "." in setting.name else "process", []).append(setting)
    return groups


def _group(name: str, rows: list[Setting]) -> str:
    return f"## {name}\n\n{_table(rows)}"


def _table(rows: list[Setting]) -> str:
    head = "| Setting | Values | Default | What it is, and why this number |\n|---|---|---|---|\n"
    return head + "\n".join(
        f"| {f'`{row.name}`' if row.default is not None else f'**`{row.name}`**'}{' ↻' if row.is_reloaded else ''} | "
        f"{_cell(row.values)} | "
        f"{f'`{row.default}`' if row.default else ''} | {_cell(row.description)} |"
        for row in rows
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _example(setting: Setting, name: str) -> str:
    words = f"# {setting.description} ({setting.values.replace('`', '')})\n" if setting.description else ""
    return f"{words}#{name}={setting.default}"


def _page(*parts: str) -> str:
    return "\n\n".join(parts) + "\n"


def main() -> None:
    if "--check" in sys.argv[1:]:
        stale = stale_pages()
        sys.stderr.writelines(f"{path.relative_to(PROJECT)} is stale: run python docs/generate.py\n" for path in stale)
        sys.exit(1 if stale else 0)
    for path, write in PAGES.items():
        path.write_text(write(), "utf-8")


if __name__ == "__main__":
    main()
