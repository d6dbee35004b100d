"""What reads a stranger's text by loops of our own, and how each is given a text; and what only looks as if it did."""

import ast
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from chassis.app.api.conditional import has_current
from chassis.app.api.limits import network_of
from chassis.calls.quota import parse_policy, parse_remaining
from chassis.calls.ssrf import DestinationRefused, check_url
from chassis.config.settings import EgressSettings
from chassis.errors import HoldfastError, InvalidSignature
from chassis.errors.answers import wants_problem
from chassis.jobs.dead_letters import Filter
from chassis.logging import redact, request_id_from
from chassis.logging.debugging import check_header
from chassis.logging.redaction import is_sensitive, redact_fields
from chassis.logging.rendering import ConsoleRenderer, to_json
from chassis.retries import parse_retry_after
from chassis.retries.deadlines import from_header
from chassis.retries.idempotency import fingerprint
from chassis.webhooks import verify, verify_github, verify_stripe
from notifications.mailer import _check_address
from oracle.invariants.mails import _lines
from oracle.story.telling import masked

_SECRET = "whsec_" + "a" * 32
_NOW = int(time.time())
_console = ConsoleRenderer(colors=False)


def _header(text: str) -> str:
    """The text as a header's value can be: the server reads bytes as Latin-1."""
    return text.encode("latin-1", "replace").decode("latin-1")


def _standard(text: str) -> None:
    sent = [("webhook-id", "a"), ("webhook-timestamp", str(_NOW)), ("webhook-signature", _header(text))]
    with suppress(InvalidSignature):
        verify(sent, b"{}", [_SECRET], now=_NOW)


def _stripe(text: str) -> None:
    with suppress(InvalidSignature):
        verify_stripe([("stripe-signature", f"t={_NOW},{_header(text)}")], b"{}", [_SECRET], now=_NOW)


def _github(text: str) -> None:
    with suppress(InvalidSignature):
        verify_github([("x-hub-signature-256", _header(text))], text.encode(errors="replace"), [_SECRET], now=_NOW)


def _url(text: str) -> None:
    for url in (text, f"https://{text}", f"https://shop.example/{text}"):
        with suppress(DestinationRefused):
            check_url(url, EgressSettings())


def _filter(text: str) -> None:
    with suppress(HoldfastError):
        Filter.parse([text])


def _recipient(text: str) -> None:
    with suppress(HoldfastError):
        _check_address(text[:254])  # the longest that a route takes


def _quota(text: str) -> None:
    for field in (text, f"a;q={text}", f"a;r={text}"):
        parse_policy(field)
        parse_remaining(field)


SCANNERS: Mapping[str, Callable[[str], object]] = {
    "app/api/conditional.py has_current": lambda text: has_current([text, text], '"tag"'),
    "app/limits.py network_of": network_of,
    "calls/quota.py _numbers": _quota,
    "dead_letters.py parse": _filter,
    "deadlines.py from_header": lambda text: from_header(text, 10),
    "errors/answers.py _weights": lambda text: wants_problem([text]),
    "idempotency.py fingerprint": lambda text: fingerprint("POST", "/", text.encode(errors="replace")),
    "logging/request_ids.py request_id_from": request_id_from,
    "logging/debugging.py check_header": lambda text: check_header(text, "key", now=_NOW),
    "logging/redaction.py _redact_text": redact,
    "logging/redaction.py _redact_cards": lambda text: redact(f"4111 1111 1111 1112 {text}"),
    "logging/redaction.py redact_fields": lambda text: redact_fields({"event": "happened", "text": text}),
    "logging/redaction.py is_sensitive": is_sensitive.__wrapped__,
    "logging/rendering.py __call__": lambda text: _console({"event": "happened", "level": "info", "exception": text}),
    "invariants/mails.py _lines": _lines,
    "logging/rendering.py to_json": lambda text: to_json({"event": "happened", text: text}),
    "mailer.py _check_address": _recipient,
    "retries.py parse_retry_after": lambda text: parse_retry_after(text, now=_NOW),
    "ssrf.py check_url": _url,
    "story/telling.py masked": masked,
    "webhooks.py verify": _standard,
    "webhooks.py verify_github": _github,
    "webhooks.py verify_stripe": _stripe,
}

PIECES = (
    *("a", "1", " ", "-", "_", ".", ",", ";", ":", "=", "@", '"', "\\", "/", "%", "\n", "\t", "\0", "(", "<", "[", "{"),
    *(
        "a@",
        "a@a.",
        "a.b@",
        "@a",
        "://",
        "://a:",
        "a,",
        'a"',
        '",',
        'W/"',
        '"a',
        "q=1;",
        "a;q=0,",
        "*/*,",
        "v1,",
        "v1=a,",
        ";q=1",
        ";q=1,",
    ),
    *("t=1,", "eyJ", "eyJ-", "eyJa.", "whsec_", "bearer ", "token=", "secret: ", "password", "hf_", "sk_live_", "_key"),
    *(
        "111-",
        "411-",
        "4111 ",
        "4111111111111111 ",
        "4111-1111-",
        "1a",
        "0a1b2c3d-",
        "a" * 63 + "g",
        "a" * 64 + " ",
        "key.",
    ),
    *("\u202e", "\u2028", "é", "\ud800", "aB", "A.", "[redacted]", '{"a":', "[1,", "1e9", "name=a ", "fe80::", "xn--"),
)
"""What is repeated: what the scanners look for, its beginnings, and what each takes for an end."""

OUR_OWN = {
    "chassis/config/explaining.py explain": "names of settings",
    "chassis/config/problems.py _valid_values": "settings",
    "chassis/config/layers.py _options_layer": "a command's options",
    "chassis/config/layers.py known_names": "names of settings",
    "chassis/migrations/waiting.py _wait": "the driver's message",
    "app/cli/command.py _given_settings": "a command's options",
    "chassis/process/reloading.py take_over": "names of settings",
    "chassis/config/settings/model.py _prefixed": "names of settings",
    "chassis/config/settings/model.py _sum": "names of settings",
    "chassis/config/settings/model.py names": "names of settings",
    "chassis/pooling/statements.py _without_comments": "our SQL",
    "checkov/check.py findings": "our manifests",
    "holdfast_local/runs.py stop_runner": "a record of our own",
    "holdfast_local/runs.py end_leftovers": "a record of our own",
    "customer_endpoint/verification.py __init__": "settings",
    "payment_provider/__init__.py schedule": "settings",
    "loadtest/locustfile.py add_options": "a command's options",
    "order/durable/__main__.py serve": "settings",
    "order/spending.py _sql_bytes": "the kernel's list of connections",
    "overload/chart.py draw": "names of arms",
}
"""What no stranger's text reaches."""

_LOOPS = (ast.For, ast.While, ast.AsyncFor, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_LOOKS = {
    *("split", "rsplit", "partition", "rpartition", "splitlines", "find", "rfind", "index"),
    *("finditer", "findall", "search", "match", "fullmatch", "sub"),
}


def looping_functions(root: Path, folder: str) -> Iterator[str]:
    """The functions of a tree that look for something in a text again and again."""
    for path in sorted((root / folder).rglob("*.py")):
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and _looks_in_a_loop(function):
                yield f"{path.relative_to(root)} {function.name}"


def _looks_in_a_loop(function: ast.AST) -> bool:
    return any(
        isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in _LOOKS
        for loop in ast.walk(function)
        if isinstance(loop, _LOOPS)
        for call in ast.walk(loop)
    )
