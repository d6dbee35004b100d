"""The platform's chart, rendered for its tests."""

import os
from pathlib import Path, PurePosixPath

import pytest
from chassis.config import layers as config_layers
from pod_files import Enter, files_of, write
from rendering import HOLDFAST, Json, Rendering, Workload, render
from variants import variants


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
