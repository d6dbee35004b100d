"""How the platform as a whole stands: what is unfinished, put off or dead, and marks by which a change is seen.

It is cheap to read, however many orders there are: the databases count, and only what is unfinished is fetched.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from oracle.databases import Database, Snapshots, arrived, dead_events
from oracle.findings import Finding, Offender, counted, plural
from oracle.rows import Event
from oracle.terms import Terms

MOST = 10_000
"""Rows of one kind that are fetched: a platform on which more is stuck has a verdict without the rest."""
LONGEST_WAIT = timedelta(hours=30)
"""What is due later never comes. The longest wait is a webhook's last: a day, and a fifth of it at random."""

_OPEN = {"order", "payment", "mail"}


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """Something unfinished: `age` and `limit` in seconds. Over its limit it is stuck."""

    what: str
    id: str
    age: float
    limit: float

    @property
    def is_stuck(self) -> bool:
        return self.age > self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """`marks` are equal in two looks when nothing has happened between them that an invariant can see."""

    under_way: tuple[UnderWay, ...]
    put_off: tuple[Offender, ...]
    dead: tuple[Offender, ...]
    marks: Mapping[str, object]


type _Unfinished = tuple[str, str, str]
"""What it is, of which service, and the query for its id and the time since when it is unfinished."""

_EVERYWHERE: tuple[tuple[str, str], ...] = (
    (
        "job",
        (
            "SELECT name || ' ' || id AS id, run_at AS since FROM job"
            " WHERE status = 'running' OR (status = 'ready' AND run_at <= now())"
        ),
    ),
    ("unpublished event", "SELECT event_id::text AS id, occurred_at AS since FROM outbox WHERE published_at IS NULL"),
    ("held event", "SELECT event_id::text AS id, received_at AS since FROM inbox WHERE status = 'held'"),
)
_OF_SERVICE: tuple[_Unfinished, ...] = (
    (
        "order",
        "orders",
        "SELECT id::text, updated_at AS since FROM orders WHERE status IN ('pending', 'cancelling')",
    ),
    (
        "payment",
        "payments",
        "SELECT id::text, created_at AS since FROM payment WHERE status IN ('created', 'submitting', 'submitted')",
    ),
    ("mail", "notifications", "SELECT event_id::text AS id, created_at AS since FROM mail WHERE status = 'pending'"),
    (
        # The first of each endpoint's queue, when it is due or soon will be. One that waits longer waits for its
        # customer, and others wait for it: nothing changes meanwhile.
        "webhook",
        "notifications",
        (
            "SELECT id::text, next_attempt_at AS since FROM ("
            " SELECT DISTINCT ON (endpoint_id) id, next_attempt_at FROM webhook_delivery WHERE status = 'pending'"
            " ORDER BY endpoint_id, sequence) AS first WHERE next_attempt_at < now() + make_interval(secs => 30)"
        ),
    ),
    (
        "provider event",
        "webhook-ingest",
        "SELECT event_id AS id, received_at AS since FROM provider_event WHERE status = 'stored'",
    ),
)
_ON_ITS_WAY = """
    SELECT event_id::text, stream, type, aggregate_id, aggregate_version, occurred_at, published_at
    FROM outbox WHERE published_at > now() - make_interval(secs => $1)
"""
_PUT_OFF = """
    SELECT 'job ' || name || ' ' || id AS id, run_at AS due FROM job WHERE status = 'ready' AND run_at > $1
    UNION ALL SELECT 'schedule ' || name, next_at FROM schedule WHERE next_at > $1
"""
_DELIVERIES_PUT_OFF = """
    SELECT id::text, next_attempt_at AS due FROM webhook_delivery WHERE status = 'pending' AND next_attempt_at > $1
"""
_DEAD_JOBS = "SELECT id, name, attempt FROM job WHERE status = 'dead' ORDER BY job.id"
_DEAD_EVENTS = "SELECT id, reason FROM dead_event ORDER BY dead_event.id"
_DEAD_PROVIDER_EVENTS = "SELECT event_id FROM provider_event WHERE status = 'dead' ORDER BY id"
_DEAD_MAILS = "SELECT event_id::text FROM mail WHERE status = 'dead' ORDER BY id"
_MARKS = """
    SELECT (SELECT (max(seq), count(*))::text FROM outbox), (SELECT count(*)::text FROM inbox),
        (SELECT count(*)::text FROM job WHERE status = 'dead')
"""
_MARKS_OF_SERVICE: Mapping[str, str] = {
    "orders": "SELECT (count(*), sum(version), max(updated_at))::text FROM orders",
    "payments": (
        "SELECT (count(*), sum(version), max(updated_at), (SELECT count(*) FROM charge_attempt),"
        " (SELECT (count(*), max(updated_at)) FROM refund))::text FROM payment"
    ),
    "notifications": (
        "SELECT (count(*), max(settled_at), (SELECT (count(*), sum(attempts), max(settled_at))"
        " FROM webhook_delivery), (SELECT (count(*), max(updated_at)) FROM webhook_endpoint))::text FROM mail"
    ),
    "webhook-ingest": "SELECT (count(*), count(*) FILTER (WHERE status = 'published'))::text FROM provider_event",
}


