"""Whom each pod calls, from what its code and its own settings say, and not from the chart's policies.

Which settings lead to a call: the groups that name a server (`database`, `redis`, `smtp`), whatever has a `base_url`,
where spans go, and customers' webhooks. Which of a service's two processes makes it: the one whose imports reach the
module that does, since an API imports nothing of a worker's world.
"""

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import NamedTuple
from urllib.parse import urlsplit

import grimp
from chassis import config
from chassis.config.settings import DependencySettings, EgressSettings, ServiceSettings
from our_services import SETTINGS
from pod_files import Enter
from pydantic import BaseModel
from rendering import Json, Rendering, Workload

CALLERS = {
    "database": "chassis.pooling.engine",
    "redis": "chassis.pooling.redis_pool",
    "smtp": "aiosmtplib",
    "telemetry": "chassis.telemetry.export",
    "egress": "aiohttp",
}
"""Group of settings → the module that calls what it names. A dependency `x` with a `base_url` has its `x_client`."""


PLACES = {
    "database.host",
    "redis.host",
    "smtp.host",
    "telemetry.otlp_endpoint",
    "payments.base_url",
    "provider.base_url",
}
"""The settings that name where a call goes."""


class Call(NamedTuple):
    """`by` (a workload) asks `host`; None: any host of the public internet."""

    by: str
    host: str | None
    port: int


def calls_of(rendering: Rendering, enter: Enter) -> set[Call]:
    """Of every pod of the release; `enter` shows this process the settings that each would find."""
    found: set[Call] = set()
    for workload in rendering.workloads:
        service = workload.labels["app.kubernetes.io/name"]
        for container in workload.containers:
            found.update(Call(workload.name, *place) for place in _of_arguments(container))
        if service in SETTINGS:
            (container,) = workload.pod["containers"]
            enter(rendering, workload, container)
            found.update(Call(workload.name, *place) for place in _of_settings(service, workload))
    return found


def _of_arguments(container: Json) -> Iterator[tuple[str | None, int]]:
    for word in container.get("args", []):
        if "://" in word:
            yield _place(word.partition("=")[2])


def _of_settings(service: str, workload: Workload) -> Iterator[tuple[str | None, int]]:
    role = workload.labels["app.kubernetes.io/component"]
    if role == "migration":
        database = config.load_database(SETTINGS[service])
        yield database.host, database.port
        return
    settings = config.load(SETTINGS[service])
    reached = _reached(service, role)
    for name, group in _groups(settings):
        if isinstance(group, DependencySettings):
            if f"{service.replace('-', '_')}.{name}_client" in reached:
                yield _place(group.base_url)
        elif name in CALLERS and CALLERS[name] in reached:
            yield from _of_group(name, group)


def _of_group(name: str, group: BaseModel) -> Iterator[tuple[str | None, int]]:
    match name:
        case "telemetry":
            if endpoint := getattr(group, "otlp_endpoint", None):
                yield _place(endpoint)
        case "egress":
            assert isinstance(group, EgressSettings)
            yield from ((None, port) for port in group.allowed_ports)
        case _:
            host, port = group.model_dump()["host"], group.model_dump()["port"]
            yield host, port


def _groups(settings: ServiceSettings) -> Iterator[tuple[str, BaseModel]]:
    """Every group of settings by its name, those inside of others, too."""
    pending = [(name, getattr(settings, name)) for name in type(settings).model_fields]
    while pending:
        name, value = pending.pop()
        if isinstance(value, BaseModel):
            yield name, value
            pending += [(inner, getattr(value, inner)) for inner in type(value).model_fields]


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname
    return parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]


@cache
def _reached(service: str, role: str) -> frozenset[str]:
    """Every module that this process imports, directly or not."""
    package = service.replace("-", "_")
    import_module(f"{package}.{role}")  # the root is there
    graph = grimp.build_graph(package, "chassis", include_external_packages=True, cache_dir=None)
    return frozenset(graph.find_upstream_modules(f"{package}.{role}"))
