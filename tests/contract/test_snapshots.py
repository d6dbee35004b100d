"""The code promises what `contracts/` says was accepted."""

import json
from pathlib import Path

import promises
from chassis.errors import ErrorCode
from chassis.events.outbox import Event

HOW = (
    "\n\nIf this is meant, run make contracts and commit what it writes. What is INCOMPATIBLE breaks who relies on it."
)


def test_the_platform_promises_what_was_accepted() -> None:
    found = list(promises.differences(promises.accepted(), promises.current()))
    assert not found, "\n".join(found) + HOW


def test_every_event_has_one_producer_and_every_consumed_one_is_produced() -> None:
    known = {event.options.type for events in promises.PRODUCED.values() for event in events}
    own = {event: stream for stream, events in promises.PRODUCED.items() for event in events}
    assert len(known) == len(own)
    declared = {event for event in _descendants(Event) if hasattr(event, "options") and _is_a_service_s(event)}
    assert {event.options.type for event in declared} == known


def test_what_is_removed_or_changed_is_told_apart_and_a_new_one_is_told_too() -> None:
    old = {"errors": {"GONE": {"status": 404, "retryable": False}}, "openapi/old": {}, "events/same": {"version": 1}}
    new = {"errors": {}, "events/same": {"version": 1}, "events/new": {}}
    assert list(promises.differences(old, new)) == [
        "contracts/errors.json: INCOMPATIBLE: code GONE was removed",
        "contracts/events/new.json: not there yet",
        "contracts/openapi/old.json: INCOMPATIBLE: it is gone",
    ]
    assert list(promises.differences({"openapi/a": {"paths": {}}}, {"openapi/a": {"paths": {}, "info": {}}})) == [
        "contracts/openapi/a.json: changed, compatibly"
    ]


def test_a_code_that_was_accepted_and_is_gone_is_named() -> None:
    accepted = promises.accepted()
    accepted["errors"]["LEGACY"] = {"status": 410, "retryable": False}
    found = promises.differences(accepted, promises.current())
    assert "contracts/errors.json: INCOMPATIBLE: code LEGACY was removed" in list(found)


def test_accepting_writes_what_is_read_back_and_removes_what_is_gone(tmp_path: Path) -> None:
    promises.write({"errors": {"A": 1}, "events/old": {}}, tmp_path)
    promises.write({"errors": {"A": 2}, "openapi/new": {"é": "§"}}, tmp_path)
    assert promises.accepted(tmp_path) == {"errors": {"A": 2}, "openapi/new": {"é": "§"}}
    assert (tmp_path / "errors.json").read_text().endswith("}\n")


def test_the_snapshot_of_the_catalogue_is_the_enum() -> None:
    assert list(json.loads((promises.FOLDER / "errors.json").read_text())) == [code.name for code in ErrorCode]


def _descendants(kind: type[Event]) -> set[type[Event]]:
    return {kind, *(found for child in kind.__subclasses__() for found in _descendants(child))}


def _is_a_service_s(event: type[Event]) -> bool:
    return event.__module__.partition(".")[0] in {"orders", "payments", "notifications", "webhook_ingest"}
