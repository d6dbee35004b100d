"""Writes the dashboards that Grafana is provisioned with: `python infra/dashboards/dashboards.py`.

With `--check` nothing is written: it exits with 1 and names every file that is not what the code says.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import overview
import patterns
from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from panels import Logs, Panel, dashboard

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "charts" / "observability" / "files" / "dashboards"

_ROWS = {"overview": overview.ROWS, "patterns": patterns.ROWS}


def dashboards() -> dict[str, Dashboard]:
    """By the names of their files."""
    return {
        "overview": dashboard(
            "holdfast-overview", "Holdfast: overview", "Whether the platform is well.", overview.ROWS
        ),
        "patterns": dashboard(
            "holdfast-patterns", "Holdfast: the ten patterns", "A row per pattern of docs/patterns.", patterns.ROWS
        ),
    }


def expressions() -> Iterator[tuple[str, str]]:
    """Where a panel stands (`patterns / jobs / Due jobs`), and each of its expressions in PromQL."""
    for name, rows in _ROWS.items():
        for row, panels in rows.items():
            for panel in panels:
                if isinstance(panel, Panel):
                    for expression, _ in panel.queries:
                        yield f"{name} / {row} / {panel.title}", expression


def log_queries() -> Iterator[str]:
    """Every query in LogsQL."""
    for rows in _ROWS.values():
        for panels in rows.values():
            yield from (panel.query for panel in panels if isinstance(panel, Logs))


def written() -> dict[Path, str]:
    encoder = JSONEncoder(sort_keys=True, indent=1, ensure_ascii=False)
    return {FOLDER / f"{name}.json": encoder.encode(built.build()) + "\n" for name, built in dashboards().items()}


def main() -> None:
    stale = [path for path, text in written().items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in sys.argv[1:]:
        sys.stderr.writelines(
            f"{path.relative_to(PROJECT)} is stale: run python infra/dashboards/dashboards.py\n" for path in stale
        )
        sys.exit(1 if stale else 0)
    for path in stale:
        path.write_text(written()[path], "utf-8")


if __name__ == "__main__":
    main()
