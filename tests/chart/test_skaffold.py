"""skaffold.yaml: whatever it names exists, and in every profile it installs what it builds.

`applied` does what Skaffold does with profiles: lists and builders are replaced, then patches are applied.
"""

import copy
import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path, PurePosixPath

import pytest
import yaml
from holdfast_local.settings import LocalSettings
from rendering import Json, Rendering, leaves, nested, render, values_of

ROOT = Path(__file__).parents[2]
SKAFFOLD = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
SERVICES = sorted(path.parent.name for path in ROOT.glob("services/*/pyproject.toml") if path.parent.name != "chassis")
COMBINATIONS = [(), ("dev",), ("prod",), ("observability",), ("dev", "observability"), ("prod", "observability")]
"""`skaffold dev` activates `dev` by itself."""


def applied(*profiles: str) -> Json:
    config = copy.deepcopy(SKAFFOLD)
    available = {each["name"]: each for each in config.pop("profiles")}
    for name in profiles:
        profile = available[name]
        config["build"] |= profile.get("build", {})
        config["portForward"] = profile.get("portForward", config["portForward"])
        for patch in profile.get("patches", []):
            add(config, patch)
    return config


def add(config: Json, patch: Json) -> None:
    """A JSON patch; `add` is the only operation here, and it must not hide what another profile has set."""
    assert patch["op"] == "add"
    *parents, last = patch["path"].lstrip("/").split("/")
    place = config
    for step in parents:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if isinstance(place, list):
        assert last == "-"
        place.append(patch["value"])
    else:
        assert last not in place
        place[last] = patch["value"]


def rendered(config: Json) -> Iterator[Rendering]:
    """Every release as Skaffold has Helm render it, images being named by their artifacts."""
    for release in config["deploy"]["helm"]["releases"]:
        files = [yaml.safe_load((ROOT / file).read_text()) for file in release.get("valuesFiles", [])]
        images = {path: artifact_of(template) for path, template in release.get("setValueTemplates", {}).items()}
        values = [nested(path, value=value) for path, value in (release.get("setValues", {}) | images).items()]
        yield render(
            ROOT / release["chartPath"],
            release.get("overrides", {}),
            *files,
            *values,
            release=release["name"],
            namespace=release["namespace"],
        )


def artifact_of(template: str) -> str:
    """`{{.IMAGE_FULLY_QUALIFIED_holdfast_orders}}` is the image of the artifact `holdfast/orders`, tagged."""
    name = re.fullmatch(r"\{\{\.IMAGE_FULLY_QUALIFIED_(\w+)\}\}", template)[1]
    by_variable = {re.sub(r"[/.:-]", "_", image): image for image in artifacts(SKAFFOLD)}
    return f"{by_variable[name]}:built"


def artifacts(config: Json) -> dict[str, Json]:
    return {each["image"]: each for each in config["build"]["artifacts"]}


combinations = pytest.mark.parametrize("profiles", COMBINATIONS, ids=lambda it: "+".join(it) or "none")


def test_every_profile_is_tried_here():
    assert {each["name"] for each in SKAFFOLD["profiles"]} == set(chain.from_iterable(COMBINATIONS))
    assert [each["name"] for each in SKAFFOLD["profiles"] if each.get("activation") == [{"command": "dev"}]] == ["dev"]


@combinations
def test_every_service_and_the_tools_are_built_from_files_that_exist(profiles):
    found = artifacts(applied(*profiles))
    assert found.keys() == {f"holdfast/{name}" for name in (*SERVICES, "tools")}
    for image, artifact in found.items():
        assert artifact.get("context", ".") == "."
        docker = artifact["docker"]
        dockerfile = (ROOT / docker["dockerfile"]).read_text()
        service = image.removeprefix("holdfast/")
        if service != "tools":
            assert docker["buildArgs"] == {"SERVICE": service}
            assert docker["target"] == ("dev" if "dev" in profiles else "production")
            assert f" AS {docker['target']}\n" in dockerfile
            assert "\nARG SERVICE\n" in dockerfile


