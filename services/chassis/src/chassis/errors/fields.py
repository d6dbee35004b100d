"""Field types that several services validate alike. A request with an invalid value gets a 422."""

from typing import Annotated

from pydantic import Field

MAX_AMOUNT = 2**53 - 1
"""The largest whole number that every JSON reader represents exactly (RFC 8259, section 6). OpenAPI documents write
limits as floating-point numbers, which also represent this number exactly."""

Amount = Annotated[int, Field(gt=0, le=MAX_AMOUNT, description="Minor units (cents).")]
"""An amount of money: a whole number of the currency's minor units."""

# The characters that RFC 5322 calls atext. None of them has a special meaning in a mail header or in SMTP.
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"

EmailAddress = Annotated[
    str, Field(max_length=254, pattern=rf"^{_ATEXT}+(\.{_ATEXT}+)*@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+$")
]
"""One plain address: ASCII, without a display name. SMTP limits an address to 254 characters (RFC 5321, erratum 1690).
"""
