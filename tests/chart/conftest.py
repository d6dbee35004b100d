"""The platform's chart, rendered in every way in which it is meant to be installed."""

from collections.abc import Mapping

import pytest
from our_services import SERVICES
from rendering import HOLDFAST, Rendering, Values, leaves, merge, nested, render, values_files, values_of

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
    "secrets.generate=false": values_of(HOLDFAST, "values-prod.yaml"),
    "postgres.enabled=true": OWN_SECRETS,
    "valkey.enabled=true": OWN_SECRETS,
    "simulators.enabled=true": OWN_SECRETS,
}
"""What has to be said along with a switch: where the thing is that is switched off, or that its secrets are ours."""


def variants() -> Mapping[str, Values]:
    """The chart's own values, each values file, and on top of each of those every switch turned the other way."""
    files = {"values.yaml": {}} | {file: values_of(HOLDFAST, file) for file in values_files(HOLDFAST)}
    found: dict[str, Values] = dict(files)
    for file, values in files.items():
        for path, value in leaves(merge(values_of(HOLDFAST), values)):
            if isinstance(value, bool):
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
