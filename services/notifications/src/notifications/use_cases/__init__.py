"""The use cases of the notifications service. Each use case runs in the caller's transaction and calls no other
service.

Each event of an order causes a mail to the customer, and a webhook delivery for each endpoint of the client.
docs/reference/protocol.md describes the steps. Read `mails` first; for webhooks, read `endpoints`, `deliveries`,
`delivery_queue` and `attempts`. `sweeps` enqueues lost jobs again, and `dead_mails` serves the command line.
"""

from notifications.use_cases.dead_mails import list_dead_mails, resend_mails
from notifications.use_cases.mails import (
    last_version,
    list_mails,
    read_mail,
    settle_mail,
    write_mail,
)
from notifications.use_cases.sweeps import sweep

__all__ = [
    "last_version",
    "list_dead_mails",
    "list_mails",
    "read_mail",
    "resend_mails",
    "settle_mail",
    "sweep",
    "write_mail",
]
