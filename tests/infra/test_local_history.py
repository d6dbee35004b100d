"""What a run remembers for the oracle: answers, and what may have made a mail be sent again."""

import json
import os
from datetime import UTC, datetime, timedelta

import pytest
from holdfast_local import platform
from holdfast_local.history import FILE, CrashNotes, History
from holdfast_local.runs import RunRecord, record_of
from holdfast_local.supervisor import Change, Event
from oracle.history import read_answers, read_interruptions
from oracle.terms import SENDING, Interruption, unexcused

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def interruption(since: float, until: float | None = None) -> Interruption:
    return Interruption(since=NOW + since * SECOND, until=NOW + (since if until is None else until) * SECOND, cause="x")


@pytest.mark.parametrize(
    ("arrivals", "interruptions", "number"),
    [
        ([0], [], 0),
        ([0, 1], [], 1),
        ([0, 1], [interruption(0.5)], 0),
        ([0, 1, 2], [interruption(0.5)], 1),
        ([0, 1, 2], [interruption(0.5), interruption(1.5)], 0),
        ([0, 100], [interruption(50)], 1),
        ([0, 100], [interruption(SENDING.total_seconds())], 0),
        ([50, 51], [interruption(0, 60)], 0),
        ([50, 51, 52], [interruption(0, 60)], 1),
        ([0, 1], [interruption(2)], 1),
    ],
)
def test_an_interruption_excuses_one_copy_of_a_mail_that_was_being_sent(arrivals, interruptions, number):
    assert unexcused([NOW + second * SECOND for second in arrivals], interruptions) == number


def test_answers_and_interruptions_are_read_as_they_were_noted(tmp_path):
    history = History(tmp_path)
    order = {"id": "o", "status": "pending", "amount": 5, "currency": "EUR"}
    history.note_answer("acme", "k", json.dumps(order).encode())
    history.note_interruption("SIGKILL", NOW, NOW + SECOND)
    [answer] = read_answers(history.path)
    assert (answer.client, answer.key, answer.order_id, answer.lines) == ("acme", "k", "o", None)
    assert read_interruptions(history.path) == (Interruption(since=NOW, until=NOW + SECOND, cause="SIGKILL"),)


@pytest.mark.parametrize(
    ("program", "detail", "number"),
    [
        ("notifications-worker", "exit -9, starts again in 0.2 s", 1),
        ("postgres", "exit -9, starts again in 0.2 s", 1),
        ("notifications-worker", "exit 0, starts again in 0.2 s", 0),  # SIGTERM: all that was begun was recorded
        ("payments-worker", "exit -9, starts again in 0.2 s", 0),
    ],
)
def test_a_crash_of_what_sends_is_noted_until_it_is_back(tmp_path, program, detail, number):
    history = History(tmp_path)
    times = iter((NOW, NOW + SECOND))
    notes = CrashNotes(history, clock=lambda: next(times))
    for change in (Change.READY, Change.CRASHED, Change.READY):
        notes.note(Event(program=program, change=change, pid=1, detail=detail if change is Change.CRASHED else ""))
    assert history.interruptions == number
    if number:
        [noted] = read_interruptions(history.path)
        assert (noted.since, noted.until, noted.cause) == (NOW, NOW + SECOND, f"{program}: exit -9")


@pytest.mark.parametrize(("is_alive", "number"), [(False, 1), (True, 0)])
def test_a_runner_that_was_killed_may_have_interrupted_whatever_was_sent(tmp_path, is_alive, number):
    ourselves = record_of(os.getpid())
    assert ourselves is not None
    runner = ourselves if is_alive else ourselves.model_copy(update={"created": 0.0})
    RunRecord(runner=runner, since=NOW).write(tmp_path)
    platform._note_killed_runner(tmp_path)
    assert len(read_interruptions(tmp_path / FILE if number else None)) == number
    assert (tmp_path / FILE).exists() == bool(number)
