"""Background tasks: each goes on whatever it fails of, and says so; the ones a process cannot do without end it."""

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from captured_logs import CapturedLogs, captured_logs
from chassis.process import background
from chassis.process.background import Group, TaskEnded, failing, pause_after, supervised
from chassis.process.health import Health
from chassis.process.management_app import management_app
from prometheus_client import REGISTRY

pytestmark = pytest.mark.timeout(20)

SERVICES = Path(__file__).resolve().parents[2] / "services"


class Work:
    """Fails as often as `errors` has something to raise, then works on."""

    def __init__(self, *errors: BaseException | None) -> None:
        self._errors = list(errors)
        self.is_working = asyncio.Event()
        self.is_over = False

    async def __call__(self) -> None:
        if self._errors:
            error = self._errors.pop(0)
            if error is not None:
                raise error
            return
        self.is_working.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.is_over = True


class Pauses:
    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def logs() -> Iterator[CapturedLogs]:
    with captured_logs() as logs:
        yield logs


@pytest.fixture(autouse=True)
def no_failures_before() -> None:
    background._last_failures.clear()


def failed(name: str) -> float:
    return REGISTRY.get_sample_value("background_task_failures_total", {"task": name}) or 0.0


async def test_a_task_that_fails_is_written_and_counted_and_begins_again(logs: CapturedLogs) -> None:
    work, pauses, before = Work(ZeroDivisionError(), ZeroDivisionError("again")), Pauses(), failed("test")
    async with supervised(work, name="test", sleep=pauses.sleep):
        await work.is_working.wait()
    first, second = logs.of("background_task_failed")
    assert (first["level"], first["task"], second["error"]) == ("error", "test", "ZeroDivisionError: again")
    assert "in __call__" in first["exception"]
    assert failed("test") == before + 2
    assert pauses.seconds[0] < pauses.seconds[1]
    assert work.is_over


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (None, "TaskEnded: it returned"),
        (asyncio.CancelledError(), "TaskEnded: it was cancelled from inside"),
        (MemoryError(), "MemoryError: "),
        (ExceptionGroup("of several", [OSError(), KeyError()]), "ExceptionGroup: of several (2 sub-exceptions)"),
    ],
)
async def test_a_task_has_no_way_to_end_unseen(end: BaseException | None, error: str, logs: CapturedLogs) -> None:
    work = Work(end)
    async with supervised(work, name="test", sleep=Pauses().sleep):
        await work.is_working.wait()
    assert logs.one("background_task_failed")["error"] == error


async def test_a_dependency_that_is_away_is_a_warning_without_a_traceback(logs: CapturedLogs) -> None:
    work = Work(ConnectionRefusedError("nothing listens"))
    async with supervised(work, name="test", is_outage=lambda error: isinstance(error, OSError), sleep=Pauses().sleep):
        await work.is_working.wait()
    line = logs.one("background_task_failed")
    assert line["level"] == "warning"
    assert "exception" not in line


def test_the_pause_grows_to_a_limit_and_half_of_it_is_by_chance() -> None:
    assert [pause_after(in_a_row, draw=1) for in_a_row in (1, 2, 3, 4, 5, 5000)] == [1, 2, 4, 8, 10, 10]
    assert pause_after(1, draw=0) == 0.5


async def test_the_block_ends_the_task_in_its_pause_too_and_its_own_error_is_raised(logs: CapturedLogs) -> None:
    async def fail() -> None:
        raise LookupError

    is_pausing = asyncio.Event()

    async def pause(_seconds: float) -> None:
        is_pausing.set()
        await asyncio.Event().wait()

    async def block() -> None:
        async with supervised(fail, name="test", sleep=pause):
            await is_pausing.wait()
            raise KeyError

    with pytest.raises(KeyError):
        await block()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "test"]
    assert logs.one("background_task_failed")


async def test_a_block_that_is_cancelled_while_it_waits_for_the_task_is_cancelled() -> None:
    may_end = asyncio.Event()

    async def take_time() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await may_end.wait()

    async def block() -> None:
        async with supervised(take_time, name="test"):
            await asyncio.sleep(0)

    blocking = asyncio.create_task(block())
    await asyncio.sleep(0.01)
    blocking.cancel()
    await asyncio.wait([blocking])
    may_end.set()
    assert blocking.cancelled()


