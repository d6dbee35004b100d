"""JSON lines with the ids on each, nothing secret in any, libraries included, and levels that mean something."""

import asyncio
import io
import json
import logging
import re
import tracemalloc
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import pytest
from captured_logs import CapturedLogs, captured_logs
from chassis import telemetry
from chassis.config.settings import LogSettings
from chassis.logging import (
    add_to_canonical_line,
    bind,
    bind_to_task,
    canonical_line,
    get_logger,
    is_sensitive,
    put_on_canonical_line,
    redact,
    request_id_var,
)
from chassis.logging.redaction import MAX_TEXT
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import REGISTRY
from pydantic import SecretStr
from sqlalchemy import create_mock_engine

CARD = "4111111111111111"
NOT_A_CARD = "4111111111111112"

log = get_logger(__name__)


@pytest.fixture
def logs() -> Iterator[CapturedLogs]:
    with captured_logs(service="orders", version="1.2.3", environment="test") as found:
        yield found


@pytest.mark.parametrize(
    "secret",
    [
        CARD,
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "378282246310005",
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "Bearer abc.def-ghi",
        "authorization: bearer 0123456789abcdef",
        "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
        "0123456789abcdef" * 4,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
        "ada.o'neil+orders@mail.shop.example",
        "password=hunter2",
        "DB_PASSWORD = hunter2",
        "api-key: hunter2",
        '"secret": "hunter2"',
    ],
)
def test_a_secret_inside_a_text_is_redacted(secret: str) -> None:
    redacted = redact(f"before {secret} after")
    assert redacted.startswith("before ")
    assert redacted.replace('"', "").endswith("[redacted] after")
    assert secret.rpartition(" ")[2] not in redacted
    assert "hunter2" not in redacted


def test_the_credentials_of_a_url_are_redacted_and_its_host_is_not() -> None:
    assert redact("at postgresql://app:hunter2@db:5432/orders") == "at postgresql://[redacted]@db:5432/orders"
    assert redact("at redis://:hunter2@cache:6379") == "at redis://[redacted]@cache:6379"


@pytest.mark.parametrize(
    "harmless",
    [
        *(NOT_A_CARD, "0198f1a2-7d5e-7000-8000-411111111111", "41111111-1111-1111-0000-000000000000"),
        *("2026-07-01T12:00:00Z", "order 4111", "4" * 25, "4bf92f3577b34da6a3ce929d0e0e4736", f"{CARD}abc"),
        *("secret:4a9cc4a7", "tokens left: 3", "at 12:30", "a=b", "@decorated"),
        *(
            "1700000000004-0",
            "1700000000004-102",
            "1767225600123456781",
            "0000000000000000",
        ),  # ids of streams, and times
    ],
)
def test_what_only_looks_like_a_secret_is_written(harmless: str) -> None:
    assert redact(harmless) == harmless


def test_a_card_number_is_found_as_a_number_and_inside_an_object() -> None:
    assert redact({"card": int(CARD), "count": 3}) == {"card": "[redacted]", "count": 3}
    assert redact([ValueError(f"bad card {CARD}")]) == ["bad card [redacted]"]


@pytest.mark.parametrize(
    "text",
    ["a" * 100_000, "1 " * 50_000, "@" * 100_000, "a@" * 50_000, "a.b@" * 25_000, "://:" * 25_000, "token=" * 17_000],
)
def test_no_text_stays_long(text: str) -> None:
    assert len(redact(text)) < 2 * MAX_TEXT


def test_strangers_long_texts_are_not_remembered() -> None:
    tracemalloc.start()
    try:
        for n in range(200):
            redact(f"{n} " + "\N{ROCKET}" * 10_000)  # 8 MB in all
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_text_without_end_is_cut_in_its_middle() -> None:
    written = redact(f"begin {'x' * 100_000} end")
    assert written.startswith("begin xxx")
    assert written.endswith("xxx end")
    assert f"[{100_010 - MAX_TEXT} characters cut]" in written


