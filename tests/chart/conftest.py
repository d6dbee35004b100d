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


@pytest.fixture(scope="session", params=variants().values(), ids=variants().keys())
def rendering(request: pytest.FixtureRequest) -> Rendering:
    """One of all these ways; a test that asks for it runs once for each."""
    return render(HOLDFAST, request.param)


@pytest.fixture(scope="session")
def platform() -> Rendering:
    """The chart with its own values."""
    return render(HOLDFAST)
