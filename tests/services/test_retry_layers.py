"""One layer retries: a failure that goes through all layers costs the provider the policy's attempts, and no more."""

import test_cancellation
from aiohttp import web
from chassis.errors import DependencyFailed
from harness import Answer, FakeServer
from test_cancellation import Together

service = test_cancellation.service
together = test_cancellation.together

POLICY = 3
"""`max_attempts` of the harness's dependencies."""


def failing(server: FakeServer, prefix: str) -> None:
    """From now on everything below `prefix` is answered 503."""
    usual: Answer | None = server.answer
    assert usual is not None

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503) if request.path.startswith(prefix) else await usual(request)

    server.answer = answer


def calls(server: FakeServer, path: str) -> list[str]:
    """The keys of the calls that arrived there."""
    return [asked.headers.get("Idempotency-Key", "") for asked in server.asked if asked.path == path]


async def test_a_provider_that_fails_is_called_as_often_as_the_policy_says_however_many_layers_are_above(
    together: Together, server: FakeServer
) -> None:
    failing(server, "/charges")
    row = await together.orders.row((await together.orders.placed())["id"])
    assert await together.request() is None
    for run in (1, 2):
        assert isinstance(await together.charge(), DependencyFailed)
        assert calls(server, "/charges") == [f"charge:{row.payment_id}"] * POLICY * run
    assert len(calls(server, "/v1/payments")) == 1


async def test_payments_that_fails_is_called_once_by_each_run_of_orders_job(
    together: Together, server: FakeServer
) -> None:
    failing(server, "/v1/payments")
    await together.orders.placed()
    for run in (1, 2):
        assert isinstance(await together.request(), DependencyFailed)
        assert len(calls(server, "/v1/payments")) == run
    assert calls(server, "/charges") == []
