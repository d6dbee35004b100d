"""The demo's story, told once on the real platform, with Prometheus and a collector of spans looking on."""

from collections.abc import AsyncIterator

import pytest
import told
from holdfast_local.ports import free_port
from holdfast_local.settings import LocalSettings
from holdfast_local.state import remove_state
from story import Seen, told_story
from trace_collector import Collector


@pytest.fixture(scope="session")
async def seen(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Seen]:
    folder = tmp_path_factory.mktemp("story")
    collector = Collector()
    await collector.listen()
    ports = {name: free_port() for name in LocalSettings.model_fields if name.endswith("_port")}
    settings = LocalSettings(state=folder / "state", port_offset=0, postgres_durable=False).model_copy(update=ports)
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("HOLDFAST_TELEMETRY__OTLP_ENDPOINT", collector.url)
            async with told_story(settings, folder) as told:
                yield told
    finally:
        await collector.close()
        remove_state(settings.state)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if asked := len(told.with_results) + len(told.without):
        terminalreporter.write_line(
            f"{asked} expressions of panels and rules asked: {len(told.with_results)} had results, "
            f"{len(told.without)} are empty in a healthy run"
        )
