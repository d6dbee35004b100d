"""`make check-chart`: checkov on what the chart renders to with each values file, against charts/checkov.yaml.

Exits with 1 for a finding that has no reason there, for a reason of which there is no finding, and for a values file
that passes less than 98 % of the checks. Images come from a registry, as everywhere but in a cluster of one's own.
Checkov's environment is made from this folder's lock file; Helm's engine, which it would want to call, is a wheel here,
so it is given the rendered objects.
"""
# ruff: noqa: INP001  a script beside the lock file that it needs, not a package

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import helm_python
import yaml

PROJECT = Path(__file__).parents[2]
CHART = PROJECT / "charts" / "holdfast"
REASONS = PROJECT / "charts" / "checkov.yaml"
CHECKOV = PROJECT / ".holdfast" / "checkov" / "bin" / "checkov"
REGISTRY = {"image": {"registry": "registry.example.com"}}
LEAST = 0.98
"""Share of the checks that each values file passes."""
RELEASE = NAMESPACE = "holdfast"


type Report = dict[str, Any]


class Finding(NamedTuple):
    check: str
    values: str
    place: str
    """`Deployment.holdfast-orders`"""
    title: str


class Reason(NamedTuple):
    check: str
    objects: str
    values: Sequence[str]
    reason: str

    def covers(self, finding: Finding) -> bool:
        return (
            self.check == finding.check
            and finding.values in self.values
            and re.fullmatch(self.objects, finding.place) is not None
        )


def main() -> None:
    reasons = [Reason(**entry) for entry in yaml.safe_load(REASONS.read_text("utf-8"))]
    problems: list[str] = []
    found: list[Finding] = []
    for file in ("values.yaml", "values-dev.yaml", "values-prod.yaml"):
        report = checked(rendered(file))
        passed, failed = report["summary"]["passed"], report["summary"]["failed"]
        print(f"{file:<17}{passed:>6} passed{failed:>5} found{passed / (passed + failed):>8.1%}")
        problems += too_few(file, passed=passed, failed=failed)
        found += findings(report, file)
    problems += judge(found, reasons)
    print("\n".join(problems) or f"Each of the {len(found)} has its reason in {REASONS.relative_to(PROJECT)}.")
    sys.exit(1 if problems else 0)


def too_few(file: str, *, passed: int, failed: int) -> Iterator[str]:
    share = passed / (passed + failed)
    if share < LEAST:
        yield f"{file} passes {share:.1%}, less than {LEAST:.0%}"


def judge(found: Sequence[Finding], reasons: Sequence[Reason]) -> Iterator[str]:
    """Findings without a reason, and reasons without a finding, in any of the values files that they name."""
    for finding in found:
        if not any(reason.covers(finding) for reason in reasons):
            yield f"{finding.values}: {finding.check} {finding.place}: {finding.title}"
    for reason in reasons:
        for values in reason.values:
            if not any(reason.covers(finding) for finding in found if finding.values == values):
                yield f"{REASONS.name}: {reason.check} {reason.objects} is not found with {values}"


def rendered(file: str) -> str:
    values = REGISTRY if file == "values.yaml" else REGISTRY | yaml.safe_load((CHART / file).read_text("utf-8"))
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(values, name=RELEASE, namespace=NAMESPACE)
    return "\n---\n".join(text for path, text in sorted(files.items()) if not path.endswith("NOTES.txt"))


def checked(manifest: str) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rendered.yaml"
        path.write_text(manifest, "utf-8")
        words = ["--file", path, "--framework", "kubernetes", "--output", "json", "--quiet", "--compact", "--soft-fail"]
        # Nothing is looked up elsewhere: what it checks is in the package.
        ended = subprocess.run(
            [CHECKOV, *words, "--skip-download"],
            env={"PATH": os.environ["PATH"], "HOME": folder},
            check=True,
            capture_output=True,
            text=True,
        )
    report: Report = json.loads(ended.stdout)
    return report


def findings(report: Report, file: str) -> Iterator[Finding]:
    for each in report["results"]["failed_checks"]:
        kind, _, name = each["resource"].split(".", 2)
        yield Finding(each["check_id"], file, f"{kind}.{name}", each["check_name"])


if __name__ == "__main__":
    main()
