"""A feature flag is on for a share or for principals, is seen in logs and metrics, changes at run time, and expires."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import ClassVar

import pytest
from captured_logs import captured_logs
from chassis import telemetry
from chassis.config import Live, explain, load, load_live
from chassis.config.settings import DatabaseSettings, Flag, Flags, ServiceSettings, flag
from chassis.errors import ConfigurationError
from chassis.fast.otel_sampler import Sampler
from chassis.flags import includes, is_on
from chassis.logging import canonical_line
from chassis.process.reloading import reload
from chassis.process.running import identify
from expired_flags import expired
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from prometheus_client import REGISTRY

PROJECT = Path(__file__).parents[2]
FAR = date(9999, 12, 31)


class ShopFlags(Flags):
    new_prices: Flag = flag("Show the new prices.", owner="sales", until=FAR)
    old_mail: Flag = flag("Send the old mail.", owner="mail", until=date(2001, 2, 3))


class Settings(ServiceSettings):
    service_name: ClassVar[str] = "shop"
    flags: ShopFlags = ShopFlags()


def shop_flags(**given: object) -> ShopFlags:
    return ShopFlags.model_validate(given)


def with_share(share: float) -> Flag:
    return shop_flags(new_prices={"share": share}).new_prices


SUBJECTS = [f"customer-{number}" for number in range(10_000)]


def chosen(flag: Flag) -> set[str]:
    return {subject for subject in SUBJECTS if includes(flag, "nobody", subject)}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The service's file, without a flag in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_SERVICE_FILE", str(tmp_path / "config.yaml"))
    monkeypatch.setenv("HOLDFAST_DATABASE__PASSWORD", "of-a-test")
    configure(tmp_path / "config.yaml")
    return tmp_path / "config.yaml"


def configure(file: Path, flags: str = "") -> None:
    file.write_text(f"database: {{name: shop, user: shop_app}}\n{f'flags: {flags}' if flags else ''}\n")


# The decision


def test_a_flag_is_off_until_somebody_switches_it_on() -> None:
    assert chosen(ShopFlags().new_prices) == set()


def test_a_whole_share_is_everybody() -> None:
    assert chosen(with_share(1)) == set(SUBJECTS)


def test_a_share_is_about_that_share_of_the_subjects() -> None:
    assert 1_900 < len(chosen(with_share(0.2))) < 2_100


@given(st.floats(0, 1), st.floats(0, 1), st.text())
def test_a_larger_share_only_adds_subjects(one: float, other: float, subject: str) -> None:
    smaller, larger = sorted((one, other))
    assert includes(with_share(larger), "nobody", subject) >= includes(with_share(smaller), "nobody", subject)


def test_a_subject_keeps_its_answer_in_every_process_and_release() -> None:
    """A hash that differs between processes, as Python's own does, would give another list."""
    few = [subject for subject in SUBJECTS[:40] if includes(with_share(0.1), "nobody", subject)]
    assert few == ["customer-12", "customer-18", "customer-21", "customer-22"]


def test_two_flags_do_not_choose_the_same_subjects() -> None:
    flags = shop_flags(new_prices={"share": 0.1}, old_mail={"share": 0.1})
    both = chosen(flags.new_prices) & chosen(flags.old_mail)
    assert 50 < len(both) < 150  # a tenth of a tenth


def test_a_named_principal_has_the_flag_whatever_the_share_is() -> None:
    flag = shop_flags(new_prices={"principals": ["acme"]}).new_prices
    assert includes(flag, "acme", "any subject")
    assert not includes(flag, "globex", "any subject")


# Where it is seen


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    provider = TracerProvider()
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("test"))
    monkeypatch.setattr(telemetry, "_sampler", Sampler(1.0))
    yield
    provider.shutdown()


def evaluations(result: str) -> float:
    labels = {"flag": "new_prices", "result": result}
    return REGISTRY.get_sample_value("feature_flag_evaluations_total", labels) or 0.0


@pytest.mark.usefixtures("spans")
def test_the_canonical_line_the_span_and_a_metric_say_which_flag_was_on() -> None:
    flags, before = shop_flags(new_prices={"principals": ["acme"]}), evaluations("on")
    with canonical_line() as fields, telemetry.span("GET /products") as span:
        assert is_on(flags.new_prices, "acme")
        assert not is_on(flags.old_mail, "acme")
    assert (fields["flag_new_prices"], fields["flag_old_mail"]) == (True, False)
    assert isinstance(span, ReadableSpan)
    assert span.attributes == {"feature_flag.new_prices": True, "feature_flag.old_mail": False}
    assert evaluations("on") == before + 1