@given(st.text() | st.dictionaries(st.text(), st.text()) | st.integers() | st.binary())
def test_redaction_never_fails(value: object) -> None:
    redact(value)


@given(st.text(max_size=50), st.text(max_size=50))
def test_a_card_number_is_found_in_any_surrounding(before: str, after: str) -> None:
    assert CARD not in redact(f"{before} {CARD} {after}")
    assert CARD not in redact(f"{before}_{CARD}_{after}")


def test_a_number_beside_a_card_number_does_not_hide_it_and_is_written() -> None:
    assert redact(f"card {CARD} 200 EUR") == "card [redacted] 200 EUR"
    assert redact("4111 1111 1111 1111-12/27") == "[redacted]-12/27"
    assert redact(f"7 {CARD} {CARD}") == "7 [redacted] [redacted]"


@pytest.mark.parametrize(
    "name",
    [
        *("password", "db_password", "X-Api-Key", "apiKey", "clientSecret", "webhook_secrets", "Authorization"),
        *("Set-Cookie", "card_number", "card.cvc", "items.0.cardNumber", "access_token", "signing_key"),
    ],
)
def test_a_sensitive_name_is_recognised_however_it_is_spelt(name: str) -> None:
    assert is_sensitive(name)
    assert redact({name: "hunter2"}) == {name: "[redacted]"}


@pytest.mark.parametrize("name", ["order_id", "idempotency_key", "tokens_left", "amount", "company", "status"])
def test_ordinary_names_are_not_sensitive(name: str) -> None:
    assert not is_sensitive(name)


def test_redaction_reaches_nested_values_and_names() -> None:
    assert redact({"seen": {CARD: 1}}) == {"seen": {"[redacted]": 1}}
    nested = {"headers": [{"authorization": "Bearer x"}], "body": {"deep": ({"password": "hunter2"}, f"pan={CARD}")}}
    written = str(redact(nested))
    assert "hunter2" not in written
    assert CARD not in written
    assert "Bearer x" not in written


def test_a_line_has_the_event_the_values_and_who_wrote_it(logs: CapturedLogs) -> None:
    log.info("order_placed", order_id=UUID(int=1), amount=2350)
    line = logs.one("order_placed")
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "order_placed",
        "level": "info",
        "severity_number": 9,
        "logger_name": __name__,
        "order_id": str(UUID(int=1)),
        "amount": 2350,
        "service": "orders",
        "version": "1.2.3",
        "environment": "test",
    }


def test_the_ids_of_the_request_its_trace_and_what_was_bound_stand_on_each_line(
    logs: CapturedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "_tracer", TracerProvider().get_tracer("test"))
    token = request_id_var.set("req-1")
    with telemetry.span("work") as span, bind(job="ship"):
        log.info("ours")
        logging.getLogger("library").warning("theirs")
        context = span.get_span_context()
    request_id_var.reset(token)
    for line in logs.lines:
        assert line["request_id"] == "req-1"
        assert line["trace_id"] == format(context.trace_id, "032x")
        assert line["span_id"] == format(context.span_id, "016x")
        assert line["job"] == "ship"
    log.info("later")
    assert not {"request_id", "trace_id", "span_id", "job"} & logs.one("later").keys()


async def test_what_a_block_or_a_task_binds_ends_with_it(logs: CapturedLogs) -> None:
    async def work() -> None:
        bind_to_task(job="ship", attempt=1)
        with bind(attempt=2):
            log.info("inside")
        log.info("behind")

    with bind(schedule="nightly"):
        await asyncio.create_task(work())
    log.info("outside")
    shown = [{name: line.get(name) for name in ("schedule", "job", "attempt")} for line in logs.lines]
    assert shown == [
        {"schedule": "nightly", "job": "ship", "attempt": 2},
        {"schedule": "nightly", "job": "ship", "attempt": 1},
        {"schedule": None, "job": None, "attempt": None},
    ]


