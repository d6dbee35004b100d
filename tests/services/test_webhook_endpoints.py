"""Customers' webhook endpoints: registered, changed, rotated and deleted by their client alone, at public addresses."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import httpx
import pytest
from customers import Json, Webhooks
from harness import OTHER_SHOP, count, execute, one, rows
from notifications import api
from notifications.settings import WebhookSettings
from overlapping import waits_or_is_done
from sqlalchemy import text

ALL_EVENTS = ["order.placed", "order.confirmed", "order.cancelled"]
ENDPOINTS = "webhook-endpoints"


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


async def post(webhooks: Webhooks, key: str = "k", **body: object) -> httpx.Response:
    return await webhooks.call("POST", ENDPOINTS, json={"url": webhooks.customer.url} | body, headers=keyed(key))


async def rotate(webhooks: Webhooks, endpoint: Json, key: str = "r") -> httpx.Response:
    return await webhooks.call("POST", f"{ENDPOINTS}/{endpoint['id']}/rotate-secret", headers=keyed(key))


async def a_hundred(ask: Callable[[], Awaitable[httpx.Response]]) -> list[httpx.Response]:
    """Twice as many at once as the pool has connections: more would wait too long for one where the machine is busy."""
    places = asyncio.Semaphore(20)

    async def ask_in_turn() -> httpx.Response:
        async with places:
            return await ask()

    return await asyncio.gather(*(ask_in_turn() for _ in range(100)))


async def test_a_new_endpoint_listens_to_everything_and_shows_its_secret_once(webhooks: Webhooks) -> None:
    created = await webhooks.create()
    secret = created.pop("secret")
    assert secret.startswith("whsec_")
    assert created.items() >= {"url": webhooks.customer.url, "events": ALL_EVENTS, "enabled": True}.items()
    assert (await webhooks.call("GET", f"{ENDPOINTS}/{created['id']}")).json() == created
    assert (await webhooks.call("GET", ENDPOINTS)).json() == {"items": [created]}


async def test_the_same_key_makes_one_endpoint_and_gets_the_same_answer(webhooks: Webhooks) -> None:
    answers = await a_hundred(lambda: post(webhooks))
    created = [answer for answer in answers if answer.status_code == 201]
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert (await post(webhooks)).json() == created[0].json()
    assert await count(webhooks.database, "webhook_endpoint") == 1
    assert (await post(webhooks, enabled=False)).json()["error"]["code"] == "IDEMPOTENCY_KEY_REUSED"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Sequence[str]]:
    """What the DNS knows, for a service that is started afterwards."""
    known: dict[str, Sequence[str]] = {}

    async def resolve(host: str, _port: int) -> Sequence[str]:
        return known.get(host, [])

    monkeypatch.setattr(api, "resolve", resolve)
    return known


async def test_the_first_answer_is_given_again_though_the_destination_would_be_refused_by_now(
    names: dict[str, Sequence[str]], webhooks: Webhooks
) -> None:
    names["shop.example"] = ["127.0.0.1"]
    first = await post(webhooks, url="https://shop.example/")
    names.clear()
    assert (await post(webhooks, "another", url="https://shop.example/")).status_code == 422
    again = await post(webhooks, url="https://shop.example/")
    assert (again.status_code, again.content) == (201, first.content)


async def test_without_a_key_nothing_is_made(webhooks: Webhooks) -> None:
    answer = await webhooks.call("POST", ENDPOINTS, json={"url": webhooks.customer.url})
    assert answer.json()["error"]["code"] == "IDEMPOTENCY_KEY_MISSING"
    assert await count(webhooks.database, "webhook_endpoint") == 0


async def test_a_client_has_no_more_endpoints_than_the_limit_however_it_asks(webhooks: Webhooks) -> None:
    limit = webhooks.settings.max_endpoints
    answers = await asyncio.gather(*(post(webhooks, f"key-{n}") for n in range(limit + 3)))
    assert sorted(answer.status_code for answer in answers) == [201] * limit + [409] * 3
    made = next(answer.json() for answer in answers if answer.status_code == 201)
    await webhooks.call("DELETE", f"{ENDPOINTS}/{made['id']}")
    assert (await post(webhooks, "another")).status_code == 201
    assert (await webhooks.create(client=OTHER_SHOP))["enabled"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.com/", "only https is allowed"),
        ("https://user:pass@example.com/", "it holds a user name or password"),
        ("https://example.com:22/", "port 22 is not allowed"),
        ("https://10.0.0.1/", "its address is private or reserved"),
        ("https://169.254.169.254/latest/meta-data", "its address is link-local"),
        ("https://[::ffff:10.0.0.1]/", "its address is private, reserved or wraps an IPv4 address"),
        ("https://no-such-name.invalid/", "its host has no public address"),
        ("https://0xa000001/", "its host has no public address"),
    ],
)
async def test_a_url_that_leads_where_it_must_not_is_refused_with_the_reason(
    webhooks: Webhooks, url: str, reason: str
) -> None:
    endpoint = await webhooks.create()
    changed = await webhooks.call("PATCH", f"{ENDPOINTS}/{endpoint['id']}", json={"url": url})
    for answer in (await post(webhooks, url=url), changed):
        assert answer.status_code == 422
        (detail,) = answer.json()["error"]["details"]
        assert (detail["field"], detail["message"]) == ("url", f"We cannot send there: {reason}.")
    assert (await webhooks.call("GET", ENDPOINTS)).json()["items"][0]["url"] == webhooks.customer.url
    assert await count(webhooks.database, "webhook_endpoint") == 1


def test_without_settings_only_https_at_public_addresses_is_allowed() -> None:
    egress = WebhookSettings().egress
    assert (egress.allow_insecure, egress.allowed_ports, egress.allowed_networks) == (False, (443,), ())


@pytest.mark.parametrize(
    "body",
    [
        {"events": []},
        {"events": ["order.lost"]},
        {"events": "order.placed"},
        {"url": ""},
        {"url": "https://example.com/" + "a" * 2048},
        {"secret": "whsec_mine"},
    ],
)
async def test_what_is_not_an_endpoint_is_refused(webhooks: Webhooks, body: Json) -> None:
    assert (await post(webhooks, **body)).status_code == 422


async def test_a_change_changes_what_is_given_and_nothing_else(webhooks: Webhooks) -> None:
    created = await webhooks.create()
    path = f"{ENDPOINTS}/{created['id']}"
    changed = (await webhooks.call("PATCH", path, json={"events": ["order.placed", "order.placed"]})).json()
    assert changed["events"] == ["order.placed"]
    kept = ("id", "url", "enabled", "disabled_reason", "created_at")
    assert {name: changed[name] for name in kept} == {name: created[name] for name in kept}
    assert changed["updated_at"] > created["updated_at"]
    assert (await webhooks.call("GET", path)).json() == changed
    assert (await webhooks.call("PATCH", path, json={"enabled": None})).json()["enabled"] is True


async def test_a_disabled_endpoint_gives_up_what_is_pending_and_is_told_nothing_more(webhooks: Webhooks) -> None:
    created = await webhooks.create()
    path = f"{ENDPOINTS}/{created['id']}"
    order_id = await webhooks.happen(1)
    assert (await webhooks.call("PATCH", path, json={"enabled": False})).json()["enabled"] is False
    await webhooks.happen(2, order_id=order_id)
    await webhooks.work()
    delivery = await webhooks.delivery()
    assert (delivery.status, delivery.reason) == ("disabled", "the endpoint was disabled")
    assert webhooks.customer.arrived == []
    await webhooks.call("PATCH", path, json={"enabled": True})
    await webhooks.happen(3, order_id=order_id)
    await webhooks.work()
    assert webhooks.customer.types == ["order.cancelled"]


async def test_a_deleted_endpoint_is_gone_with_its_secrets_and_its_deliveries_stay_listed(webhooks: Webhooks) -> None:
    created = await webhooks.create()
    await rotate(webhooks, created)
    await webhooks.happen(1)
    path = f"{ENDPOINTS}/{created['id']}"
    assert (await webhooks.call("DELETE", path)).status_code == 204
    await webhooks.happen(1)
    await webhooks.work()
    assert webhooks.customer.arrived == []
    row = await one(webhooks.database, "SELECT secret, old_secret FROM webhook_endpoint")
    assert tuple(row) == (None, None)
    for method in ("GET", "PATCH", "DELETE"):
        assert (await webhooks.call(method, path, json={} if method == "PATCH" else None)).status_code == 404
    (listed,) = (await webhooks.call("GET", "deliveries")).json()["items"]
    assert (listed["status"], listed["reason"]) == ("disabled", "the endpoint was deleted")


async def test_another_clients_endpoint_is_as_good_as_not_there(webhooks: Webhooks) -> None:
    created = await webhooks.create()
    before = await rows(webhooks.database, "SELECT * FROM webhook_endpoint")
    path = f"{ENDPOINTS}/{created['id']}"
    refused = [
        await webhooks.call("GET", path, client=OTHER_SHOP),
        await webhooks.call("PATCH", path, client=OTHER_SHOP, json={"enabled": False}),
        await webhooks.call("DELETE", path, client=OTHER_SHOP),
        await webhooks.call("POST", f"{path}/rotate-secret", client=OTHER_SHOP, headers=keyed("r")),
    ]
    assert [answer.status_code for answer in refused] == [404] * 4
    assert (await webhooks.call("GET", ENDPOINTS, client=OTHER_SHOP)).json() == {"items": []}
    assert await rows(webhooks.database, "SELECT * FROM webhook_endpoint") == before


async def test_after_a_rotation_both_secrets_sign_and_then_only_the_new_one(webhooks: Webhooks) -> None:
    created = await webhooks.create()
    answer = await rotate(webhooks, created)
    rotated = answer.json()
    assert rotated["id"] == created["id"]
    assert rotated["secret"] != created["secret"]
    assert (await rotate(webhooks, created)).content == answer.content
    await webhooks.happen(1)
    await webhooks.work()
    await execute(webhooks.database, "UPDATE webhook_endpoint SET old_secret_until = now()")
    await webhooks.happen(1)
    await webhooks.work()
    first, second = webhooks.customer.arrived
    assert first.verifies(rotated["secret"])
    assert first.verifies(created["secret"])
    assert second.verifies(rotated["secret"])
    assert not second.verifies(created["secret"])


async def test_of_a_hundred_rotations_with_one_key_one_happens(webhooks: Webhooks) -> None:
    created = await webhooks.create()
    answers = await a_hundred(lambda: rotate(webhooks, created))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len({answer.content for answer in answers if answer.status_code == 200}) == 1
    row = await one(webhooks.database, "SELECT secret, old_secret FROM webhook_endpoint")
    assert (row.secret, row.old_secret) == ((await rotate(webhooks, created)).json()["secret"], created["secret"])


async def test_while_a_rotation_is_in_progress_its_key_is_taken(webhooks: Webhooks) -> None:
    """Nobody waits for the endpoint's lock with a connection in hand."""
    created = await webhooks.create()
    async with webhooks.database.transaction() as session:
        await session.execute(text("SELECT FROM webhook_endpoint FOR UPDATE"))
        first = asyncio.create_task(rotate(webhooks, created))
        await waits_or_is_done(webhooks.database, first)
        second = await rotate(webhooks, created)
        assert (second.status_code, second.json()["error"]["code"]) == (409, "IDEMPOTENCY_KEY_IN_PROGRESS")
        assert not first.done()
    assert (await first).status_code == 200


