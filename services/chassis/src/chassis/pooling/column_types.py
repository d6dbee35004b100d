"""The PostgreSQL types of Python's types, the same in every service's models."""

from datetime import datetime

from sqlalchemy import BigInteger, DateTime, Text

# Times are timestamptz in UTC; money is in minor units and outgrows 32 bits.
COLUMN_TYPES = {datetime: DateTime(timezone=True), int: BigInteger, str: Text}


def is_bigint(number: int) -> bool:
    """Whether PostgreSQL's bigint can hold the number. The driver raises for any other."""
    return -(2**63) <= number < 2**63
