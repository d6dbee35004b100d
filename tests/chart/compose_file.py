"""infra/compose.yaml as data, and what it mounts."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from holdfast_local.secrets import SCOPES, SERVICES

INFRA = Path(__file__).parents[2] / "infra"
FILE: Mapping[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text(encoding="utf-8"))
CONTAINERS: Mapping[str, Any] = FILE["services"]

PROCESSES = [f"{service}-{role}" for service in SERVICES for role in ("api", "worker")]
MIGRATIONS = [f"{service}-migrate" for service in SERVICES]
KEYS = [f"{service}-keys" for service in SCOPES]
"""What tells a database the keys of its clients."""
AT_HAND = ["customer", "oracle"]
"""Started by hand, and done after a while."""
STAYING = [name for name in CONTAINERS if name not in MIGRATIONS + KEYS + AT_HAND]


def service_of(container: str) -> str:
    return container.rpartition("-")[0]


def mounts(container: str) -> dict[str, tuple[str, bool]]:
    """What is mounted into a container: where → (what: a path from infra/ or a volume's name; whether read-only)."""
    found = {}
    for volume in CONTAINERS[container].get("volumes", []):
        match volume:
            case {"source": source, "target": target, "read_only": is_read_only}:
                found[target] = (source, is_read_only)
            case str():
                source, target, *mode = volume.split(":")
                found[target] = (source, mode == ["ro"])
    return found


def secrets_folder(container: str) -> str | None:
    """The folder in .holdfast/compose that a container is given."""
    source, _ = mounts(container).get("/run/secrets/holdfast", ("", True))
    return source.removeprefix("../.holdfast/compose/") or None


def published(container: str) -> list[tuple[str, str, int, int]]:
    """(address, variable, port, port inside) of each port on the host."""
    pattern = re.compile(r"(.*):\$\{(\w+):-(\d+)\}:(\d+)")
    found = [pattern.fullmatch(port) for port in CONTAINERS[container].get("ports", [])]
    return [(m[1], m[2], int(m[3]), int(m[4])) for m in found if m]


def megabytes(text: str) -> int:
    assert text.endswith("m")
    return int(text[:-1])
