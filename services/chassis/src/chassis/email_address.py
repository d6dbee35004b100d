"""An e-mail address as it is taken from outside: one, without a name, in ASCII."""

from typing import Annotated

from pydantic import Field

# RFC 5322's atext: of an unquoted ASCII address nothing can mean something else to a mail header or a mail server.
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"

EmailAddress = Annotated[
    str, Field(max_length=254, pattern=rf"^{_ATEXT}+(\.{_ATEXT}+)*@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+$")
]
"""254 characters is SMTP's limit (RFC 5321, erratum 1690)."""
