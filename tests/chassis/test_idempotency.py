"""A repeated key gets the first answer and has no second effect, whatever happens in between."""

import asyncio
from contextlib import suppress

import pytest
from chassis.errors import ApiError, ErrorCode
from chassis.pooling import Database
from chassis.retries import idempotency
from chassis.retries.idempotency import IdempotencyKey, StoredAnswer, find_answer, idempotency_key, prune, store_answer
from sqlalchemy import text


def key_of(
    client: str, key: str | None, body: bytes = b"", *, method: str = "POST", path: str = "/v1/orders"
) -> IdempotencyKey:
    return idempotency_key(client, key, method=method, path=path, body=body)


KEY = key_of("acme", "order-1", b'{"amount": 1}')
ANSWER = StoredAnswer(201, b'{"id": "\xc3\xa9 \x00 as it was"}')


async def perform(database: Database, key: IdempotencyKey, answer: StoredAnswer) -> StoredAnswer:
    async with database.transaction() as session:
        if (stored := await find_answer(session, key)) is not None:
            return stored
        await store_answer(session, key, answer)
        return answer


async def test_the_second_request_gets_the_first_answer_byte_for_byte(database: Database) -> None:
    assert await perform(database, KEY, ANSWER) == ANSWER
    assert await perform(database, KEY, StoredAnswer(201, b"another")) == ANSWER


async def test_another_payload_under_the_same_key_is_refused(database: Database) -> None:
    await perform(database, KEY, ANSWER)
    with pytest.raises(ApiError) as refused:
        await perform(database, key_of("acme", "order-1", b'{"amount": 2}'), ANSWER)
    assert refused.value.code is ErrorCode.IDEMPOTENCY_KEY_REUSED


@pytest.mark.parametrize(
    "other",
    [
        key_of("acme", "order-1", b'{"amount": 1}', path="/v1/orders/7/cancel"),
        key_of("acme", "order-1", b'{"amount": 1}', method="PUT"),
        key_of("acme", "order-1", b'{"amount": "1"}'),
        key_of("acme", "order-1", b"{amount: 1}"),
    ],
)
async def test_another_route_under_the_same_key_is_refused(database: Database, other: IdempotencyKey) -> None:
    await perform(database, KEY, ANSWER)
    with pytest.raises(ApiError) as refused:
        await perform(database, other, ANSWER)
    assert refused.value.code is ErrorCode.IDEMPOTENCY_KEY_REUSED


def test_how_a_value_is_written_does_not_make_another_request_of_it() -> None:
    first = key_of("acme", "order-1", b'{"lines": [{"id": "rope", "quantity": 2}], "mail": "a@b.c"}')
    assert key_of("acme", "order-1", b'{"mail":"a@b.c","lines":[{"quantity":2,"id":"rope"}]}') == first


async def test_while_the_first_is_being_answered_the_second_is_told_to_come_back(database: Database) -> None:
    async with database.transaction() as first:
        assert await find_answer(first, KEY) is None
        with pytest.raises(ApiError) as refused:
            await perform(database, KEY, StoredAnswer(201, b"second"))
        assert refused.value.code is ErrorCode.IDEMPOTENCY_KEY_IN_PROGRESS
        assert refused.value.retry_after
        await store_answer(first, KEY, ANSWER)
    assert await perform(database, KEY, StoredAnswer(201, b"second")) == ANSWER


async def test_of_many_at_once_one_has_the_effect(database: Database) -> None:
    async def attempt(number: int) -> StoredAnswer | None:
        with suppress(ApiError):  # 409 to all but one
            return await perform(database, KEY, StoredAnswer(201, b"%d" % number))
        return None

    answers = {answer for answer in await asyncio.gather(*map(attempt, range(10))) if answer}
    assert len(answers) == 1
    assert await perform(database, KEY, ANSWER) in answers


async def test_a_key_whose_request_failed_may_be_used_again(database: Database) -> None:
    with suppress(LookupError):
        async with database.transaction() as session:
            assert await find_answer(session, KEY) is None
            await store_answer(session, KEY, ANSWER)
            raise LookupError
    other = StoredAnswer(422, b"refused")
    assert await perform(database, KEY, other) == other


async def test_a_key_belongs_to_its_client(database: Database) -> None:
    await perform(database, KEY, ANSWER)
    other = StoredAnswer(201, b"globex")
    assert await perform(database, key_of("globex", "order-1", b'{"amount": 1}'), other) == other


async def test_clients_cannot_hold_each_other_s_keys_by_how_they_are_joined(database: Database) -> None:
    async with database.transaction() as first:
        assert await find_answer(first, key_of("a", "bc", b"")) is None
        async with database.transaction() as second:
            assert await find_answer(second, key_of("ab", "c", b"")) is None


@pytest.mark.parametrize("header", [None, "", "k" * 256])
def test_a_key_that_is_missing_or_too_long_is_a_400(header: str | None) -> None:
    with pytest.raises(ApiError) as refused:
        key_of("acme", header)
    assert refused.value.code is ErrorCode.IDEMPOTENCY_KEY_MISSING


async def test_an_answer_is_forgotten_after_its_retention_and_not_before(database: Database) -> None:
    old, new = (key_of("acme", name, b"") for name in ("old", "new"))
    for key in (old, new):
        await perform(database, key, ANSWER)
    async with database.transaction() as session:
        await session.execute(
            text("UPDATE idempotency_record SET created_at = now() - interval '2 days' WHERE key = 'old'")
        )
    async with database.transaction() as session:
        await prune(session, retention=86_400)
        assert await find_answer(session, old) is None
        assert await find_answer(session, new) == ANSWER


async def test_however_many_are_old_all_are_forgotten(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "_PRUNE_BATCH", 2)
    for number in range(5):
        await perform(database, key_of("acme", str(number)), ANSWER)
    async with database.transaction() as session:
        await session.execute(text("UPDATE idempotency_record SET created_at = now() - interval '2 days'"))
        await prune(session, retention=86_400)
        assert await session.scalar(text("SELECT count(*) FROM idempotency_record")) == 0
