"""A worker of notifications has two job runners over one pool, and its settings leave connections for both."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from chassis.config import load
from chassis.errors import ConfigurationError
from notifications.settings import NotificationsSettings

DATABASE = {"NAME": "notifications", "USER": "app", "PASSWORD": "of-a-test"}


@pytest.fixture
def variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with what has no default, and no files."""
    monkeypatch.chdir(tmp_path)
    set_all(monkeypatch, {f"DATABASE__{name}": value for name, value in DATABASE.items()})
    return monkeypatch


def set_all(monkeypatch: pytest.MonkeyPatch, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"HOLDFAST_{name}", value)


def test_the_defaults_leave_connections_for_the_runner_of_deliveries(variables: pytest.MonkeyPatch) -> None:
    set_all(variables, {"JOBS__LEASE": "20"})  # another setting of that group
    settings = load(NotificationsSettings)
    assert (settings.jobs.lease, settings.jobs.concurrency, settings.database.pool_size) == (20, 7, 10)


@pytest.mark.parametrize(("mails", "pool", "fits"), [("8", "10", False), ("8", "11", True), ("17", "20", True)])
def test_more_mails_at_once_need_a_larger_pool(
    variables: pytest.MonkeyPatch, mails: str, pool: str, *, fits: bool
) -> None:
    set_all(variables, {"JOBS__CONCURRENCY": mails, "DATABASE__POOL_SIZE": pool})
    if fits:
        assert load(NotificationsSettings).jobs.concurrency == int(mails)
    else:
        with pytest.raises(ConfigurationError, match=r"jobs\.concurrency \+ 3 must be at most database\.pool_size"):
            load(NotificationsSettings)
