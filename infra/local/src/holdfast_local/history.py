"""What a run remembers outside of all its systems, for the oracle: what clients were answered, and what was cut short.

The lines are described in `oracle.history`. Each client here notes what it was answered; the runner notes the crashes.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from holdfast_local.private import private_file
from holdfast_local.supervisor import Change, Event

FILE = "history.jsonl"
_SENDERS = frozenset({"notifications-worker", "postgres", "mailbox", "customer-endpoint"})
"""When one of them crashes, what was sent may not have been recorded, and is sent again."""
_IN_ORDER = "exit 0,"


class History:
    """Appends to the file in the state folder; any process may, a line at a time. `interruptions` are those that this
    object has noted.
    """

    def __init__(self, state: Path) -> None:
        self.path = state / FILE
        self.interruptions = 0

    def note_answer(self, client: str, key: str | None, body: bytes) -> None:
        """A 2xx whose body is an order."""
        self._append({"client": client, "key": key, "order": json.loads(body)})

    def note_interruption(self, cause: str, since: datetime, until: datetime) -> None:
        self.interruptions += 1
        self._append({"interrupted": cause, "since": since.isoformat(), "until": until.isoformat()})

    def _append(self, line: object) -> None:
        with private_file(self.path, "ab") as file:
            file.write((json.dumps(line) + "\n").encode())


class CrashNotes:
    """Notes each crash of what sends mails or webhooks, or keeps the record of it, from its end until it is back."""

    def __init__(self, history: History, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._history = history
        self._clock = clock
        self._since: dict[str, tuple[datetime, str]] = {}

    def note(self, event: Event) -> None:
        """A process that has ended in order has recorded everything."""
        if event.program not in _SENDERS:
            return
        if event.change is Change.CRASHED and not event.detail.startswith(_IN_ORDER):
            self._since.setdefault(event.program, (self._clock(), event.detail.partition(",")[0]))
        elif event.change is Change.READY and event.program in self._since:
            since, detail = self._since.pop(event.program)
            self._history.note_interruption(f"{event.program}: {detail}", since, self._clock())
