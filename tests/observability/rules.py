"""The rules that Prometheus gets, and the programs of Debian's package that judge them."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = ROOT / "charts" / "observability" / "files"
RULES = FILES / "rules.yaml"

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not here: `apt-get install prometheus`"
)


def all_rules() -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        yield from group["rules"]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in all_rules() if "alert" in rule]
