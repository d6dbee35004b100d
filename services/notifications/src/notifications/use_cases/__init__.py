"""What notifications does: verbs over (session, command). Each writes in the caller's transaction and calls nobody.

A mail and the webhooks of customers' endpoints for each event of an order; the steps are those of
docs/reference/protocol.md.
"""

from notifications.use_cases.dead_mails import list_dead_mails, resend_mails
from notifications.use_cases.mails import (
    has_earlier_pending,
    last_version,
    list_mails,
    read_mail,
    settle_mail,
    write_mail,
)
from notifications.use_cases.sweeps import sweep

__all__ = [
    "has_earlier_pending",
    "last_version",
    "list_dead_mails",
    "list_mails",
    "read_mail",
    "resend_mails",
    "settle_mail",
    "sweep",
    "write_mail",
]
