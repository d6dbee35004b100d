"""What a container finds in its file system: the files of the ConfigMaps and Secrets that are mounted into it."""

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from rendering import HOLDFAST, Json, Rendering, Workload, render

type Enter = Callable[[Rendering, Workload, Json], None]
"""The fixture `enter`: shows this process what the container would see."""


def files_of(rendering: Rendering, workload: Workload, container: Json) -> Mapping[PurePosixPath, str]:
    """Path → content. Volumes of other kinds are left out: they are empty, or hold what the container writes."""
    volumes = {volume["name"]: volume for volume in workload.pod.get("volumes", [])}
    return {
        PurePosixPath(mount["mountPath"]) / name: content
        for mount in container.get("volumeMounts", [])
        if mount["name"] in volumes
        for source in _sources(volumes[mount["name"]])
        for name, content in _files(rendering, source)
    }


def with_secrets(rendering: Rendering) -> Rendering:
    """With the Secrets that somebody else makes where the chart makes none."""
    if rendering.of_kind("Secret"):
        return rendering
    return replace(rendering, objects=(*rendering.objects, *render(HOLDFAST).of_kind("Secret")))


def write(files: Mapping[PurePosixPath, str], root: Path) -> None:
    """Puts them below `root` as if it were `/`."""
    for path, content in files.items():
        target = root / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")


def decoded(found: Json) -> dict[str, str]:
    """Key → text of a ConfigMap or Secret."""
    if found["kind"] == "ConfigMap":
        return dict(found.get("data") or {})
    texts = {key: base64.b64decode(value).decode() for key, value in (found.get("data") or {}).items()}
    return texts | (found.get("stringData") or {})


def _sources(volume: Json) -> list[Json]:
    return volume["projected"]["sources"] if "projected" in volume else [volume]


def _files(rendering: Rendering, source: Json) -> Iterator[tuple[str, str]]:
    """Name → content of one source of a volume, under the names that its items give them."""
    if "configMap" in source:
        found = decoded(rendering.get("ConfigMap", source["configMap"]["name"]))
        items = source["configMap"].get("items")
    elif "secret" in source:
        found = decoded(rendering.get("Secret", source["secret"].get("secretName") or source["secret"]["name"]))
        items = source["secret"].get("items")
    else:
        return
    yield from ((item["path"], found[item["key"]]) for item in items) if items else found.items()
