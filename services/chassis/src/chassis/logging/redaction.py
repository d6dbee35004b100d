"""Redaction: what a line, a span or an error may not show, by the name of a field and by pattern in any text."""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any
from uuid import UUID

REDACTED = "[redacted]"

MAX_TEXT = 16_384
"""Characters of one value that are written: a traceback has a tenth of it, and a container runtime cuts lines at
16 KiB. It also bounds what a stranger's text costs here."""
_BEHIND_CUT = 1024  # characters that are looked at behind a cut: more than a password in a URL has
_TAIL = 4096  # of them from the end, where a traceback names its error

# Names whose values are never written; see `is_sensitive` for how a name is spelt for it.
_SENSITIVE_NAME = re.compile(
    r"(^|_)(password|passwd|passphrase|secret|token|credential|authorization|cookie|signature|dsn"
    r"|(api|secret|private|access|signing|debug)_?key|card_?number|pan|cvc|cvv|iban)s?$"
)
_CAMEL_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

# Linear in any text: no repetition gives back what it took, and none is scanned again from each of its characters.
_SECRET_PATTERNS = (
    re.compile(r"\bwhsec_[A-Za-z0-9+/=]++"),
    re.compile(r"(?i)\bbearer\s{1,8}+[A-Za-z0-9._~+/=-]++"),
    re.compile(r"(?<=://)[^/\s:@]*+:[^/\s@]++(?=@)"),  # user:password@ of a URL
    re.compile(r"\b[srp]k_(?:live|test)_[A-Za-z0-9]{8,}+"),  # the form of a payment provider's keys
    re.compile(r"(?<=\bhf_[a-z0-9]{12}_)[A-Za-z0-9]{8,}+"),  # our API keys; what is before it is public
    re.compile(r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{64}(?![0-9A-Fa-f])"),  # tokens and peppers of ours, and hashes
    re.compile(r"\beyJ[\w-]{8,}+(?:\.[\w-]++)*+"),  # a JSON object in base64: a JSON Web Token, or a part of one
)
_EMAIL = re.compile(r"(?<![\w.!#$%&'*+/=?^`{|}~-])[\w.!#$%&'*+/=?^`{|}~-]++@[A-Za-z0-9-]++(?:\.[A-Za-z0-9-]++)++")
# password=…, "api_key": "…", secret: …, as a connection string, a query or a quoted body has them.
_NAMED_SECRET = re.compile(
    r"(?i)((?:password|passwd|passphrase|secret|token|api[_-]?key|authorization|cookie)"
    r"""(?:["']?\s{0,8}=\s{0,8}|["']\s{0,8}:\s{0,8}|:\s{1,8})["']?)(?!\[redacted\])[^\s"',;&})]++"""
)
# Digits in groups, as on a card, unless a letter stands beside them; of a UUID no part is one.
_DIGITS = re.compile(
    r"(?i:[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})"
    r"|(?<![^\W_])(?=(?:[ -]?[0-9]){13})(?P<run>[0-9]{3,}+(?![^\W_])(?:[ -][0-9]{3,}+(?![^\W_]))*+)"
)
_GROUP = re.compile("[0-9]+")
_CARD_LENGTHS = {
    "1": range(15, 16),
    "2": range(16, 20),
    "3": range(14, 20),
    "4": range(13, 20),
    "5": range(13, 20),
    "6": range(13, 20),
    "8": range(16, 20),
    "9": range(16, 20),
}
"""How many digits a payment card's number has, by the first one (ISO/IEC 7812-1, and what the networks issue). A time
in milliseconds, as a stream's ids begin with, has 13, and the first one is 1 (from 2033 on 2)."""
_MOST_CARD_DIGITS = 19
_MOST_CARD_GROUPS = 6  # of three digits or more
_DOUBLED = str.maketrans("0123456789", "0246813579")  # twice the digit, and of 10 to 18 the sum of both digits
_MANY_DIGITS = re.compile("[0-9][0-9 -]{12}")
_LONG_HEX = re.compile(r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{64}")
_KEY_LENGTH = 64
_MAX_REMEMBERED = 128
"""Characters of a text that is remembered: strangers' long ones would fill a quarter of a gigabyte."""
_SMALLEST_CARD_NUMBER = 10**12
_PLAIN = frozenset({type(None), bool, float})
"""What most fields are: looked up before any `isinstance`, which takes five times as long."""


def redact(value: Any) -> Any:
    """The value without secrets: sensitive keys of mappings, and patterns (keys, tokens, card numbers) in text."""
    if type(value) is str:
        return _redact_text(value)
    if type(value) in _PLAIN or (isinstance(value, int) and -_SMALLEST_CARD_NUMBER < value < _SMALLEST_CARD_NUMBER):
        return value
    return _redact_other(value)


def _redact_other(value: Any) -> Any:
    if isinstance(value, str):
        return _redact_text(value)
    if isinstance(value, (float, date, UUID)):
        return value
    if isinstance(value, Mapping):
        return redact_fields(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact(item) for item in value]
    text = _text_of(value)
    redacted = _redact_text(text)
    return value if isinstance(value, int) and redacted == text else redacted


def redact_fields(fields: Mapping[Any, Any]) -> dict[Any, Any]:
    """The mapping without secrets. One loop with few calls: each line has some twenty fields, most of them plain."""
    shown = {}
    for key, item in fields.items():
        name, hides = _judge_name(key) if type(key) is str and len(key) <= _MAX_REMEMBERED else _judge_any(key)
        if hides:
            shown[name] = REDACTED
        elif type(item) in _PLAIN or (
            type(item) is str and len(item) <= _MAX_REMEMBERED and not _is_suspicious_name(item)
        ):
            shown[name] = item
        else:
            shown[name] = redact(item)
    return shown


def _judge_any(key: Any) -> tuple[Any, bool]:
    """A key as it may be shown, and whether its value must not be."""
    return _redact_text(key) if isinstance(key, str) else key, is_sensitive(str(key))


_judge_name = lru_cache(maxsize=1024)(_judge_any)  # names are few, and looking at one costs more than the line it is on


def shown_back(text: str, limit: int) -> str:
    """A caller's own text, fit to be sent back: without secrets or half surrogate pairs, at most `limit` long.

    It is cut first, a little behind the limit: what a text costs here does not grow with its length. The part behind
    the limit is looked at and not shown, since a secret that the cut goes through may not be known for one.
    """
    shown = str(redact(text[: limit + _BEHIND_CUT]))
    if len(text) > limit + _BEHIND_CUT:
        shown = shown[:-_BEHIND_CUT]
    return shown[:limit].encode(errors="backslashreplace").decode()


@lru_cache(maxsize=1024)  # names are few, and looking at one costs more than the line it is on
def is_sensitive(name: str) -> bool:
    """Whether a field of this name holds what must not be shown: a password, key, token, card number.

    `name` may be a dotted path; case does not matter, `-` and a camel's hump read as `_`.
    """
    words = _CAMEL_HUMP.sub("_", name).replace("-", "_").lower()
    return any(_SENSITIVE_NAME.search(part) for part in words.split("."))


def _text_of(value: Any) -> str:
    """An exception, an object, a number that may be a card's: what its text holds is what would be written."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001  a value that cannot say what it is must not end what wrote the line
        return f"<{type(value).__name__}>"


def _redact_text(text: str) -> str:
    if len(text) > MAX_TEXT:
        cut = len(text) - MAX_TEXT
        text = f"{text[: MAX_TEXT - _TAIL]}[{cut} characters cut]{text[-_TAIL:]}"
    if not (_is_suspicious_name(text) if len(text) <= _MAX_REMEMBERED else _is_suspicious(text)):
        return text
    for pattern in _SECRET_PATTERNS:
        text = pattern.sub(REDACTED, text)
    if "@" in text:
        text = _EMAIL.sub(REDACTED, text)
    text = _NAMED_SECRET.sub(rf"\1{REDACTED}", text)
    return _DIGITS.sub(_redact_cards, text)


def _is_suspicious(text: str) -> bool:
    """Whether the text has in it what each of those patterns needs: most are done after this look. One pattern for all
    would take three times as long.
    """
    return (
        "@" in text
        or "=" in text
        or ":" in text
        or "hf_" in text
        or "whsec_" in text
        or "eyJ" in text
        or "_live_" in text
        or "_test_" in text
        or "bearer" in text.lower()
        or _MANY_DIGITS.search(text) is not None
        or (len(text) >= _KEY_LENGTH and _LONG_HEX.search(text) is not None)
    )


_is_suspicious_name = lru_cache(maxsize=4096)(_is_suspicious)  # routes, job names and the like are on every line


def _redact_cards(match: re.Match[str]) -> str:
    """The run without the card numbers in it. Another number may follow a card's: `4111 1111 1111 1111 200 EUR`."""
    if match["run"] is None:
        return match[0]
    run, begin = match["run"], 0
    written: list[str] = []
    groups = [group.span() for group in _GROUP.finditer(run)]
    for n, (start, _) in enumerate(groups):
        if start >= begin and (end := _end_of_card(run, groups[n : n + _MOST_CARD_GROUPS])):
            written += run[begin:start], REDACTED
            begin = end
    return "".join(written) + run[begin:]


def _end_of_card(run: str, groups: Sequence[tuple[int, int]]) -> int:
    """Where the longest card number ends that begins with the first of these groups; 0 when none does."""
    lengths = _CARD_LENGTHS.get(run[groups[0][0]], range(0))
    found, digits = 0, ""
    for start, end in groups:
        digits += run[start:end]
        if len(digits) > _MOST_CARD_DIGITS:
            break
        if len(digits) in lengths and _passes_luhn(digits):
            found = end
    return found


def _passes_luhn(number: str) -> bool:
    """Whether the digits have a card number's check sum (ISO/IEC 7812-1, annex B); order numbers mostly don't."""
    return (sum(map(int, number[-1::-2])) + sum(map(int, number[-2::-2].translate(_DOUBLED)))) % 10 == 0
