"""The rules that Prometheus gets, and the programs of Debian's package that judge them."""

import re
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


def seconds_of(duration: str) -> float:
    """`15m` is 900."""
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[duration[-1]]


def compressed(factor: float) -> str:
    """The rules' file with every `for` and every window divided by the factor."""

    def shorter(duration: str) -> str:
        return f"{seconds_of(duration) / factor * 1000:.0f}ms"

    file = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    for rule in (rule for group in file["groups"] for rule in group["rules"]):
        rule["expr"] = re.sub(r"\[(\d+[smhd])\]", lambda window: f"[{shorter(window[1])}]", rule["expr"])
        if "for" in rule:
            rule["for"] = shorter(rule["for"])
    text: str = yaml.safe_dump(file)
    return text
