"""A chart as the real Helm engine renders it, and its objects as Kubernetes' own schemas see them. Needs no cluster.

`render` gives a `Rendering`: its objects, its notes, and `workloads`, whatever makes pods with the pods it makes. The
checks beside this file take those: `pod_security`, `api_server`, `wiring`. Each returns its complaints as text, so that
a test compares with `[]` and a failure says everything at once.
"""

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import extensions
import helm_python
import kubernetes_validate
import yaml
from cluster import cluster_with

CHARTS = Path(__file__).parents[2] / "charts"
HOLDFAST = CHARTS / "holdfast"

KUBERNETES = ("1.34", ".".join(kubernetes_validate.latest_version().split(".")[:2]))
"""The oldest version that we support, and the newest whose schemas we have."""

# It reads 1.5 MB of definitions for every object that it looks at: read once, it is ten times as quick.
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)

type Json = dict[str, Any]
type Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """An object that makes pods, and the template of those."""

    object: Json
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    pod: Json

    @property
    def name(self) -> str:
        """`Deployment/holdfast-orders`."""
        return identity(self.object)

    @property
    def containers(self) -> list[Json]:
        """All of them, those that only prepare the pod first."""
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    @property
    def is_test(self) -> bool:
        """Whether it runs only when somebody says `helm test`."""
        return "test" in hooks(self.object)


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """Its objects, hooks included, its notes, and the values that it was made from, the chart's own below them."""

    objects: tuple[Json, ...]
    notes: str = ""
    values: Values = field(default_factory=dict)

    def of_kind(self, *kinds: str) -> list[Json]:
        return [found for found in self.objects if found["kind"] in kinds]

    def get(self, kind: str, name: str) -> Json:
        (found,) = (candidate for candidate in self.of_kind(kind) if candidate["metadata"]["name"] == name)
        return found

    def names(self, kind: str) -> set[str]:
        return {found["metadata"]["name"] for found in self.of_kind(kind)}

    def configuration(self, name: str) -> Json:
        """The file of one service, or the `common` one, whose ConfigMap is named after what is in it."""
        (found,) = (
            it for it in self.of_kind("ConfigMap") if re.search(rf"-{name}-[0-9a-f]{{10}}$", it["metadata"]["name"])
        )
        parsed: Json = yaml.safe_load(found["data"]["config.yaml"])
        return parsed

    @property
    def workloads(self) -> list[Workload]:
        return [_workload(found, template) for found in self.objects if (template := _pod_template(found))]

    def workload(self, name: str) -> Workload:
        """By kind and name: `Deployment/holdfast-orders`."""
        (found,) = (candidate for candidate in self.workloads if candidate.name == name)
        return found


def render(
    chart: Path,
    *values: Values,
    release: str = "holdfast",
    namespace: str = "holdfast",
    revision: int = 1,
    existing: Iterable[Json] = (),
) -> Rendering:
    """What `helm install` (`helm upgrade` from revision 2 on) would send, the later values over the earlier.

    `existing` is what `lookup` finds in the cluster; without any it is `helm template`, which has no cluster.
    Raises `helm_python.HelmValuesError` when the chart's schema does not allow the values, `HelmRenderError` when a
    template fails, and ValueError when a file gives a key twice, of which Kubernetes would keep the last.
    """
    merged = merge(*values)
    files = manifests(chart, merged, release=release, namespace=namespace, revision=revision, existing=existing)
    notes = [text for path, text in files.items() if path.endswith("NOTES.txt")]
    texts = [text for path, text in sorted(files.items()) if not path.endswith("NOTES.txt")]
    return Rendering(
        objects=tuple(found for text in texts for found in yaml.load_all(text, _UniqueKeys) if found),
        notes="".join(notes),
        values=merge(values_of(chart), merged),
    )


def manifests(
    chart: Path,
    values: Values,
    *,
    release: str = "holdfast",
    namespace: str = "holdfast",
    revision: int = 1,
    existing: Iterable[Json] = (),
) -> Mapping[str, str]:
    """The same as text, by the path of its template: quicker than objects, and enough to compare.

    Whatever has been rendered lately is not rendered again: its generated secrets are the same.
    """
    return _manifests(chart, json.dumps([values, release, namespace, revision, list(existing)]))


@lru_cache(maxsize=200)  # of 140 KB; each takes 80 ms
def _manifests(chart: Path, asked: str) -> Mapping[str, str]:
    values, release, namespace, revision, objects = json.loads(asked)
    options: Json = {
        "name": release,
        "namespace": namespace,
        "revision": revision,
        "is_install": revision == 1,
        "is_upgrade": revision > 1,
    }
    with ExitStack() as stack:
        loaded = stack.enter_context(helm_python.Chart.load(chart))
        if objects:
            kubeconfig = stack.enter_context(cluster_with(objects, namespace))
            config = stack.enter_context(helm_python.Config(kubeconfig_content=kubeconfig, namespace=namespace))
            return config.render(loaded, values, **options)
        return loaded.render(values, **options)


