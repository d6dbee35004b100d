"""Redaction: secrets are removed from lines, spans and errors, by the name of a field and by patterns in any text."""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any
from uuid import UUID

REDACTED = "[redacted]"

MAX_TEXT = 16_384
"""The largest number of characters of one value that are written. A usual traceback has a tenth of this number, and
container runtimes cut lines at 16 KiB. The limit also bounds the time for the redaction of a caller's text."""
_BEHIND_CUT = 1024
"""A text that is shortened to a limit is redacted with this many characters beyond the limit. So redaction sees the
whole of a secret that begins before the limit: even a password in a URL is shorter than this number.
"""
_TAIL = 4096
"""A shortened text keeps this many characters of its end, because the end of a traceback names the error."""

# Names of fields whose values are never written, as `is_sensitive` spells them: in lower case, with underscores.
_SENSITIVE_NAME = re.compile(
    r"(^|_)(password|passwd|passphrase|secret|token|credential|authorization|cookie|signature|dsn"
    r"|(api|secret|private|access|signing|debug)_?key|card_?number|pan|cvc|cvv|iban)s?$"
)
_CAMEL_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

# Each pattern takes linear time in any text: its repetitions are possessive, and no match begins inside a repetition.
_SECRET_PATTERNS = (
    re.compile(r"\bwhsec_[A-Za-z0-9+/=]++"),
    re.compile(r"(?i)\bbearer\s{1,8}+[A-Za-z0-9._~+/=-]++"),
    re.compile(r"(?<=://)[^/\s:@]*+:[^/\s@]++(?=@)"),  # user:password@ of a URL
    re.compile(r"\b[srp]k_(?:live|test)_[A-Za-z0-9]{8,}+"),  # the form of a payment provider's keys
    re.compile(r"(?<=\bhf_[a-z0-9]{12}_)[A-Za-z0-9]{8,}+"),  # our API keys; the prefix before the secret is public
    re.compile(r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{64}(?![0-9A-Fa-f])"),  # our tokens and peppers, and SHA-256 hashes
    re.compile(r"\beyJ[\w-]{8,}+(?:\.[\w-]++)*+"),  # a JSON object in base64: a JSON Web Token, or a part of one
)
_EMAIL = re.compile(r"(?<![\w.!#$%&'*+/=?^`{|}~-])[\w.!#$%&'*+/=?^`{|}~-]++@[A-Za-z0-9-]++(?:\.[A-Za-z0-9-]++)++")
# Matches password=…, "api_key": "…" and secret: …, which occur in a connection string, a query or a quoted body.
_NAMED_SECRET = re.compile(
    r"(?i)((?:password|passwd|passphrase|secret|token|api[_-]?key|authorization|cookie)"
    r"""(?:["']?\s{0,8}=\s{0,8}|["']\s{0,8}:\s{0,8}|:\s{1,8})["']?)(?!\[redacted\])[^\s"',;&})]++"""
)
# Matches groups of digits, as on a payment card, without a letter beside them. A UUID matches as a whole, so that its
# digits are not taken for a card number.
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
"""The possible lengths of a card number, by its first digit (ISO/IEC 7812-1, and the cards that the networks issue). A
time in milliseconds, as in the ids of a stream, has 13 digits and begins with 1 (with 2 from 2033 on), so it is never
taken for a card number.
"""
_MOST_CARD_DIGITS = 19
_MOST_CARD_GROUPS = 6  # 19 digits in groups of three or more
_DOUBLED = str.maketrans("0123456789", "0246813579")  # maps a digit to its double, minus 9 if the double is above 9
_MANY_DIGITS = re.compile("[0-9][0-9 -]{12}")
_LONG_HEX = re.compile(r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{64}")
_KEY_LENGTH = 64
_MAX_CACHED = 128
"""The longest text whose check is cached. If longer texts from callers were cached, the cache could grow to a quarter
of a gigabyte.
"""
_SMALLEST_CARD_NUMBER = 10**12
_PLAIN = frozenset({type(None), bool, float})
"""Types of values that need no redaction. A look-up in this set takes a fifth of the time of `isinstance`."""


def redact(value: Any) -> Any:
    """A copy of the value without secrets: `[redacted]` replaces the value of each sensitive field, and each key,
    token, mail address and card number in a text.
    """
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
    """The mapping without secrets. The function is one loop with few calls, for speed: every line has about twenty
    fields.
    """
    shown = {}
    for key, item in fields.items():
        name, hides = _check_cached_name(key) if type(key) is str and len(key) <= _MAX_CACHED else _check_name(key)
        if hides:
            shown[name] = REDACTED
        elif type(item) in _PLAIN or (
            type(item) is str and len(item) <= _MAX_CACHED and not _may_hold_secret_cached(item)
        ):
            shown[name] = item
        else:
            shown[name] = redact(item)
    return shown


def _check_name(key: Any) -> tuple[Any, bool]:
    """The name without secrets, and whether the value of a field of this name is hidden."""
    return _redact_text(key) if isinstance(key, str) else key, is_sensitive(str(key))


_check_cached_name = lru_cache(maxsize=1024)(_check_name)  # field names are few, and each check is slow


def shown_back(text: str, limit: int) -> str:
    """A caller's text in a form that an answer may quote: without secrets and half surrogate pairs, at most `limit`
    long.

    The text is cut before the redaction, so that the redaction of a very long text takes no longer. The cut is
    `_BEHIND_CUT` characters after the limit, because a pattern may not recognise a secret that is cut in two.
    """
    shown = str(redact(text[: limit + _BEHIND_CUT]))
    if len(text) > limit + _BEHIND_CUT:
        shown = shown[:-_BEHIND_CUT]
    return shown[:limit].encode(errors="backslashreplace").decode()


@lru_cache(maxsize=1024)  # field names are few, and each check is slow
def is_sensitive(name: str) -> bool:
    """Whether a field of this name holds a secret: a password, key, token or card number.

    `name` may be a dotted path. Case does not matter, and `apiKey` and `api-key` are read as `api_key`.
    """
    words = _CAMEL_HUMP.sub("_", name).replace("-", "_").lower()
    return any(_SENSITIVE_NAME.search(part) for part in words.split("."))


def _text_of(value: Any) -> str:
    """The text of a value that is not a string: an exception, another object, or a number with as many digits as a card
    number.
    """
    try:
        return str(value)
    except Exception:  # noqa: BLE001  a failing `__str__` must not become a failure of the code that logs
        return f"<{type(value).__name__}>"


def _redact_text(text: str) -> str:
    if len(text) > MAX_TEXT:
        cut = len(text) - MAX_TEXT
        text = f"{text[: MAX_TEXT - _TAIL]}[{cut} characters cut]{text[-_TAIL:]}"
    if not (_may_hold_secret_cached(text) if len(text) <= _MAX_CACHED else _may_hold_secret(text)):
        return text
    for pattern in _SECRET_PATTERNS:
        text = pattern.sub(REDACTED, text)
    if "@" in text:
        text = _EMAIL.sub(REDACTED, text)
    text = _NAMED_SECRET.sub(rf"\1{REDACTED}", text)
    return _DIGITS.sub(_redact_cards, text)


def _may_hold_secret(text: str) -> bool:
    """Whether any of the patterns for secrets can match. Each pattern needs one of these characters or words, and most
    texts contain none of them.

    A single regular expression for all these characters and words would take three times as long.
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


_may_hold_secret_cached = lru_cache(maxsize=4096)(_may_hold_secret)  # many lines repeat the same routes and job names


def _redact_cards(match: re.Match[str]) -> str:
    """The matched digits, with each card number replaced. Another number may follow a card number, such as 200 in the
    text `4111 1111 1111 1111 200 EUR`.
    """
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
    """The end of the longest card number that begins with the first of these groups, or 0 if there is none."""
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
    """Whether the digits pass the Luhn check of card numbers (ISO/IEC 7812-1, annex B). One in ten random numbers
    passes, too.
    """
    return (sum(map(int, number[-1::-2])) + sum(map(int, number[-2::-2].translate(_DOUBLED)))) % 10 == 0
