"""Each process dies at each point of an order's life, by SIGKILL; the others go on, its successor recovers, the oracle
judges. `make test-crash`; `ROUNDS=3 SEED=7` for more, `POINT="send_mail"` for some.
"""

import asyncio
import os
import re
from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest
from crash_stage import Act, CrashStage
from holdfast_local.chaos_client import Card
from points import POINTS, Point

SEED = os.environ.get("CRASH_SEED") or "1"
ROUNDS = int(os.environ.get("CRASH_ROUNDS") or 1)

_CARDS: Sequence[Card] = ("pm_card_ok", "pm_card_ok", "pm_card_declined", "pm_card_fails_later")
_HABITS = (
    {},
    {},
    {"latency_seconds": 0.2},
    {"answer_lost_rate": 0.3},
    {"webhook_duplicate_rate": 1.0, "webhook_reorder_rate": 0.5},
)
"""What the provider does wrong meanwhile, unless the scenario says so."""
_NOT_OF_AN_ORDER = re.compile(r".*prune")  # old records: no order waits for them


@pytest.mark.parametrize("number", range(1, ROUNDS + 1))
@pytest.mark.parametrize("point", POINTS, ids=str)
async def test_a_process_dies_here_and_every_order_ends_as_it_should(stage: CrashStage, point: Point, number: int):
    rng = Random(f"{SEED}:{number}:{point}")
    act = Act(stage=stage, program=point.program, point=point.name)
    mails_before = await stage.client.read_message_ids()
    await stage.provider(**rng.choice(_HABITS))
    stage.arm(point.program, point.name)
    async with asyncio.TaskGroup() as others:
        for _ in range(rng.randint(1, 2)):
            pause = rng.choice((None, 0.0, rng.uniform(0, 1)))
            others.create_task(_accompany(act, rng.choice(_CARDS), pause))
        await point.scenario(act)
        await act.death()
        await stage.heal()
    for order, status in act.orders.items():
        await stage.until_status(status, order)
    await stage.assert_sound()
    copies = Counter(await stage.client.read_message_ids()) - Counter(mails_before)
    most = 2 if point.program == "notifications-worker" else 1
    assert max(copies.values()) <= most, copies
    assert _strangers(stage.passed()) == set(), "points that have no name in points.py: nobody dies there"


async def _accompany(act: Act, card: Card, pause: float | None) -> None:
    """Somebody else's order at the same time, called off after a pause if there is one."""
    order = await act.buy(card)
    if pause is not None:
        await asyncio.sleep(pause)
        await act.call_off(order)


def _strangers(passed: set[str]) -> set[str]:
    known = {point.name for point in POINTS}
    return {name for name in passed - known if not _NOT_OF_AN_ORDER.match(name)}
