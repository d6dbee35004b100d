"""The platform's chart, rendered in every way in which it is meant to be installed."""

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath

import pytest
from chassis import config_layers
from our_services import SERVICES
from pod_files import Enter, files_of, write
from rendering import (
    HOLDFAST,
    Json,
    Rendering,
    Values,
    Workload,
    leaves,
    merge,
    nested,
    render,
    values_files,
    values_of,
)

OWN_SECRETS = merge(
    nested("secrets.generate", value=True),
    *(nested(f"services.{name}.existing{kind}Secret", value="") for name in SERVICES for kind in ("", "Migration")),
)
ALONG_WITH: Mapping[str, Values] = {
    "postgres.enabled=false": nested("config.database.host", value="postgres.example.com"),
    "valkey.enabled=false": nested("config.redis.host", value="valkey.example.com"),
    "simulators.enabled=false": merge(
        nested("services.payments.config.provider.base_url", value="https://provider.example.com"),
        nested("services.notifications.config.smtp.host", value="mail.example.com"),
    ),
    "autoscaling.apis.enabled=true": nested("postgres.maxConnections", value=700),
    "autoscaling.workers.enabled=true": nested("postgres.maxConnections", value=700),
    "secrets.generate=false": values_of(HOLDFAST, "values-prod.yaml"),
    "postgres.enabled=true": OWN_SECRETS,
    "valkey.enabled=true": OWN_SECRETS,
    "simulators.enabled=true": OWN_SECRETS,
}
"""What has to be said along with a switch: where the thing is that is switched off, or that its secrets are ours."""


@cache
def variants() -> Mapping[str, Values]:
    """The chart's own values, each values file, and every switch turned the other way, alone.

    values.yaml turns each on that it has off, values-prod.yaml each off that it has on; what only another file has is
    turned on top of that one.
    """
    files = {"values.yaml": {}} | {file: values_of(HOLDFAST, file) for file in values_files(HOLDFAST)}
    found: dict[str, Values] = dict(files)
    own = {path for path, value in leaves(values_of(HOLDFAST)) if isinstance(value, bool)}
    for file, values in files.items():
        given = values if file not in {"values.yaml", "values-prod.yaml"} else merge(values_of(HOLDFAST), values)
        for path, value in leaves(given):
            if isinstance(value, bool) and (given is not values or path not in own):
                switch = f"{path}={str(not value).lower()}"
                found[f"{file}, {switch}"] = merge(values, ALONG_WITH.get(switch, {}), nested(path, value=not value))
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `rendering` runs once for each way."""
    if "rendering" in metafunc.fixturenames:
        found = variants()
        metafunc.parametrize("rendering", found.values(), ids=found.keys(), indirect=True, scope="session")


@pytest.fixture(scope="session")
def rendering(request: pytest.FixtureRequest) -> Rendering:
    return render(HOLDFAST, request.param)


@pytest.fixture(scope="session")
def platform() -> Rendering:
    """The chart with its own values."""
    return render(HOLDFAST)


@pytest.fixture
def enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Enter:
    """Shows this process the variables and files that the container would see, and none of this machine's."""
    monkeypatch.chdir(tmp_path)  # where there is no .env

    def apply(rendering: Rendering, workload: Workload, container: Json) -> None:
        for name in [name for name in os.environ if name.startswith(config_layers.PREFIX)]:
            monkeypatch.delenv(name)
        root = tmp_path / workload.name / container["name"]
        write(files_of(rendering, workload, container), root)
        variables = {each["name"]: each["value"] for each in container.get("env", [])}
        assert not variables.keys() & config_layers.LOCATIONS.keys()  # a container's are the code's own
        places = {
            name: str(root / PurePosixPath(path).relative_to("/")) for name, path in config_layers.LOCATIONS.items()
        }
        for name, text in (variables | places).items():
            monkeypatch.setenv(name, text)

    return apply