async def look(databases: Snapshots, totals: Mapping[str, int], terms: Terms) -> Standing:
    """`totals` is how much there is outside. Raises `NoVerdict` when something cannot be read."""
    under_way = [item async for item in _under_way(databases, terms)]
    put_off, dead = list[Offender](), list[Offender]()
    marks: dict[str, object] = {"outside": totals}
    for service, database in databases.items():
        put_off += [offender async for offender in _put_off(database, service)]
        dead += [offender async for offender in _dead(database, service)]
        [row] = await database.fetch(_MARKS)
        marks[service] = (tuple(row), await database.fetchval(_MARKS_OF_SERVICE[service]))
    return Standing(under_way=tuple(under_way), put_off=tuple(put_off), dead=tuple(dead), marks=marks)


async def _under_way(databases: Snapshots, terms: Terms) -> AsyncIterator[UnderWay]:
    """Everything unfinished. A job that waits for its next attempt is not: what it is about is, and is here."""
    limits = dict.fromkeys(_OPEN, terms.open_after) | {"held event": terms.held_after}
    queries = [(what, service, query) for service in databases for what, query in _EVERYWHERE]
    for what, service, query in (*queries, *_OF_SERVICE):
        limited = f"SELECT *, now() FROM ({query}) AS unfinished LIMIT {MOST}"  # noqa: S608  our own queries
        for row in await databases[service].fetch(limited):
            age = max(0.0, (row["now"] - row["since"]).total_seconds())
            name = f"{service} {row['id']}" if what == "job" else row["id"]
            yield UnderWay(what=what, id=name, age=age, limit=limits.get(what, terms.stuck_after))
    buried = await dead_events(databases)
    for database in databases.values():
        events = [Event(**row, payload={}) for row in await database.fetch(_ON_ITS_WAY, terms.stuck_after)]
        there = buried | await arrived(databases, events)
        for event in events:
            if event.event_id not in there:
                yield UnderWay(what="undelivered event", id=event.event_id, age=0.0, limit=terms.stuck_after)


async def _put_off(database: Database, service: str) -> AsyncIterator[Offender]:
    now: datetime = await database.fetchval("SELECT now()")
    queries = [_PUT_OFF, *([_DELIVERIES_PUT_OFF] if service == "notifications" else [])]
    for query in queries:
        for row in await database.fetch(f"{query} LIMIT {MOST}", now + LONGEST_WAIT):
            name = row["id"] if query is _DELIVERIES_PUT_OFF else f"{service} {row['id']}"
            yield Offender(name, f"is not due before {row['due']:%Y-%m-%d %H:%M}")


async def _dead(database: Database, service: str) -> AsyncIterator[Offender]:
    for row in await database.fetch(f"{_DEAD_JOBS} LIMIT {MOST}"):
        yield Offender(f"{service} job {row['id']}", f"{row['name']} is dead after {plural(row['attempt'], 'attempt')}")
    for row in await database.fetch(f"{_DEAD_EVENTS} LIMIT {MOST}"):
        yield Offender(f"{service} dead event {row['id']}", row["reason"])
    if service == "webhook-ingest":
        for row in await database.fetch(f"{_DEAD_PROVIDER_EVENTS} LIMIT {MOST}"):
            yield Offender(row["event_id"], "dead provider event")
    if service == "notifications":
        for row in await database.fetch(f"{_DEAD_MAILS} LIMIT {MOST}"):
            yield Offender(row["event_id"], "dead mail")


def judge_standing(standing: Standing, terms: Terms) -> Iterator[Finding]:
    """The invariants about the platform as a whole; they hold at every moment."""
    yield _unfinished("nothing is stuck", (item for item in standing.under_way if item.what not in _OPEN))
    open_ones = (item for item in standing.under_way if item.what in _OPEN)
    yield _unfinished("no order, payment or mail is left open", open_ones)
    put_off = Finding(
        "nothing is put off for ever",
        f"{len(standing.put_off)} due in more than {LONGEST_WAIT // timedelta(hours=1)} h",
    )
    put_off.add(standing.put_off)
    yield put_off
    allowed = " (allowed)" if terms.allow_dead else ""
    dead = Finding("no dead letters", plural(len(standing.dead), "dead letter") + allowed)
    dead.add(() if terms.allow_dead else standing.dead)
    yield dead


def _unfinished(name: str, items: Iterable[UnderWay]) -> Finding:
    unfinished = list(items)
    finding = Finding(name, f"{tally(unfinished)} under way")
    finding.add(
        Offender(item.id, f"{item.what}, for {item.age:.0f} s; at most {item.limit:.0f} s are allowed")
        for item in unfinished
        if item.is_stuck
    )
    return finding


def tally(items: Iterable[UnderWay]) -> str:
    """`2 jobs, 1 order`; `nothing` when there is nothing."""
    counts = Counter(item.what for item in items)
    return counted(counts, list(counts)) or "nothing"
