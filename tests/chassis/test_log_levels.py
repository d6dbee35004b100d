"""One logger's level for a stated time, through the management port; and DEBUG for one request, by a signed header."""

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest
from captured_logs import CapturedLogs, captured_logs
from chassis import logging as chassis_logging
from chassis.config.settings import LogSettings
from chassis.logging import debug_header, debugging_for, get_logger
from chassis.logging.debugging import MAX_SECONDS, DebugRequests, check_header, sign
from chassis.logging.levels import CannotChange, Levels
from chassis.process.health import Health
from chassis.process.management_app import management_app
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from pydantic import SecretStr
from waiting import eventually

TOKEN = "t" * 64
KEY = "k" * 32
NOW = 1_800_000_000

log = get_logger("levels_shop.till")


class Timers:
    """An event loop's clock and timers that move when the test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], object]) -> "Timer":
        timer = Timer(self.now + delay)
        heapq.heappush(self._waiting, (timer.when(), next(self._order), lambda: timer.is_cancelled or callback()))
        return timer

    def advance(self, seconds: float) -> None:
        self.now += seconds
        while self._waiting and self._waiting[0][0] <= self.now:
            heapq.heappop(self._waiting)[2]()


class Timer:
    def __init__(self, when: float) -> None:
        self._when = when
        self.is_cancelled = False

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self.is_cancelled = True


@pytest.fixture
def logs() -> Iterator[CapturedLogs]:
    with captured_logs(LogSettings(debug_key=SecretStr(KEY))) as found:
        yield found
    for name in ("levels_shop", "levels_shop.till", "levels_library"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def timers() -> Timers:
    return Timers()


@pytest.fixture
def levels(logs: CapturedLogs) -> Levels:
    return chassis_logging.levels()


# A level for a time


def test_a_changed_level_holds_for_its_time_and_reverts_by_itself(
    logs: CapturedLogs, levels: Levels, timers: Timers
) -> None:
    log.debug("before")
    levels.change("levels_shop.till", "DEBUG", seconds=60, timers=timers)
    log.debug("during")
    timers.advance(59.9)
    log.debug("still")
    timers.advance(0.1)
    log.debug("after")
    assert [line["event"] for line in logs.lines] == ["during", "still", "log_level_reverted"]
    assert (logs.one("log_level_reverted")["logger"], logs.one("log_level_reverted")["to"]) == (
        "levels_shop.till",
        "NOTSET",
    )


def test_a_second_change_begins_a_new_time_and_keeps_the_original_level(
    logs: CapturedLogs, levels: Levels, timers: Timers
) -> None:
    logging.getLogger("levels_shop.till").setLevel(logging.WARNING)
    levels.change("levels_shop.till", "DEBUG", seconds=60, timers=timers)
    timers.advance(50)
    assert levels.change("levels_shop.till", "ERROR", seconds=60, timers=timers).original == "WARNING"
    timers.advance(50)  # the first time is over
    assert logging.getLogger("levels_shop.till").level == logging.ERROR
    timers.advance(10)
    assert logging.getLogger("levels_shop.till").level == logging.WARNING
    assert levels.changes(timers) == []


def test_a_change_holds_for_the_loggers_below_it_and_for_no_other(
    logs: CapturedLogs, levels: Levels, timers: Timers
) -> None:
    levels.change("levels_shop", "DEBUG", seconds=60, timers=timers)
    log.debug("below")
    get_logger("levels_shopping").debug("beside")
    assert [line["event"] for line in logs.lines] == ["below"]


def test_a_changed_level_can_be_quieter_too(logs: CapturedLogs, levels: Levels, timers: Timers) -> None:
    levels.change("levels_shop", "ERROR", seconds=60, timers=timers)
    log.warning("quiet")
    log.error("lost")
    assert [line["event"] for line in logs.lines] == ["lost"]


def test_a_library_s_debug_lines_come_when_they_were_asked_for(
    logs: CapturedLogs, levels: Levels, timers: Timers
) -> None:
    library = logging.getLogger("levels_library.client")
    logging.getLogger("levels_library")
    library.debug("before")
    levels.change("levels_library", "DEBUG", seconds=60, timers=timers)
    library.debug("sent %s", "it")
    timers.advance(60)
    library.debug("after")
    assert [line["event"] for line in logs.lines] == ["sent it", "log_level_reverted"]


def test_the_root_s_level_can_change_and_a_reloaded_one_waits_for_its_end(levels: Levels, timers: Timers) -> None:
    levels.change("root", "DEBUG", seconds=60, timers=timers)
    levels.set_base("WARNING")
    assert (logging.getLogger().level, levels.base) == (logging.DEBUG, "WARNING")
    timers.advance(60)
    assert logging.getLogger().level == logging.WARNING
    levels.set_base("ERROR")
    assert (logging.getLogger().level, levels.base) == (logging.ERROR, "ERROR")


def test_a_misspelt_logger_is_not_changed_but_its_nearest_is_named(levels: Levels, timers: Timers) -> None:
    with pytest.raises(CannotChange, match=r"did you mean levels_shop\.till\?"):
        levels.change("levels_shop.tyll", "DEBUG", seconds=60, timers=timers)
    assert levels.changes(timers) == []


def test_changes_are_bounded_in_number(levels: Levels, timers: Timers) -> None:
    for n in range(50):
        get_logger(f"levels_many.{n}")
        levels.change(f"levels_many.{n}", "DEBUG", seconds=60, timers=timers)
    with pytest.raises(CannotChange, match="Too many"):
        levels.change("levels_many", "DEBUG", seconds=60, timers=timers)
    levels.change("levels_many.7", "INFO", seconds=60, timers=timers)
    timers.advance(60)
    assert {logging.getLogger(f"levels_many.{n}").level for n in range(50)} == {logging.NOTSET}


def test_the_root_s_debug_is_that_of_the_libraries_too(logs: CapturedLogs, levels: Levels, timers: Timers) -> None:
    levels.change("root", "DEBUG", seconds=60, timers=timers)
    logging.getLogger("levels_library").debug("chatter")
    timers.advance(60)
    logging.getLogger("levels_library").debug("later")
    assert [line["event"] for line in logs.lines] == ["chatter", "log_level_reverted"]


# Through the management port


@pytest.fixture
async def port() -> AsyncIterator[httpx.AsyncClient]:
    app = management_app(Health(), {"service": "shop"}, token=lambda: SecretStr(TOKEN))
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Request-ID": "req-1"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop", headers=headers) as client:
        yield client


def asked(**fields: object) -> dict[str, object]:
    return {"logger": "levels_shop.till", "level": "DEBUG", "seconds": 60} | fields


async def test_a_level_is_changed_shown_and_written_down(logs: CapturedLogs, port: httpx.AsyncClient) -> None:
    assert (await port.get("/log-levels")).json() == {"level": "INFO", "changes": []}
    changed = await port.put("/log-levels", json=asked())
    assert (changed.status_code, changed.json()) == (
        200,
        {"logger": "levels_shop.till", "level": "DEBUG", "original": "NOTSET", "seconds_left": 60},
    )
    log.debug("looked")
    (shown,) = (await port.get("/log-levels")).json()["changes"]
    assert 59 < shown.pop("seconds_left") <= 60
    assert shown == {"logger": "levels_shop.till", "level": "DEBUG", "original": "NOTSET"}
    line = logs.one("management_changed")
    assert {name: line[name] for name in ("logger", "to", "original", "seconds", "client", "request_id")} == {
        "logger": "levels_shop.till",
        "to": "DEBUG",
        "original": "NOTSET",
        "seconds": 60,
        "client": "127.0.0.1",
        "request_id": "req-1",
    }
    assert line["by"].startswith("secret:")
    assert TOKEN not in logs.text
    assert logs.of("looked")
    chassis_logging.levels().revert("levels_shop.till")


async def test_whoever_changes_levels_cannot_silence_the_lines_that_say_so(
    logs: CapturedLogs, port: httpx.AsyncClient
) -> None:
    for name in ("root", "chassis"):
        assert (await port.put("/log-levels", json=asked(logger=name, level="CRITICAL"))).status_code == 200
    for name in ("chassis.process.management", "chassis.logging"):
        assert (await port.put("/log-levels", json=asked(logger=name, level="CRITICAL"))).status_code == 422
    for name in ("root", "chassis"):
        chassis_logging.levels().revert(name)
    assert len(logs.of("management_changed")) == 4
    assert len(logs.of("log_level_reverted")) == 2


async def test_the_loop_s_own_timer_reverts_it(logs: CapturedLogs, port: httpx.AsyncClient) -> None:
    await port.put("/log-levels", json=asked(seconds=1))

    async def has_reverted() -> bool:
        return bool(logs.of("log_level_reverted"))

    await eventually(has_reverted)
    log.debug("after")
    assert not logs.of("after")


@pytest.mark.parametrize("authorization", ["", "Bearer wrong"])
async def test_without_the_token_nothing_is_changed(port: httpx.AsyncClient, authorization: str) -> None:
    answer = await port.put("/log-levels", json=asked(), headers={"Authorization": authorization})
    assert answer.status_code == 401
    assert logging.getLogger("levels_shop.till").level == logging.NOTSET
    assert (await port.get("/log-levels", headers={"Authorization": authorization})).status_code == 200


@pytest.mark.parametrize(
    ("body", "code", "fields"),
    [
        (asked(seconds=0), "VALIDATION_FAILED", {"seconds"}),
        (asked(seconds=3601), "VALIDATION_FAILED", {"seconds"}),
        (asked(seconds="for ever"), "VALIDATION_FAILED", {"seconds"}),
        (asked(level="LOUD", seconds=0), "VALIDATION_FAILED", {"level", "seconds"}),
        (asked(logger=""), "VALIDATION_FAILED", {"logger"}),
        (asked(logger="levels_shop.tyll"), "VALIDATION_FAILED", {"logger"}),
        (asked(why="curious"), "VALIDATION_FAILED", {"why"}),
        ({}, "VALIDATION_FAILED", {"logger", "level", "seconds"}),
        ([], "VALIDATION_FAILED", {"body"}),
    ],
)
async def test_what_is_wrong_is_said_all_at_once_in_the_envelope(
    logs: CapturedLogs, port: httpx.AsyncClient, body: object, code: str, fields: set[str]
) -> None:
    answer = await port.put("/log-levels", json=body)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], {detail["field"] for detail in error["details"]}) == (code, fields)
    assert answer.json()["request_id"] == "req-1"
    assert logs.one("management_changed")["status"] == 422
    assert logging.getLogger("levels_shop.till").level == logging.NOTSET


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [(b"{", 400, "MALFORMED_REQUEST"), (b"\xff", 400, "MALFORMED_REQUEST"), (b" " * 2000, 413, "PAYLOAD_TOO_LARGE")],
)
async def test_a_body_that_is_none_is_refused(port: httpx.AsyncClient, content: bytes, status: int, code: str) -> None:
    answer = await port.put("/log-levels", content=content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_a_wrong_value_is_shown_back_without_its_secrets(port: httpx.AsyncClient) -> None:
    answer = await port.put("/log-levels", json=asked(level="4111111111111111"))
    assert answer.json()["error"]["details"][0]["received"] == "[redacted]"


async def test_what_an_unknown_field_holds_is_not_shown_back(port: httpx.AsyncClient) -> None:
    answer = await port.put("/log-levels", json=asked(pasword="hunter2"))
    (detail,) = answer.json()["error"]["details"]
    assert (detail["field"], detail.get("received")) == ("pasword", None)


async def test_another_method_is_told_of_both(port: httpx.AsyncClient) -> None:
    answer = await port.post("/log-levels")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD, PUT")


# DEBUG for one request


def test_a_signed_header_is_accepted_until_it_expires() -> None:
    header = sign(KEY, expires=NOW + 60)
    assert check_header(header, KEY, now=NOW) == "accepted"
    assert check_header(header, KEY, now=NOW + 59.9) == "accepted"
    assert check_header(header, KEY, now=NOW + 60) == "expired"


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "1",
        f"{NOW + 60}",
        f"{NOW + 60}.",
        sign("o" * 32, expires=NOW + 60),
        sign(KEY, expires=NOW + 60).replace(f"{NOW + 60}", f"{NOW + 61}"),
        sign(KEY, expires=NOW + 60)[:-1],
        sign(KEY, expires=NOW + 60) + "0",
        sign(KEY, expires=NOW + 60).upper(),
        f"+{sign(KEY, expires=NOW + 60)}",
        f"0{sign(KEY, expires=NOW + 60)}",
        "²." + "0" * 64,
        "9" * 5000,
        sign(KEY, expires=NOW + MAX_SECONDS + 1),
    ],
)
def test_any_other_header_is_invalid(value: str) -> None:
    assert check_header(value, KEY, now=NOW) == "invalid"


def test_without_a_key_no_header_is_valid() -> None:
    assert check_header(sign("", expires=NOW + 60), None, now=NOW) == "invalid"


@given(st.text(max_size=100))
def test_no_text_makes_the_check_fail(value: str) -> None:
    assert check_header(value, KEY, now=NOW) == "invalid"


def count(result: str) -> float:
    return REGISTRY.get_sample_value("log_debug_headers_total", {"result": result}) or 0


def test_inside_the_request_our_debug_lines_are_written_and_each_header_is_counted(logs: CapturedLogs) -> None:
    before = {result: count(result) for result in ("accepted", "expired", "invalid")}
    requests = DebugRequests(KEY, lambda: NOW)
    library = logging.getLogger("levels_library")
    for name, header in {
        "none": None,
        "accepted": sign(KEY, expires=NOW + 60),
        "expired": sign(KEY, expires=NOW - 1),
        "invalid": "guess",
    }.items():
        with requests.scope(header):
            log.debug("looked", header=name)
            library.debug("chatter")
            assert debug_header() == (header if name == "accepted" else None)
    log.debug("afterwards")
    assert [line["header"] for line in logs.lines] == ["accepted"]
    assert {result: count(result) - before[result] for result in before} == dict.fromkeys(before, 1)


async def test_a_request_beside_it_stays_as_quiet_as_before(logs: CapturedLogs) -> None:
    async def request(name: str, header: str | None) -> None:
        with debugging_for(header):
            await asyncio.sleep(0)
            log.debug("looked", name=name)

    header = sign(KEY, expires=int(time.time()) + 60)
    await asyncio.gather(request("loud", header), request("quiet", None))
    assert [line["name"] for line in logs.lines] == ["loud"]
