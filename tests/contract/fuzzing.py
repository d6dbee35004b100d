"""Asks a running service what its OpenAPI document allows, and much that it does not; judges each answer by itself."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from chassis.errors import ErrorCode
from chassis.errors.answers import PROBLEM_JSON
from jsonschema import Draft202012Validator
from requests.auth import AuthBase
from schemathesis.engine import Status, from_schema
from schemathesis.engine.events import FatalError, Interrupted, NonFatalError, ScenarioFinished
from schemathesis.engine.recorder import Interaction, ScenarioRecorder
from schemathesis.generation.case import Case

SEED = 5
# Not asked: whether all that fits is taken (a well-formed order may name a product that there is not), and whether all
# that does not fit is refused (a boolean may be 0 or "no", as everywhere with Pydantic; headers are text anyway).
_NOT_ASKED = ("positive_data_acceptance", "negative_data_rejection")
_INSIDES = re.compile(
    r"Traceback|File \"|\.py\b|sqlalchemy|asyncpg|psycopg|pydantic|starlette|fastapi"
    r"|\bSELECT\b.+\bFROM\b|\bINSERT INTO\b|\bUPDATE\b.+\bSET\b|\bDELETE FROM\b|0x[0-9a-f]{8,}",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Findings:
    """What became of one service's inputs."""

    inputs: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def report(self, service: str) -> str:
        statuses = ", ".join(f"{status} × {count:,}" for status, count in sorted(self.statuses.items()))
        return f"{service}: {self.inputs:,} inputs; {statuses}; {len(self.codes)} error codes"


def fuzz(document: Mapping[str, Any], url: str, *, auth: AuthBase, secrets: Sequence[str], examples: int) -> Findings:
    """Every phase of schemathesis over the document: examples, boundaries, random inputs, sequences of calls.

    The same seed asks the same questions, save where they are made of earlier answers.
    """
    checks = {name: {"enabled": False} for name in _NOT_ASKED}
    config = schemathesis.Config.from_dict(
        {
            "seed": SEED,
            "base-url": url,
            "continue-on-failure": True,
            "generation": {"max-examples": examples, "deterministic": True, "no-shrink": True, "database": "none"},
            "phases": {"stateful": {"generation": {"max-examples": max(1, examples // 4)}}},
            "checks": checks,
            "request-timeout": 10,
        }
    )
    schema = schemathesis.openapi.from_dict(dict(document), config=config)
    schema.auth.set_from_requests(auth)
    findings = Findings()
    for event in from_schema(schema).execute():
        match event:
            case ScenarioFinished():
                _judge_scenario(findings, event.recorder, document, secrets)
            case FatalError() | Interrupted():
                findings.problems.append(f"schemathesis ended early: {event}")
            case NonFatalError():
                findings.problems.append(f"schemathesis: {event.label}: {event.value!r}")
    return findings


def _judge_scenario(
    findings: Findings, recorder: ScenarioRecorder, document: Mapping[str, Any], secrets: Sequence[str]
) -> None:
    for case_id, interaction in recorder.interactions.items():
        findings.inputs += 1
        case = recorder.cases[case_id].value
        if interaction.response is None:
            findings.problems.append(f"{_label(case)}: no answer to {interaction.request.uri}")
            continue
        findings.statuses[interaction.response.status_code] += 1
        found = list(judge(document, case, interaction, secrets, findings.codes))
        findings.problems += [f"{_label(case)}: {one}\n    {_shown(interaction)}" for one in found]
    for case_id, checks in recorder.checks.items():
        for check in checks:
            if check.status != Status.SUCCESS:
                info = check.failure_info
                sample = f"{info.failure.title}: {info.failure.message}\n    {info.code_sample}" if info else "crashed"
                findings.problems.append(f"{_label(recorder.cases[case_id].value)}: {check.name}: {sample}")


def judge(
    document: Mapping[str, Any], case: Case, interaction: Interaction, secrets: Sequence[str], codes: Counter[str]
) -> Iterator[str]:
    """What is wrong with an answer, whatever was asked: nothing to see of our insides, every error in the envelope."""
    response = interaction.response
    assert response is not None
    text = response.content.decode(errors="replace")
    everything = f"{text}\n{response.headers}"
    if response.status_code >= 500:
        yield f"answered {response.status_code}"
    if any(secret in everything for secret in secrets):
        yield "a secret of ours is in it"
    if inside := _INSIDES.search(everything):
        yield f"our insides are in it: {inside[0]}"
    if response.status_code < 400 or interaction.request.method == "HEAD":
        return
    kind = response.headers["content-type"][0]
    form = "Problem" if kind == PROBLEM_JSON else "ErrorEnvelope"
    body = json.loads(text)
    schema = {"$ref": f"#/components/schemas/{form}", "components": document["components"]}
    yield from (error.message for error in Draft202012Validator(schema).iter_errors(body))
    error = body if form == "Problem" else body.get("error", {})
    code = ErrorCode[error["code"]]
    codes[code.name] += 1
    if body["request_id"] != response.headers["x-request-id"][0]:
        yield "its request_id is not the header's"
    if code.value.status != response.status_code:
        yield f"{code.name} with status {response.status_code}"
    if ("retry-after" in response.headers) != code.value.retryable:
        yield f"{code.name} and its Retry-After do not agree"
    if code.name not in _documented(document, case, interaction, response.status_code):
        yield f"{code.name} ({response.status_code}) is not documented here"


def _documented(document: Mapping[str, Any], case: Case, interaction: Interaction, status: int) -> Sequence[str]:
    """The codes that the operation may answer with that status; a path or method that there is not has its own."""
    operation = document["paths"][case.path].get(interaction.request.method.lower())
    if operation is None:
        return [ErrorCode.METHOD_NOT_ALLOWED.name]
    documented: Sequence[str] = operation["responses"].get(str(status), {}).get("x-error-codes", ())
    return documented


def _label(case: Case) -> str:
    return case.operation.label


def _shown(interaction: Interaction) -> str:
    request, response = interaction.request, interaction.response
    assert response is not None
    return f"{request.method} {request.uri} {request.body!r} → {response.status_code} {response.content[:300]!r}"