async def test_readiness_names_a_failing_task_and_does_not_depend_on_it(
    logs: CapturedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    health, work = Health(), Work(ConnectionRefusedError())
    health.mark_started()
    transport = httpx.ASGITransport(management_app(health, {}, token=lambda: None))
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
        supervised(work, name="test", sleep=Pauses().sleep),
    ):
        await work.is_working.wait()
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (200, "ready")
        assert answer.json()["failing_tasks"] == {"test": "ConnectionRefusedError"}
        monkeypatch.setattr(background, "RECOVERED_SECONDS", 0.0)
        assert (await client.get("/readyz")).json()["failing_tasks"] == {} == failing()


async def test_a_group_fails_with_a_task_that_is_cancelled_from_inside() -> None:
    async def cancel() -> None:
        raise asyncio.CancelledError

    async def start_both() -> None:
        async with Group() as tasks:
            tasks.start(cancel, name="cancels itself")
            tasks.start(Work(), name="works on")

    with pytest.RaisesGroup(TaskEnded):
        await start_both()


async def test_a_task_of_a_group_may_be_cancelled_from_outside() -> None:
    work = Work()
    async with Group() as tasks:
        task = tasks.start(work, name="ends")
        await work.is_working.wait()
        task.cancel()
    assert task.cancelled()


ELSEWHERE = {
    (
        "chassis/caching/cache.py",
        "create_task",
    ): "short: it logs an outage itself, and asyncio logs a bug",
    (
        "chassis/caching/flights.py",
        "create_task",
    ): "a load: its readers get what it raises, and `_landed` sees the rest",
    ("chassis/caching/pending.py", "create_task"): "goes on whatever it fails of, and logs what is no failure of Redis",
    ("chassis/process/ending.py", "Thread"): "ends the process, also when its own work fails",
    ("chassis/jobs/runner.py", "create_task"): "a job, in the runner's group: it writes how it ended itself",
    ("chassis/logging/writer.py", "Thread"): "writes lines, and survives whatever a write raises",
    ("chassis/fast/shared_redis.py", "create_task"): "opens a connection: those that wait for it get its error",
    (
        "chassis/process/server.py",
        "create_task",
    ): "a server: `running` raises its error and sets `stopping`",
    ("chassis/process/reloading.py", "to_thread"): "awaited at once",
    ("chassis/process/health.py", "gather"): "awaited at once",
    ("chassis/caching/flights.py", "gather"): "awaited at once",
}
"""Where a task or a thread may be started beside `chassis.process.background`, and why its end is seen there."""

STARTS = {
    "create_task",
    "ensure_future",
    "TaskGroup",
    "gather",
    "as_completed",
    "run_coroutine_threadsafe",
    "Thread",
    "Timer",
    "start_new_thread",
    "to_thread",
    "run_in_executor",
    "submit",
    "ThreadPoolExecutor",
    "ProcessPoolExecutor",
    "Process",
}


def starts_in(source: str) -> set[str]:
    """The names that the source calls, or derives a class from, of those that start a task, a thread or a process."""
    nodes = list(ast.walk(ast.parse(source)))
    used = [node.func for node in nodes if isinstance(node, ast.Call)]
    used += [base for node in nodes if isinstance(node, ast.ClassDef) for base in node.bases]
    names = {it.attr if isinstance(it, ast.Attribute) else it.id if isinstance(it, ast.Name) else "" for it in used}
    return names & STARTS


def test_tasks_and_threads_are_started_in_one_place_or_where_their_end_is_seen() -> None:
    found = set()
    for path in SERVICES.glob("*/src/**/*.py"):
        place = path.relative_to(SERVICES).as_posix().split("/src/", 1)[1]
        found |= {(place, name) for name in starts_in(path.read_text("utf-8"))}
    of_background = {it for it in found if it[0] == "chassis/process/background.py"}
    assert of_background
    assert found - of_background == ELSEWHERE.keys()


@pytest.mark.parametrize(
    "source",
    ["asyncio.create_task(x())", "loop.create_task(x())", "class A(threading.Thread): ...", "Thread(target=x)"],
)
def test_a_start_is_found_in_each_way_of_writing_it(source: str) -> None:
    assert starts_in(source)
