"""A customer's webhook endpoint: verifies Standard Webhooks, keeps every attempt, and fails on demand."""

import argparse
from pathlib import Path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="customer-endpoint", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8103, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--database", type=Path, required=True, help="SQLite file, made when missing")
    parser.add_argument(
        "--secrets-dir",
        type=Path,
        required=True,
        help="folder, made when missing, with a file per webhook name that holds its secrets (whsec_…), one a line",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    # Loaded after the arguments are known to be right: --help and a typo answer at once.
    from simulators.customer_endpoint.service import run  # noqa: PLC0415

    run(arguments)