def test_a_line_says_in_utc_and_microseconds_when_it_was_written(logs: CapturedLogs) -> None:
    before = datetime.now(UTC)
    log.info("order_placed")
    (line,) = logs.lines
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"])
    assert before <= datetime.fromisoformat(line["timestamp"]) <= datetime.now(UTC)


def test_severity_numbers_are_those_of_opentelemetry(logs: CapturedLogs) -> None:
    for level in ("info", "warning", "error", "critical"):
        getattr(log, level)("happened")
    assert [line["severity_number"] for line in logs.lines] == [9, 13, 17, 21]


def test_lines_below_the_level_are_not_written_and_lines_are_counted() -> None:
    def count() -> float:
        return REGISTRY.get_sample_value("log_events_total", {"level": "warning"}) or 0

    before = count()
    with captured_logs(LogSettings(level="WARNING")) as logs:
        log.debug("looked")
        log.info("placed")
        log.warning("recovered")
        logging.getLogger("library").info("chatter")
    assert [line["event"] for line in logs.lines] == ["recovered"]
    assert count() == before + 1


def test_debug_shows_our_own_details_but_not_every_library_s() -> None:
    with captured_logs(LogSettings(level="DEBUG")) as logs:
        log.debug("cache_missed")
        logging.getLogger("library").debug("chatter")
    assert [line["event"] for line in logs.lines] == ["cache_missed"]


async def test_an_exception_is_written_with_its_traceback_and_without_its_secrets(logs: CapturedLogs) -> None:
    async def charge() -> None:
        raise ConnectionError(f"card {CARD} at https://user:hunter2@bank with Bearer s3cr3t")

    try:
        await charge()
    except ConnectionError:
        log.exception("charge_failed")
    line = logs.one("charge_failed")
    assert line["level"] == "error"
    assert "Traceback (most recent call last)" in line["exception"]
    assert "ConnectionError: card [redacted] at https://[redacted]@bank with [redacted]" in line["exception"]


def test_secrets_do_not_reach_a_line_by_any_way(logs: CapturedLogs) -> None:
    log.warning(CARD, password="hunter2", url="redis://:hunter2@cache", reason=ValueError(CARD))
    log.warning("bound", body={"cvc": "123", "note": f"card {CARD}"}, key=SecretStr("hunter2"))
    with bind(api_key="hunter2"):
        log.warning("contextual")
    logging.getLogger("library").error("sent %s to https://a:hunter2@b", CARD)
    assert len(logs.lines) == 4
    assert CARD not in logs.text
    assert "hunter2" not in logs.text


def test_nobody_s_input_starts_a_line_of_its_own(logs: CapturedLogs) -> None:
    log.info("searched", query='x\n{"event":"order_refunded"}\r\x1b[2J\x00')
    assert logs.text.count("\n") == 1
    assert not set(logs.text[:-1]) & {"\n", "\r", "\x1b", "\x00"}


@pytest.mark.parametrize("character", ["\x7f", "\x85", "\x9b", "\u2028", "\u2029", "\u202e", "\u2066", "\u061c"])
def test_characters_that_json_leaves_alone_and_viewers_obey_are_escaped(logs: CapturedLogs, character: str) -> None:
    log.info("searched", query=f"before{character}after")
    assert character not in logs.text
    assert logs.one("searched")["query"] == f"before{character}after"