forget = _manifests.cache_clear
"""Whatever is rendered next is rendered anew, with generated secrets of its own."""


def values_of(chart: Path, file: str = "values.yaml") -> Json:
    """A values file, as text has it."""
    return yaml.load((chart / file).read_text(encoding="utf-8"), _UniqueKeys) or {}


def values_files(chart: Path) -> list[str]:
    """`values-dev.yaml`, `values-prod.yaml`: what a chart says about environments."""
    return sorted(path.name for path in chart.glob("values-*.yaml"))


def merge(*layers: Values) -> Values:
    """As Helm merges values files: mappings by key, everything else replaced by the later."""
    merged: Json = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return merged


def nested(path: str, *, value: object) -> Json:
    """`nested("postgres.enabled", value=False)` is what `--set postgres.enabled=false` means."""
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def leaves(values: Values, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every single value by its dotted path. A list is a value, and so is an empty mapping."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def lint(chart: Path, *values: Values) -> list[str]:
    """What `helm lint --strict` says, but that an icon is recommended."""
    report = helm_python.lint(chart, dict(merge(*values)), strict=True, kube_version=f"v{KUBERNETES[0]}.0")
    return [message["error"] for message in report["messages"] if message["error"] != "icon is recommended"]


def schema_problems(found: Json) -> list[str]:
    """What Kubernetes' schemas hold against an object, in the oldest and the newest version; unknown fields too.

    Kinds of operators have schemas of their own in `extensions`.
    """
    return list(_schema_problems(json.dumps(found)))


@cache  # most objects are the same in most renderings
def _schema_problems(text: str) -> tuple[str, ...]:
    found = json.loads(text)
    if found.get("apiVersion") in extensions.SCHEMAS:
        return tuple(f"{identity(found)}: {problem}" for problem in extensions.problems(found))
    problems = []
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(found, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(map(str, error.absolute_path))
            problems.append(f"{identity(found)} on Kubernetes {version}: {where}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            problems.append(f"{identity(found)}: {error.message}")
    return tuple(problems)


def copy_of(chart: Path, folder: Path, edits: Mapping[str, tuple[str, str]]) -> Path:
    """A copy of the chart in which text was replaced: `{"templates/service.yaml": ("8000", "8001")}`.

    Proves that a test can fail: it breaks the chart on purpose. Raises ValueError when the text is not there.
    """
    copy = folder / chart.name
    shutil.copytree(chart, copy)
    for file, (old, new) in edits.items():
        text = (copy / file).read_text(encoding="utf-8")
        if old not in text:
            raise ValueError(f"{file} does not contain {old!r}")
        (copy / file).write_text(text.replace(old, new), encoding="utf-8")
    return copy


def changed(found: Json, path: str, value: object) -> Json:
    """A copy in which one thing is set, by its path: `changed(pod, "containers.0.image", "nginx")`."""
    copy: Json = json.loads(json.dumps(found))
    inner, last = _at(copy, path)
    inner[last] = value
    return copy


def without(found: Json, path: str) -> Json:
    copy: Json = json.loads(json.dumps(found))
    inner, last = _at(copy, path)
    del inner[last]
    return copy


def identity(found: Json) -> str:
    return f"{found['kind']}/{found['metadata']['name']}"


def hooks(found: Json) -> list[str]:
    """The moments at which Helm makes this object; none: it is part of the release."""
    annotations = found["metadata"].get("annotations") or {}
    return [hook.strip() for hook in annotations.get("helm.sh/hook", "").split(",") if hook]


def _at(inner: Any, path: str) -> tuple[Any, str | int]:
    """What holds the last part of the path, and that part. A number is a place in a list."""
    *folders, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    for part in folders:
        inner = inner[part]
    return inner, last


def _pod_template(found: Json) -> Json | None:
    match found["kind"]:
        case "Pod":
            return found
        case "CronJob":
            return found["spec"]["jobTemplate"]["spec"]["template"]
        case "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job":
            return found["spec"]["template"]
        case _:
            return None


def _workload(found: Json, template: Json) -> Workload:
    metadata = template.get("metadata") or {}
    return Workload(
        object=found,
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        pod=template["spec"],
    )


class _UniqueKeys(yaml.CSafeLoader):
    """Refuses a mapping that gives a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise ValueError(f"{', '.join(map(str, twice))} is given twice{node.start_mark}")
        return super().construct_mapping(node, deep)
