"""Samples the CPU of a process by kind of work. Python imports this module at start, because it is in PYTHONPATH.

SIGUSR2 starts the sampling, and a second SIGUSR2 ends it and writes the samples to `SAMPLES_FOLDER/<process id>.json`.
Between the two, the kernel sends SIGPROF after each 2 ms of CPU that the process has used. The signal's handler looks
at the main thread's stack. The innermost frame whose file has a kind decides; work that C code does belongs to the
Python function that called it.
"""

import json
import os
import signal
from collections import Counter
from functools import cache
from pathlib import Path
from types import FrameType

INTERVAL_SECONDS = 0.002

KINDS = (  # the first that is part of the file's path
    ("/sqlalchemy/", "SQLAlchemy"),
    ("/asyncpg/", "SQL: driver, pool"),
    ("/chassis/pooling/redis", "Redis"),
    ("/chassis/pooling/http", "HTTP and SMTP"),
    ("/chassis/pooling/", "SQL: driver, pool"),
    ("/chassis/fast/idle_connections", "SQL: driver, pool"),
    ("/chassis/fast/shared_redis", "Redis"),
    ("/redis/", "Redis"),
    ("/chassis/logging/", "log lines"),
    ("/structlog/", "log lines"),
    ("/logging/", "log lines"),
    ("/opentelemetry/", "spans and metrics"),
    ("/chassis/telemetry/", "spans and metrics"),
    ("/prometheus_client/", "spans and metrics"),
    ("/pydantic", "serialisation"),
    ("/json/", "serialisation"),
    ("/uuid.py", "serialisation"),
    ("/aiohttp/", "HTTP and SMTP"),
    ("/uvicorn/", "HTTP and SMTP"),
    ("/starlette/", "HTTP and SMTP"),
    ("/fastapi/", "HTTP and SMTP"),
    ("/yarl/", "HTTP and SMTP"),
    ("/multidict/", "HTTP and SMTP"),
    ("/aiosmtplib/", "HTTP and SMTP"),
    ("/email/", "HTTP and SMTP"),
    ("/chassis/app/api/", "HTTP and SMTP"),
    ("/chassis/calls/", "HTTP and SMTP"),
    ("/chassis/fast/", "HTTP and SMTP"),
    ("/chassis/rate_limiting/", "HTTP and SMTP"),
    ("/chassis/jobs/", "jobs and events"),
    ("/chassis/events/", "jobs and events"),
    ("/dbos/", "jobs and events"),
    ("/chassis/", "handlers and the rest"),
    ("/services/", "handlers and the rest"),
    ("/benchmarks/order/", "handlers and the rest"),
)
WAITING = "waiting for work"
"""The event loop and nothing else is on the stack: it looks for work, reads and writes sockets, and resumes tasks."""
_LOOP = ("/asyncio/runners.py", "/uvloop/__init__.py", "/uvicorn/server.py")

_samples: Counter[str] = Counter()


def start(*_: object) -> None:
    signal.signal(signal.SIGPROF, _sample)
    signal.signal(signal.SIGUSR2, end)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL_SECONDS, INTERVAL_SECONDS)


def end(*_: object) -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    path = Path(os.environ["SAMPLES_FOLDER"], f"{os.getpid()}.json")
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(_samples))
    draft.rename(path)


def _sample(_: int, frame: FrameType | None) -> None:
    while frame is not None and not frame.f_code.co_filename.endswith(_LOOP):
        if kind := _kind_of(frame.f_code.co_filename):
            _samples[kind] += 1
            return
        frame = frame.f_back
    _samples[WAITING] += 1


@cache
def _kind_of(file: str) -> str:
    return next((kind for part, kind in KINDS if part in file), "")


if "SAMPLES_FOLDER" in os.environ:
    signal.signal(signal.SIGUSR2, start)
