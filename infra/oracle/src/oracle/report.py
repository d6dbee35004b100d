"""The verdict, for a terminal, a pipe or a program."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from rich.console import Console
from rich.text import Text

from oracle.findings import Finding, plural
from oracle.invariants import OF_AN_ORDER

SHOWN = 5
"""Offenders named per invariant; the others are counted."""

ONCE_QUIET = sum(not invariant.always for invariant in OF_AN_ORDER)
_WORDS = {True: ("✔ holds    ", "green"), False: ("✘ violated ", "bold red")}

type Verdict = Literal["holds", "violated", "none"]
EXIT_CODES: dict[Verdict, int] = {"holds": 0, "violated": 1, "none": 2}


@dataclass(frozen=True, slots=True)
class Report:
    """`moving` says why invariants between systems were not judged; empty when all were."""

    findings: Sequence[Finding]
    moving: str

    @property
    def verdict(self) -> Verdict:
        if any(not finding.holds for finding in self.findings):
            return "violated"
        return "none" if self.moving else "holds"


def print_report(console: Console, report: Report) -> None:
    """A line per invariant: verdict, name, counts; below it, whom it was violated by."""
    width = max(len(finding.name) for finding in report.findings)
    for finding in report.findings:
        word, style = _WORDS[finding.holds]
        line = Text.assemble((word, style), f"{finding.name:<{width}}  ", (finding.counts, "dim"))
        console.print(line, soft_wrap=True)
        for offender in finding.offenders[:SHOWN]:
            console.print(Text(f"             {offender.id}: {offender.problem}", style="red"), soft_wrap=True)
        if (more := finding.number - SHOWN) > 0:
            console.print(Text(f"             … and {more} more", style="red"), soft_wrap=True)
    _print_verdict(console, report)


def _print_verdict(console: Console, report: Report) -> None:
    if report.moving:
        console.print(Text(f"– not judged {ONCE_QUIET} more, which need quiet: {report.moving}"), soft_wrap=True)
    match report.verdict:
        case "holds":
            console.print(Text(f"All {len(report.findings)} invariants hold.", style="green"))
        case "violated":
            violated = sum(1 for finding in report.findings if not finding.holds)
            sentence = f"Violated: {violated} of {plural(len(report.findings), 'invariant')}."
            console.print(Text(sentence, style="bold red"))
        case "none":
            console.print(Text("No verdict: stop the traffic, or give it more time with --wait.", style="yellow"))


def as_json(report: Report) -> str:
    """`{verdict, moving, findings: [{name, verdict, counts, offenders_count, offenders: [{id, problem}]}]}`."""
    findings = [
        {
            "name": finding.name,
            "verdict": "holds" if finding.holds else "violated",
            "counts": finding.counts,
            "offenders_count": finding.number,
            "offenders": [asdict(offender) for offender in finding.offenders[:SHOWN]],
        }
        for finding in report.findings
    ]
    return json.dumps({"verdict": report.verdict, "moving": report.moving, "findings": findings}, indent=2)
