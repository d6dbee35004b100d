"""CPU by kind of work: a slice of orders during which each of an arm's Python processes samples itself."""

import asyncio
import json
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from holdfast_local.platform import Platform
from holdfast_local.programs import Program

_HERE = Path(__file__).parent
_PATIENCE_SECONDS = 10.0


@contextmanager
def sampling() -> Iterator["Samples"]:
    with tempfile.TemporaryDirectory(prefix="bench-order-") as folder:
        yield Samples(Path(folder))


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of one arm's processes, and the folder to which the processes write these."""

    folder: Path

    def adapt(self, adapt: Callable[[Program], Program]) -> Callable[[Program], Program]:
        """The arm's own change of a program; APIs and workers sample themselves as well."""

        def sampling(program: Program) -> Program:
            adapted = adapt(program)
            if not program.name.endswith(("-api", "-worker")):
                return adapted
            variables = {"PYTHONPATH": str(_HERE / "sampling"), "SAMPLES_FOLDER": str(self.folder)}
            return replace(adapted, env={**(adapted.env or os.environ), **variables})

        return sampling

    def signal(self, platform: Platform) -> int:
        """Start the sampling, or end it. Returns the number of processes."""
        names = [name for name in platform.supervisor.entries if name.endswith(("-api", "-worker"))]
        for name in names:
            os.kill(platform.pid(name), signal.SIGUSR2)
        return len(names)

    async def read(self, processes: int) -> Mapping[str, float]:
        """The share of each kind of work in all samples."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while len(found := [*self.folder.glob("*.json")]) < processes:
                await asyncio.sleep(0.05)
        samples: Counter[str] = Counter()
        for file in found:
            samples.update(json.loads(file.read_text()))
        return {kind: count / samples.total() for kind, count in samples.most_common()}
