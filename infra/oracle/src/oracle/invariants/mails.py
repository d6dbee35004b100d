"""What holds of the mails about an order. Those about a letter alone hold of notices, too."""

from collections.abc import Iterator, Mapping
from itertools import pairwise

from oracle.case import Case, Letter
from oracle.findings import Offender
from oracle.invariants.registry import invariant
from oracle.terms import Terms, unexcused

_SUBJECTS: Mapping[str, str] = {
    "order.placed": "We have your order",
    "order.confirmed": "Your order is confirmed",
    "order.cancelled": "Your order was cancelled",
}


@invariant("a mail arrives again only after an interruption", "mail", "copy", "repeated mail", always=True)
def copies_have_a_cause(case: Case, terms: Terms) -> Iterator[Offender]:
    """Per mail: an interruption excuses one more copy of each mail that was being sent at that moment, and no other."""
    for letter in case.letters:
        yield from copies_of_letter_have_a_cause(letter, terms)


@invariant("each order event is mailed under one Message-ID", "order event", "mail", "dead mail")
def each_event_is_mailed_once(case: Case, _terms: Terms) -> Iterator[Offender]:
    """One row and one Message-ID per (order, event), unless the mail is dead; and no mail about what never happened."""
    for letter in case.letters:
        mail = letter.mail
        if mail is None and letter.event is not None:
            yield Offender(case.order.id, f"{letter.event.type} (event {letter.event.event_id}) has no mail")
        if letter.event is None and mail is not None and (mail.version or 0) > case.order.version:
            yield Offender(case.order.id, f"mail {mail.event_id} is about an event that never happened")
        yield from letter_is_mailed_once(letter)


@invariant("an order's mails first arrive in the order of its events", "order", "mail")
def mails_arrive_in_order(case: Case, _terms: Terms) -> Iterator[Offender]:
    first = [
        (letter.mail.version, letter.copies[0].number)
        for letter in case.letters
        if letter.mail is not None and letter.mail.version is not None and letter.copies
    ]
    for (earlier, number), (later, other) in pairwise(sorted(first)):
        if other < number:
            yield Offender(case.order.id, f"its mail of version {later} arrived before that of version {earlier}")


@invariant("a mail says what its event says", "mail", "copy")
def mails_say_what_happened(case: Case, _terms: Terms) -> Iterator[Offender]:
    """Recipient, subject, amount and order are the event's; each copy is the mail as it was written."""
    for letter in case.letters:
        yield from _row_says_what_happened(letter)
        yield from copies_say_what_was_written(letter)


def copies_of_letter_have_a_cause(letter: Letter, terms: Terms) -> Iterator[Offender]:
    number = unexcused((copy.received_at for copy in letter.copies), terms.interruptions)
    if number:
        problem = f"{len(letter.copies)} copies, {number} of them without an interruption that can be the cause"
        yield Offender(letter.copies[0].message_id, problem)


def letter_is_mailed_once(letter: Letter) -> Iterator[Offender]:
    mail = letter.mail
    ids = {copy.message_id for copy in letter.copies}
    if len(ids) > 1 or (not ids and mail is not None and mail.status != "dead"):
        subject = letter.event.aggregate_id if letter.event else mail.event_id if mail else min(ids)
        event_id = mail.event_id if mail else letter.event.event_id if letter.event else "(none)"
        yield Offender(subject, f"event {event_id} was mailed under {len(ids)} Message-IDs")


def copies_say_what_was_written(letter: Letter) -> Iterator[Offender]:
    mail = letter.mail
    if mail is None:
        return
    for copy in letter.copies:
        found = (copy.to, copy.subject, _lines(copy.text))
        if found != ((mail.recipient,), mail.subject, _lines(mail.text)):
            yield Offender(copy.message_id, "arrived with another recipient, subject or text than was written")


def _row_says_what_happened(letter: Letter) -> Iterator[Offender]:
    event, mail = letter.event, letter.mail
    if event is None or mail is None:
        return
    facts = event.payload
    if mail.recipient != facts.get("customer_email"):
        yield Offender(mail.event_id, "its mail goes to another recipient than the event says")
    if (mail.event_type, mail.version, mail.client_id) != (event.type, event.aggregate_version, facts.get("client_id")):
        yield Offender(mail.event_id, f"is {event.type} version {event.aggregate_version}, its mail another event's")
    amount = facts.get("amount")
    total = f"{amount / 100:.2f} {facts.get('currency')}" if isinstance(amount, int) else "(none)"
    if mail.subject != _SUBJECTS.get(event.type) or total not in mail.text or event.aggregate_id not in mail.text:
        yield Offender(mail.event_id, f"its mail has another subject, or does not name {total} and the order")


def _lines(text: str) -> list[str]:
    """Without what mail servers may do at the end of a line or of a mail."""
    return [line.rstrip() for line in text.rstrip().splitlines()]
