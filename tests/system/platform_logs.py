"""What the services of a running platform wrote."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from holdfast_local.installation import Installation
from holdfast_local.secrets import SERVICES

PROGRAMS = tuple(f"{service}-{role}" for service in SERVICES for role in ("api", "worker"))
LIFE_OF_A_PROCESS = {"process_started", "worker_started", "outbox_leadership_taken"}


@dataclass(frozen=True, slots=True)
class PlatformLogs:
    installation: Installation

    def text(self, program: str) -> str:
        return self.installation.log(program).read_text()

    def lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Program and line, in the order of each program. Fails on one that is not JSON; a last one may be half."""
        for program in PROGRAMS:
            for line in self.text(program).split("\n")[:-1]:
                yield program, json.loads(line)

    def of_trace(self, trace_id: str) -> list[tuple[str, dict[str, Any]]]:
        return [(program, line) for program, line in self.lines() if line.get("trace_id") == trace_id]
