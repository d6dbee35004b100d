"""The routes for jobs on a worker's management port. They do the same as the commands `<service> jobs …`, and answer
in JSON.

Every client inside the cluster may send `GET /jobs/stats`, `GET /jobs/left`, `GET /jobs/dead` and `GET /jobs/{id}`. A
replay needs the management token, and the replayed ids are logged. `POST /jobs/{id}/replay` replays one dead letter,
and `POST /jobs/replay` with `all=true` replays all dead letters that the filters in its query select.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict

import orjson
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.errors import ApiError, ErrorCode, ErrorDetail
from chassis.jobs import dead_letters
from chassis.jobs.dead_letters import Filter
from chassis.logging import put_on_canonical_line
from chassis.pooling import Database

_LOGGED_IDS = 100
"""The largest number of job ids on a replay's log line. The HTTP answer contains all ids."""
_JOB_ID = re.compile(r"[0-9]{1,19}")
_OWN_PARAMETERS = frozenset({"all", "dry_run"})


def routes(database: Database) -> list[BaseRoute]:
    """The routes that a worker adds to `management_app`."""
    jobs = _Jobs(database)
    return [
        Route("/jobs/stats", jobs.stats),
        Route("/jobs/left", jobs.left),
        Route("/jobs/dead", jobs.dead),
        Route("/jobs/replay", jobs.replay_all, methods=["POST"]),
        Route("/jobs/{job_id}", jobs.show),
        Route("/jobs/{job_id}/replay", jobs.replay_one, methods=["POST"]),
    ]


class _Jobs:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def stats(self, _request: Request) -> Response:
        async with self._database.read() as session:
            return _json([asdict(found) for found in await dead_letters.stats(session)])

    async def left(self, request: Request) -> Response:
        queue = request.query_params.get("queue")
        if queue is not None:
            _check_text("queue", queue)
        async with self._database.read() as session:
            found = await dead_letters.work_left(session, queue=queue)
        return _json(asdict(found) | {"is_drained": found.is_drained})

    async def dead(self, request: Request) -> Response:
        async with self._database.read() as session:
            found = await dead_letters.list_dead(session, which=_filter(request.query_params))
        return _json([asdict(job) for job in found])

    async def show(self, request: Request) -> Response:
        job_id = _job_id(request)
        async with self._database.read() as session:
            found = await dead_letters.show(session, job_id)
        if found is None:
            raise ApiError(ErrorCode.NOT_FOUND, "The job has completed, or never existed.")
        return _json(asdict(found))

    async def replay_one(self, request: Request) -> Response:
        job_id = _job_id(request)
        async with self._database.transaction() as session:
            replayed = await dead_letters.replay(session, job_id=job_id)
        if not replayed:
            raise ApiError(ErrorCode.NOT_FOUND, "The job is not a dead letter.")
        return _replayed(replayed, dry_run=False)

    async def replay_all(self, request: Request) -> Response:
        if request.query_params.get("all") != "true":
            raise _invalid("all", "Must be true, because this route replays every dead letter that the filters select.")
        dry_run = request.query_params.get("dry_run", "false")
        if dry_run not in {"true", "false"}:
            raise _invalid("dry_run", "Must be true or false.")
        which = _filter(request.query_params)
        async with self._database.transaction() as session:
            replayed = await dead_letters.replay(session, which=which, dry_run=dry_run == "true")
        return _replayed(replayed, dry_run=dry_run == "true")


def _filter(parameters: QueryParams) -> Filter:
    given = {name: value for name, value in parameters.items() if name not in _OWN_PARAMETERS}
    for name, value in given.items():
        if name not in Filter.__slots__ or not value:
            raise _invalid(name, "The filters are name, queue and error, and none may be empty.")
        _check_text(name, value)
    return Filter(**given)


def _check_text(name: str, value: str) -> None:
    if "\0" in value:
        raise _invalid(name, "Must not contain a NUL.")


def _job_id(request: Request) -> int:
    """The job's id in the path. Raises `ApiError` (404) for text that cannot be a job id."""
    text: str = request.path_params["job_id"]
    if not _JOB_ID.fullmatch(text):
        raise ApiError(ErrorCode.NOT_FOUND)
    return int(text)


def _replayed(job_ids: Sequence[int], *, dry_run: bool) -> Response:
    put_on_canonical_line(jobs=len(job_ids), job_ids=",".join(map(str, job_ids[:_LOGGED_IDS])), dry_run=dry_run)
    return _json({"replayed": job_ids, "dry_run": dry_run})


def _invalid(field: str, message: str) -> ApiError:
    return ApiError(ErrorCode.VALIDATION_FAILED, details=[ErrorDetail(field, message)])


def _json(found: object) -> Response:
    return Response(orjson.dumps(found), media_type="application/json")
