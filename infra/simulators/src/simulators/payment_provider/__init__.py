"""A payment provider: charges and refunds that are idempotent by key, and signed webhooks about them."""

import argparse
from pathlib import Path


def schedule(text: str) -> tuple[float, ...]:
    """Seconds between attempts, as `0.5,1,2`; ValueError when empty or not positive."""
    delays = tuple(float(part) for part in text.split(","))
    if not all(0 < delay < float("inf") for delay in delays):
        raise ValueError(text)
    return delays


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="payment-provider", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8101, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--database", type=Path, required=True, help="SQLite file, made when missing")
    parser.add_argument("--webhook-url", required=True, help="where events are posted")
    parser.add_argument(
        "--secrets-dir",
        type=Path,
        required=True,
        help="folder with the files api_key and webhook_secret (whsec_…)",
    )
    parser.add_argument(
        "--webhook-schedule",
        type=schedule,
        default="0.5,1,2,5,10,20,40",
        metavar="SECONDS,…",
        help="waits between attempts; the last one repeats for ever (default: %(default)s)",
    )
    parser.add_argument(
        "--webhook-timeout", type=float, default=5.0, help="seconds for one attempt (default: %(default)s)"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    # Loaded after the arguments are known to be right: --help and a typo answer at once.
    from simulators.payment_provider.service import run  # noqa: PLC0415

    run(arguments)
