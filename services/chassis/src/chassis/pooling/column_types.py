"""The PostgreSQL type for each Python type, the same in every service's models."""

from datetime import datetime

from sqlalchemy import BigInteger, DateTime, Text

# Times are timestamptz in UTC. Amounts of money are in minor units and may exceed 32 bits.
COLUMN_TYPES = {datetime: DateTime(timezone=True), int: BigInteger, str: Text}


def is_bigint(number: int) -> bool:
    """Whether the number fits into PostgreSQL's bigint. The driver raises an error for a number that is too large."""
    return -(2**63) <= number < 2**63
