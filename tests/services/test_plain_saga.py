"""What a whole order is measured against is no sketch: an order that a plain saga takes ends in its two mails."""

import aiohttp
import pytest
from holdfast_local.chaos_settings import passing_settings
from holdfast_local.platform import running_platform
from holdfast_local.settings import PROJECT


@pytest.mark.parametrize("name", ["plain, ORM", "plain, SQL", "plain, batches"])
async def test_an_order_goes_through_the_plain_saga_to_its_mails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROJECT / "loadtest/benchmarks/order"))
    from arms import ARMS
    from placing import place

    with passing_settings() as settings:
        arm = ARMS[name](settings)
        async with running_platform(settings, adapt=arm.adapt, wanted=arm.wanted) as platform:
            await place(platform, 1)
            async with (
                aiohttp.ClientSession() as client,
                client.get(platform.installation.url("mailbox") + "/messages") as answer,
            ):
                mails = await answer.json()
            assert not any(platform.restarts(program) for program in platform.supervisor.entries)
    assert sorted(mail["subject"] for mail in mails) == ["We have your order", "Your order is confirmed"]
    assert all("54.48 EUR" in mail["text"] for mail in mails)