def test_plain_logging_lets_input_forge_a_line_and_writes_the_card() -> None:
    """The version that goes wrong."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    plain = logging.getLogger("plain")
    plain.addHandler(handler)
    plain.setLevel(logging.INFO)
    plain.propagate = False
    plain.info("charged %s for %s", CARD, "ada\nINFO refunded 4711")
    assert written.getvalue().splitlines() == [f"INFO charged {CARD} for ada", "INFO refunded 4711"]


def test_nobody_s_input_steers_a_terminal() -> None:
    with captured_logs(LogSettings(format="console")) as logs:
        log.info("searched", query="\x1b[2Jx\nspoofed")
        logging.getLogger("library").warning("got \x1b[2J\nspoofed")
        log.error("failed", exc_info=ValueError("\x1b[2J"))
    assert "searched" in logs.text
    assert "\x1b[2J" not in logs.text
    assert "ValueError" in logs.text
    assert [line for line in logs.text.splitlines() if line.startswith("spoofed")] == []


def test_a_pipe_gets_json_and_a_terminal_what_people_read() -> None:
    with captured_logs() as piped:
        log.info("started")
    assert json.loads(piped.text)["event"] == "started"
    with captured_logs(is_terminal=True) as shown:
        log.info("started")
    assert "started" in shown.text
    with pytest.raises(json.JSONDecodeError):
        json.loads(shown.text)


def test_a_value_that_is_not_json_is_written_all_the_same(logs: CapturedLogs) -> None:
    log.info("received", text="half a pair \ud800", number=2**80, thing=object(), mapping={1: "one"})
    assert logs.one("received")["number"] == 2**80


def test_a_value_that_cannot_be_shown_does_not_end_what_wrote_it(logs: CapturedLogs) -> None:
    class Broken:
        def __str__(self) -> str:
            raise LookupError("lost")

    log.info("received", thing=Broken())
    assert logs.one("received")["thing"] == "<Broken>"


@pytest.mark.parametrize("name", ["uvicorn.error", "sqlalchemy.pool", "asyncio", "aiohttp.client", "redis"])
def test_a_library_s_warning_is_a_line_like_ours(logs: CapturedLogs, name: str) -> None:
    logging.getLogger(name).warning("something about %s", "it")
    line = logs.one("something about it")
    assert (line["logger_name"], line["level"], line["service"]) == (name, "warning", "orders")


def test_chatter_of_libraries_is_left_out(logs: CapturedLogs) -> None:
    logging.getLogger("uvicorn.access").info("GET /")
    logging.getLogger("uvicorn.error").info("Started server process")
    create_mock_engine("postgresql://", lambda *_: None)
    logging.getLogger("sqlalchemy.engine.Engine").info("SELECT 1")
    assert logs.lines == []


def test_python_s_warnings_are_lines_too(logs: CapturedLogs) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        logging.captureWarnings(capture=True)
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    assert any("old ways" in line["event"] and line["logger_name"] == "py.warnings" for line in logs.lines)


def test_a_level_of_a_library_s_own_is_the_next_lower_one_of_ours(logs: CapturedLogs) -> None:
    logging.getLogger("library").log(25, "between")
    assert logs.one("between")["level"] == "info"


async def test_a_failed_task_nobody_waited_for_is_logged_with_its_traceback(logs: CapturedLogs) -> None:
    asyncio.get_running_loop().call_exception_handler({"message": "lost task", "exception": LookupError("why")})
    line = next(line for line in logs.lines if line["logger_name"] == "asyncio")
    assert line["level"] == "error"
    assert "LookupError: why" in line["exception"]


async def test_the_canonical_line_collects_what_its_own_request_did() -> None:
    async def request(name: str, hits: int) -> dict[str, object]:
        with canonical_line() as fields:
            for _ in range(hits):
                await asyncio.sleep(0)
                add_to_canonical_line(cache_hits=1, db_ms=0.1)
            put_on_canonical_line(name=name)
        return fields

    first, second = await asyncio.gather(request("a", 3), request("b", 1))
    own = ("cache_hits", "db_ms", "name")  # beside what stands on every line of this process
    assert [first[name] for name in own] == [3, 0.3, "a"]
    assert [second[name] for name in own] == [1, 0.1, "b"]
    add_to_canonical_line(cache_hits=1)  # outside: nobody's, and no error
