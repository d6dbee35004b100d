"""The part of the protocol's model that is about outbox, streams and inbox: it holds, and each mistake in it is caught.

The whole takes a minute: `make model`.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

_PATH = Path(__file__).parents[2] / "docs" / "reference" / "protocol_model.py"


@pytest.fixture(scope="module")
def model() -> ModuleType:
    spec = importlib.util.spec_from_file_location("protocol_model", _PATH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_an_event_has_its_effect_once_and_in_order_whatever_the_relay_repeats_and_redis_forgets(
    model: ModuleType,
) -> None:
    found = model.explore(model.NotifyModel(deep=False))
    assert found.problem is None
    assert found.states > 10_000


@pytest.mark.parametrize("mistake", ["publish_before_commit", "mark_before_publish", "no_republish", "skip_gap"])
def test_a_mistake_between_outbox_and_inbox_is_caught(model: ModuleType, mistake: str) -> None:
    assert model.explore(model.MISTAKES[mistake](mistake)).problem is not None
