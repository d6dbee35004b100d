"""Fails when a feature flag has outlived its date: `python docs/expired_flags.py 2027-03-31`.

The argument is the day of the check, so that the same check gives the same result on every day. `make expired-flags`
passes the present day. The continuous integration runs it.
"""
# ruff: noqa: INP001  a script beside the pages that describe the flags, not a package

import sys
from datetime import date

from chassis.config.settings import ServiceSettings, flags_of
from generate import SERVICES


def expired(services: tuple[type[ServiceSettings], ...], today: date) -> list[str]:
    """A line for each flag that is expired on the day `today`."""
    return [
        f"{service.service_name}: the flag {flag.name} of {flag.owner} expired after {flag.until}. Delete it and the "
        "code that it switches, or give it a later date."
        for service in services
        for flag in flags_of(service)
        if flag.is_expired(today)
    ]


def main() -> None:
    [_, today] = sys.argv
    lines = expired(SERVICES, date.fromisoformat(today))
    sys.stderr.writelines(f"{line}\n" for line in lines)
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
