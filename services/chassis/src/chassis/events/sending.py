"""Publishes a batch of events to a Redis stream, with the script `outbox.lua`. The relay calls this module."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis

from chassis.errors import HoldfastError
from chassis.events.outbox import operation_seconds
from chassis.events.positions import Position
from chassis.pooling import names_of
from chassis.pooling.installation import ForeignPrefix

SCRIPT = Path(__file__).with_name("outbox.lua").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Sent:
    """The stream's last id, and the number of published events.

    `held_back_by` is the consumer group whose unread entries fill the stream, so that the relay publishes no further
    events. The value is '' if no group holds the relay back.
    """

    last_id: str
    count: int
    held_back_by: str


class Deposed(HoldfastError):
    """A later leader, which has a higher `term`, took over and published while this leader was cut off or suspended."""

    def __init__(self, stream: str, term: int) -> None:
        super().__init__(f"a leader of term {term} has published to {stream}")
        self.term = term


class Sender:
    """Publishes batches as the leader with the number `term`. `installation` is the id of the leader's database."""

    def __init__(self, redis: Redis, *, service: str, max_length: int) -> None:
        self.term = 0
        self.installation = ""
        self._names = names_of(redis)
        self._owner = self._names.owner(service)
        self._max_length = max_length
        self._publish = redis.register_script(SCRIPT)

    async def send(self, position: Position, events: Sequence[str]) -> Sent | None:
        """Publish the events. Returns None when Redis has lost entries of the stream.

        Raises `Deposed` if a later leader has published, and `ForeignPrefix` if another database uses the same key
        prefix.
        """
        names, stream = self._names, position.stream
        keys = [names.stream(stream), names.epoch(stream), names.term(stream), self._owner]
        state: list[str | int] = [position.epoch, position.last_id, self.term, self._max_length, self.installation]
        with operation_seconds.labels("send", stream).time():
            answer = await self._publish(keys=keys, args=[*state, *events])
        match answer:
            case [b"published", last_id, count, slowest]:
                return Sent(last_id.decode(), count, slowest.decode())
            case [b"forgotten"]:
                return None
            case [b"deposed", term]:
                raise Deposed(stream, term)
            case _:
                raise ForeignPrefix(names.prefix, self._owner, answer[1].decode())
