"""A mailbox: takes mail by SMTP, keeps every copy, and shows it over HTTP."""

import argparse
from pathlib import Path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mailbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--http-port", type=int, default=8102, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--smtp-port", type=int, default=8125, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--database", type=Path, required=True, help="SQLite file, made when missing")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    # Loaded after the arguments are known to be right: --help and a typo answer at once.
    from simulators.mailbox.service import run  # noqa: PLC0415

    run(arguments)
