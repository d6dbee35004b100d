"""What the processes with a relay expose about the outbox, and what the others do not."""

import subprocess
import sys

from chassis.config.settings import DatabaseSettings, OutboxSettings
from chassis.events.relay import Relay
from chassis.pooling.wakeup import Wakeups
from prometheus_client import generate_latest
from redis.asyncio import Redis


def test_a_process_without_a_relay_exposes_no_leader() -> None:
    """A 0 would add up to a service without a leader, and page for a service that publishes nothing."""
    code = "import chassis.events.relay, prometheus_client as p; print(p.generate_latest().decode())"
    exposed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "# HELP outbox_is_leader" in exposed
    assert [line for line in exposed.splitlines() if line.startswith("outbox_")] == []


async def test_a_relay_that_waits_for_the_lead_exposes_that_it_does_not_lead(
    database_settings: DatabaseSettings, redis: Redis
) -> None:
    settings = database_settings.model_copy(update={"name": "waiting"})
    Relay(
        settings,
        redis,
        OutboxSettings(),
        service="orders",
        wakeups=Wakeups(database_settings, application_name="tests"),
    )
    assert 'outbox_is_leader{database="waiting"} 0.0' in generate_latest().decode()
