"""The platform's chart, rendered in every way in which it is meant to be installed."""

from collections.abc import Mapping

import pytest
from rendering import HOLDFAST, Rendering, Values, leaves, merge, nested, render, values_files, values_of


def variants() -> Mapping[str, Values]:
    """The chart's own values, each values file, and on top of each of those every switch turned the other way."""
    files = {"values.yaml": {}} | {file: values_of(HOLDFAST, file) for file in values_files(HOLDFAST)}
    found: dict[str, Values] = dict(files)
    for file, values in files.items():
        for path, value in leaves(merge(values_of(HOLDFAST), values)):
            if isinstance(value, bool):
                found[f"{file}, {path}={str(not value).lower()}"] = merge(values, nested(path, value=not value))
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `rendering` runs once for each way; only then is the chart looked at."""
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
