"""What can go wrong at the mailbox. The README says what each switch does."""

from dataclasses import dataclass

from simulators.faults import Switches, number, rate


@dataclass(frozen=True, kw_only=True)
class MailboxSwitches(Switches):
    reject_rate: float = rate()
    permanent_reject_rate: float = rate()
    hang: bool = False
    latency_seconds: float = number(0.0, low=0, high=600)
    drop_after_data: bool = False
    drop_after_data_rate: float = rate()