async def test_no_key_shows_the_secrets_of_a_deleted_endpoint_or_makes_another_one(webhooks: Webhooks) -> None:
    created, kept = (await post(webhooks, "first")).json(), (await post(webhooks, "kept")).json()
    first = await rotate(webhooks, created)
    assert (await post(webhooks, "first")).json() == created
    await webhooks.call("DELETE", f"{ENDPOINTS}/{created['id']}")
    repeated = [await post(webhooks, "first"), await rotate(webhooks, created)]
    assert [answer.status_code for answer in repeated] == [404, 404]
    assert (await rotate(webhooks, created, "another")).status_code == 404
    assert (await post(webhooks, "kept")).json() == kept
    assert await count(webhooks.database, "webhook_endpoint WHERE deleted_at IS NULL") == 1
    (stored,) = await rows(webhooks.database, "SELECT string_agg(encode(body, 'escape'), '') FROM idempotency_record")
    assert created["secret"] not in stored[0]
    assert first.json()["secret"] not in stored[0]


async def test_a_rotation_without_a_key_changes_nothing(webhooks: Webhooks) -> None:
    created = await webhooks.create()
    answer = await webhooks.call("POST", f"{ENDPOINTS}/{created['id']}/rotate-secret")
    assert answer.json()["error"]["code"] == "IDEMPOTENCY_KEY_MISSING"
    assert (await one(webhooks.database, "SELECT secret FROM webhook_endpoint")).secret == created["secret"]