@combinations
def test_pods_run_what_was_built(profiles):
    config = applied(*profiles)
    (platform, *_) = rendered(config)
    ours = {each["image"] for workload in platform.workloads for each in workload.containers}
    ours = {image for image in ours if image.startswith("holdfast/")}
    expected = set(artifacts(config))
    if "prod" in profiles:
        expected.remove("holdfast/tools")  # nothing simulated; only `helm test` would have it
        ours.discard("holdfast/tools:built")
    assert ours == {f"{image}:built" for image in expected}


@combinations
def test_values_that_are_set_exist(profiles):
    """The charts' schemas refuse unknown values where they are closed; this says it for every one."""
    for release in applied(*profiles)["deploy"]["helm"]["releases"]:
        chart = ROOT / release["chartPath"]
        known = {path for path, _ in leaves(values_of(chart))}
        assert {*release.get("setValueTemplates", {}), *release.get("setValues", {})} <= known


@combinations
def test_forwarded_ports_are_those_of_a_service_and_of_the_bare_machine(profiles):
    config = applied(*profiles)
    services = {each["metadata"]["name"]: each for it in rendered(config) for each in it.of_kind("Service")}
    bare = LocalSettings(_env_file=None)
    for forward in config["portForward"]:
        service = services[forward["resourceName"]]
        assert forward["resourceType"] == "service"
        assert forward["namespace"] == "holdfast"
        assert forward["port"] in {each["port"] for each in service["spec"]["ports"]}
        assert "address" not in forward  # loopback
        if (name := forward["resourceName"].removeprefix("holdfast-")) != forward["resourceName"]:
            assert forward["localPort"] == getattr(bare, f"{name.replace('-', '_')}_port")
    local = [forward["localPort"] for forward in config["portForward"]]
    assert len(local) == len(set(local))
    assert {f"holdfast-{name}" for name in SERVICES} <= {each["resourceName"] for each in config["portForward"]}


@combinations
def test_spans_go_to_the_collector_exactly_when_it_is_there(profiles):
    platform, *others = rendered(applied(*profiles))
    common = platform.configuration("common")
    endpoint = common.get("telemetry", {}).get("otlp_endpoint")
    collectors = {
        f"http://{each['metadata']['name']}:{port['port']}"
        for other in others
        for each in other.of_kind("Service")
        for port in each["spec"]["ports"]
        if each["metadata"]["name"].endswith("-collector")
    }
    if "prod" in profiles:  # it names the collector that is yours
        collectors = {values_of(ROOT / "charts/holdfast", "values-prod.yaml")["config"]["telemetry"]["otlp_endpoint"]}
    assert collectors == ({endpoint} if endpoint else set())


# --- file sync ---


def test_sources_are_copied_to_where_the_dev_image_has_them():
    """As Skaffold does: below the destination, each file has the path that it has below the context."""
    dockerfile = (ROOT / "services/Dockerfile").read_text()
    editable, dev = stage(dockerfile, "editable"), stage(dockerfile, "dev")
    assert "COPY services/chassis/src services/chassis/src" in editable
    assert "COPY services/$SERVICE/src services/$SERVICE/src" in editable
    assert "COPY --from=editable --chown=10001:10001 /app/services services" in dev
    assert workdirs(dockerfile) == {"/app"}
    for artifact in synced():
        (rule,) = artifact["sync"]["manual"]
        assert rule.keys() == {"src", "dest"}
        assert rule["dest"] == "/app"


@pytest.mark.parametrize("service", SERVICES)
def test_a_changed_source_is_copied_unless_it_is_a_migration(service):
    (artifact,) = (each for each in synced() if each["image"] == f"holdfast/{service}")
    (rule,) = artifact["sync"]["manual"]
    patterns = list(expanded(rule["src"]))
    sources = [
        path.relative_to(ROOT).as_posix()
        for folder in ("chassis", service)
        for path in (ROOT / "services" / folder / "src").rglob("*")
        if path.suffix in reloader().SUFFIXES
    ]
    copied = {path for path in sources if any(PurePosixPath(path).full_match(pattern) for pattern in patterns)}
    assert {path for path in sources if path not in copied} == {path for path in sources if "/versions/" in path}
    assert f"services/{service}/src/{service.replace('-', '_')}/api.py" in copied
    others = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("services/*/src/*/api.py")]
    others = [path for path in others if f"/{service}/" not in path]
    assert not any(PurePosixPath(path).full_match(pattern) for path in others for pattern in patterns)


