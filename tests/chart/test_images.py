"""What the images are built from. What comes out of it is looked at by `make test-images`, with a Docker engine."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = [ROOT / "services" / "Dockerfile", ROOT / "infra" / "Dockerfile"]
BASE = "python:3.13-slim-trixie"

each_dockerfile = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)


def instructions(dockerfile: Path) -> list[str]:
    """Each with its continued lines, without comments."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    return [line for line in re.split(r"(?<!\\)\n", "\n".join(lines)) if line]


@each_dockerfile
def test_hadolint_has_nothing_to_say(dockerfile: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    said = subprocess.run([hadolint, dockerfile], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


@each_dockerfile
def test_images_stand_on_the_public_base_image_alone(dockerfile: Path) -> None:
    """No registry, certificate or proxy of one place, and no frontend that has to be fetched."""
    stages = {BASE}
    for instruction in instructions(dockerfile):
        word, *rest = instruction.split()
        if word == "FROM":
            assert rest[0] in stages
            stages.add(rest[-1])
        for source in re.findall(r"(?:--from=|,from=)([\w.:/-]+)", instruction):
            assert source in stages
    text = dockerfile.read_text().lower()
    assert not [word for word in ("syntax=", "http://", "https://", "cert", "proxy", "index") if word in text]


@each_dockerfile
def test_what_changes_most_comes_last(dockerfile: Path) -> None:
    """Else each change of a source would install every package again."""
    found = instructions(dockerfile)
    packages = next(n for n, line in enumerate(found) if "uv sync" in line)
    assert "--no-install-workspace" in found[packages]
    sources = [n for n, line in enumerate(found) if line.startswith("COPY") and re.search(r"/src|loadtest/? ", line)]
    copied_before = [line for line in found[:packages] if line.startswith("COPY")]
    assert min(sources) > packages
    assert all(line.split()[1].endswith((".toml", ".lock")) for line in copied_before)


@each_dockerfile
def test_lock_file_decides_and_no_installer_is_newer_than_ours(dockerfile: Path) -> None:
    """The range in every pyproject.toml: within it uv builds our packages itself and fetches nothing for that."""
    syncs = [line for line in instructions(dockerfile) if "uv sync" in line]
    assert all("--frozen" in line and "--no-dev" in line for line in syncs)
    (major, minor) = re.findall(r"uv==(\d+)\.(\d+)\.\d+$", dockerfile.read_text(), re.MULTILINE)[0]
    for project in ROOT.glob("services/*/pyproject.toml"):
        assert f'"uv_build>={major}.{minor},<{major}.{int(minor) + 1}"' in project.read_text()


def test_both_dockerfiles_prepare_python_alike() -> None:
    """They are two files since they share no sources; what they do to the base must not drift apart."""
    services, tools = ([line for line in instructions(path) if "pip" in line] for path in DOCKERFILES)
    assert len(services) == len(tools) == 2
    assert tools[0].startswith(services[0])
    assert tools[1] == services[1]


def test_context_is_a_list_of_what_is_allowed() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    assert rules[0] == "*"
    assert rules == ["*", *(f"!{rule}" for rule in allowed), "**/__pycache__", "**/*.egg-info", "**/.venv"]
    for rule in allowed:
        assert list(ROOT.glob(rule)), f"{rule} allows nothing"
        for path in ROOT.glob(rule):
            assert path.relative_to(ROOT).parts[0] in {"services", "infra", "loadtest", "pyproject.toml", "uv.lock"}


def test_everything_that_is_copied_is_in_the_context() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {path for rule in rules if rule.startswith("!") for path in ROOT.glob(rule[1:])}
    for dockerfile in DOCKERFILES:
        for line in instructions(dockerfile):
            if line.startswith("COPY") and "--from" not in line:
                *sources, _ = [word for word in line.split()[1:] if not word.startswith("--")]
                for source in sources:
                    path = ROOT / source.replace("$SERVICE", "orders")
                    assert allowed & {path, *path.parents}, f"{dockerfile}: {source}"
