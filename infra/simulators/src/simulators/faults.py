"""Fault switches: typed, validated, kept over a restart, and seeded so that a run repeats.

The n-th decision about one switch depends on the seed, the switch and n alone. Requests that overtake one
another thus never change how many of them fail, nor does turning on a second fault change the first.
"""

import json
import sqlite3
from collections import Counter
from dataclasses import Field, asdict, dataclass, field, fields
from hashlib import sha256
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulators.answers import InvalidError, read_object

SCHEMA = "CREATE TABLE IF NOT EXISTS faults (id INTEGER PRIMARY KEY CHECK (id = 1), switches TEXT NOT NULL);"


def rate() -> float:
    """A share of cases, 0 to 1."""
    return number(0.0, low=0, high=1)


def number(default: float, *, low: float, high: float) -> float:
    value: float = field(default=default, metadata={"low": low, "high": high})
    return value


def whole(default: int, *, low: int, high: int) -> int:
    value: int = field(default=default, metadata={"low": low, "high": high})
    return value


@dataclass(frozen=True, kw_only=True)
class Switches:
    """What every simulator has. Subclasses add booleans, `rate()`s, `number()`s and `whole()`s."""

    seed: int = whole(0, low=0, high=2**32 - 1)


def validated(switch: Field[Any], value: object) -> bool | float:
    """The value when it has the switch's type and range; raises InvalidError naming the switch."""
    if isinstance(switch.default, bool):
        if not isinstance(value, bool):
            raise InvalidError(switch.name, "must be true or false")
        return value
    whole = isinstance(switch.default, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise InvalidError(switch.name, "must be a whole number" if whole else "must be a number")
    low, high = switch.metadata["low"], switch.metadata["high"]
    if not low <= value <= high:  # NaN, which Python's JSON admits, fails here too
        raise InvalidError(switch.name, f"must be between {low:g} and {high:g}")
    return value


class Switchboard[S: Switches]:
    """The switches in force, and the draws that depend on them."""

    def __init__(self, kind: type[S], database: sqlite3.Connection) -> None:
        self._kind = kind
        self._database = database
        self._draws: Counter[str] = Counter()
        row = database.execute("SELECT switches FROM faults").fetchone()
        self.on: S = self._parse(json.loads(row["switches"]) if row else {})

    def put(self, payload: dict[str, object]) -> None:
        """Replace all switches: what is left out goes back to its default. The draws start again."""
        switches = self._parse(payload)
        with self._database:
            self._database.execute(
                "INSERT INTO faults VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET switches = excluded.switches",
                (json.dumps(asdict(switches)),),
            )
        self.on = switches
        self._draws.clear()

    def draw(self, name: str) -> bool:
        """Whether the next case of the rate `name` is hit."""
        self._draws[name] += 1
        digest = sha256(f"{self.on.seed}:{name}:{self._draws[name]}".encode()).digest()
        share: float = getattr(self.on, name)
        return int.from_bytes(digest[:8]) / 2**64 < share

    def _parse(self, payload: dict[str, object]) -> S:
        known = {switch.name: switch for switch in fields(self._kind)}
        unknown = next((name for name in payload if name not in known), None)
        if unknown is not None:
            raise InvalidError(unknown, f"is no switch; there are {', '.join(known)}")
        values: dict[str, Any] = {name: validated(known[name], value) for name, value in payload.items()}
        return self._kind(**values)


def faults_route[S: Switches](board: Switchboard[S]) -> Route:
    """`GET`, `PUT` (replace) and `DELETE` (reset) /faults; each answers with the switches in force."""

    async def endpoint(request: Request) -> Response:
        match request.method:
            case "PUT":
                board.put(await read_object(request))
            case "DELETE":
                board.put({})
            case _:
                pass
        return JSONResponse(asdict(board.on))

    return Route("/faults", endpoint, methods=["GET", "PUT", "DELETE"])
