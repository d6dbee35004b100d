"""An e-mail address that is taken from outside is one address, and nothing that a mail server reads as more."""

import pytest
from chassis.errors.fields import EmailAddress
from pydantic import TypeAdapter, ValidationError

ADDRESS: TypeAdapter[str] = TypeAdapter(EmailAddress)


@pytest.mark.parametrize(
    "given",
    [
        *("a@b.example,c@d.example", "a@b.example;c@d.example", "a@b.example c@d.example", "a,c@d.example"),
        *("<a@b.example>", "a<b@c.example", "Ada <a@b.example>", "a@b.example>", "a(b)@c.example", "a:b@c.example;"),
        *('"a b"@c.example', '"a,b"@c.example', "a\\@b.example", "a@[127.0.0.1]", "a@b.example\nBcc: c@d.example"),
        *("a@b.example\n", "\ta@b.example", "a@b@c.example", "@b.example", "a@", "a", "a@b", ".a@b.example"),
        *(
            "a..b@c.example",
            "a@b..example",
            "ä@b.example",
            "a@ä.example",
            "a\0@b.example",
            "a%40b",
            "x" * 250 + "@b.co",
        ),
    ],
)
def test_what_is_not_one_plain_address_is_refused(given: str) -> None:
    with pytest.raises(ValidationError):
        ADDRESS.validate_python(given)


@pytest.mark.parametrize("given", ["ada@example.com", "ada.o'neil+orders@mail.shop.example", "a@xn--bcher-kva.example"])
def test_one_plain_address_is_taken(given: str) -> None:
    assert ADDRESS.validate_python(given) == given