def test_only_containers_that_are_copied_into_have_a_writable_root():
    (platform, *_) = rendered(applied("dev"))
    images = {f"{each['image']}:built" for each in synced()}
    for workload in platform.workloads:
        for container in workload.pod["containers"]:
            stays = container.get("args", [""])[0] in reloader().STAYING
            is_writable = not container["securityContext"]["readOnlyRootFilesystem"]
            assert is_writable == (container["image"] in images and stays), (workload.name, container["name"])


def synced() -> list[Json]:
    return [each for each in applied("dev")["build"]["artifacts"] if "sync" in each]


def stage(dockerfile: str, name: str) -> list[str]:
    """The lines of one stage."""
    return re.split(r"^FROM ", dockerfile.split(f" AS {name}\n")[1], flags=re.MULTILINE)[0].splitlines()


def workdirs(dockerfile: str) -> set[str]:
    return set(re.findall(r"^WORKDIR (\S+)$", dockerfile, flags=re.MULTILINE))


def expanded(pattern: str) -> Iterator[str]:
    """Without alternatives in braces, as `full_match` has none: `{a,b}/*` → `a/*`, `b/*`; and `[^` is `[!` there."""
    if not (found := re.search(r"\{([^{}]*)\}", pattern)):
        yield pattern.replace("[^", "[!")
        return
    for alternative in found[1].split(","):
        yield from expanded(pattern[: found.start()] + alternative + pattern[found.end() :])


def reloader():
    """services/reload.py, the dev image's entry point."""
    spec = importlib.util.spec_from_file_location("reload", ROOT / "services/reload.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- make dev ---


def make_dev(folder: Path, commands: Iterable[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """`make dev` on a machine that has only these programs: each says how it was called; `name!` fails."""
    for command in commands:
        name, fails, _ = command.partition("!")
        program = folder / name
        program.write_text(f'#!/bin/sh\necho {shlex.quote(name)} "$@"\n{"exit 1" if fails else ""}\n')
        program.chmod(0o755)
    for tool in ("make", "sh"):
        (folder / tool).symlink_to(subprocess.check_output(["which", tool], text=True).strip())
    return subprocess.run(
        ["make", "--no-print-directory", "--file", ROOT / "Makefile", "dev", *arguments],
        cwd=ROOT,
        env={"PATH": str(folder), "CONTEXT": "production", "PROFILE": "prod"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("missing", ["skaffold", "helm", "kubectl", "docker"])
def test_make_dev_names_the_program_that_is_missing(tmp_path, missing):
    ended = make_dev(tmp_path, {"skaffold", "helm", "kubectl", "docker"} - {missing})
    assert ended.returncode != 0
    assert f"make dev needs {missing}" in ended.stderr
    assert "docs/tutorial/skaffold.md" in ended.stderr
    assert ended.stdout == ""


def test_make_dev_says_how_to_get_a_cluster(tmp_path):
    ended = make_dev(tmp_path, ["skaffold", "helm", "kubectl!", "docker"])
    assert ended.returncode != 0
    assert "No cluster answers in the context kind-holdfast" in ended.stderr
    assert "kind create cluster --config infra/kind.yaml" in ended.stderr
    assert "skaffold dev" not in ended.stdout


def test_make_dev_stays_with_the_cluster_of_kind_yaml_unless_told_otherwise(tmp_path):
    ended = make_dev(tmp_path, ["skaffold", "helm", "kubectl", "docker"])
    assert (ended.returncode, ended.stdout) == (0, "skaffold dev --kube-context kind-holdfast\n")
    assert yaml.safe_load((ROOT / "infra/kind.yaml").read_text())["name"] == "holdfast"


def test_make_dev_takes_a_context_and_profiles(tmp_path):
    ended = make_dev(tmp_path, ["skaffold", "helm", "kubectl", "docker"], "CONTEXT=minikube", "PROFILE=observability")
    assert ended.stdout == "skaffold dev --kube-context minikube --profile observability\n"