def test_the_default_subject_is_the_principal_and_a_finer_one_divides_its_requests() -> None:
    half = with_share(0.5)
    assert {is_on(half, "acme") for _ in range(20)} == {includes(half, "acme", "acme")}
    assert {is_on(half, "acme", subject=subject) for subject in SUBJECTS[:20]} == {True, False}


# How it is changed


async def test_a_flag_changes_while_the_process_runs(file: Path) -> None:
    live = load_live(Settings)
    assert not is_on(live.current.flags.new_prices, "acme")
    configure(file, "{new_prices: {share: 1}}")
    assert await reload(live) == {"applied"}
    assert is_on(live.current.flags.new_prices, "acme")
    configure(file)
    assert await reload(live) == {"applied"}
    assert not is_on(live.current.flags.new_prices, "acme")


def test_an_unknown_flag_is_an_error_that_names_it_and_its_neighbour(file: Path) -> None:
    configure(file, "{new_price: {share: 1}}")
    with pytest.raises(ConfigurationError) as refused:
        load(Settings)
    [problem] = refused.value.problems
    assert "HOLDFAST_FLAGS__NEW_PRICE" in problem
    assert "did you mean HOLDFAST_FLAGS__NEW_PRICES" in problem


@pytest.mark.usefixtures("file")
def test_an_unknown_flag_in_a_variable_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_FLAGS__NEW_PRICE__SHARE", "1")
    with pytest.raises(ConfigurationError, match="HOLDFAST_FLAGS__NEW_PRICE__SHARE: no such setting; did you mean"):
        load(Settings)


@pytest.mark.parametrize("wrong", ["{share: 50}", "{share: -0.1}", "true", "{principals: acme}", "{chance: 1}"])
def test_a_share_that_is_none_is_refused(file: Path, wrong: str) -> None:
    configure(file, f"{{new_prices: {wrong}}}")
    with pytest.raises(ConfigurationError, match="HOLDFAST_FLAGS__NEW_PRICES"):
        load(Settings)


# When it dies


def test_explain_shows_value_layer_owner_and_last_day(file: Path) -> None:
    configure(file, "{new_prices: {share: 0.5}}")
    found = {setting.name: setting for setting in explain(Settings)}
    share = found["flags.new_prices.share"]
    assert (share.value, share.layer) == ("0.5", "service file")
    assert share.flag is not None
    assert (share.flag.owner, share.flag.until) == ("sales", FAR)
    assert found["flags.new_prices.principals"].flag == share.flag
    assert found["http.port"].flag is None


def test_a_process_warns_of_an_expired_flag_when_it_starts(database_settings: DatabaseSettings) -> None:
    settings = Settings(database=database_settings)
    with captured_logs() as logs, identify(Live(settings), version="1", role="api"):
        line = logs.one("flag_expired")
    assert (line["level"], line["flag"], line["owner"], line["until"]) == ("warning", "old_mail", "mail", "2001-02-03")


def test_a_flag_lives_to_the_end_of_its_last_day() -> None:
    assert expired((Settings,), date(2001, 2, 3)) == []
    [line] = expired((Settings,), date(2001, 2, 4))
    assert line.startswith("shop: the flag old_mail of mail expired after 2001-02-03.")


@pytest.mark.parametrize(("today", "code"), [("2026-12-01", 0), ("9999-12-31", 1)])
def test_the_check_in_ci_takes_the_day_as_its_argument(today: str, code: int) -> None:
    check = [sys.executable, PROJECT / "docs" / "expired_flags.py", today]
    ended = subprocess.run(check, capture_output=True, text=True, check=False)
    assert ended.returncode == code, ended.stderr
    assert ("orders: the flag stored_payment_status of orders" in ended.stderr) == bool(code)


def test_a_flag_without_an_owner_and_a_date_is_no_flag() -> None:
    with pytest.raises(TypeError, match="with an owner and a date"):

        class Undated(Flags):
            forgotten: Flag = Flag()
