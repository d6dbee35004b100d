"""An amount of money as services exchange it: a whole number of the currency's minor units."""

from typing import Annotated

from pydantic import Field

MAX_AMOUNT = 2**53 - 1
"""The largest whole number that each reader of JSON has exactly (RFC 8259, section 6), and that an OpenAPI document can
name: its limits are floating-point numbers."""

Amount = Annotated[int, Field(gt=0, le=MAX_AMOUNT, description="Minor units (cents).")]
