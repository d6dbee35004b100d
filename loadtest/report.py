"""Locust's HTML report (`--html`), with the verdict at its top. Its charts are those of the run: requests per second,
answer times, and as "users" the errands that are under way.
"""

from collections.abc import Iterable
from html import escape
from pathlib import Path

_BODY = "<body>"
_STYLE = "font: 14px monospace; white-space: pre-wrap; padding: 12px 24px; color: #111; background: #f4f4f4"


def add_verdict(page: Path, title: str, lines: Iterable[str]) -> None:
    """A section with these lines, above what the page shows already. Its form is Locust's: without a body, it raises
    ValueError.
    """
    text = page.read_text("utf-8")
    before, body, after = text.partition(_BODY)
    if not body:
        raise ValueError(f"{page} is no report of Locust's")
    section = f'<section style="{_STYLE}"><strong>{escape(title)}</strong>\n{escape("\n".join(lines))}</section>'
    page.write_text(f"{before}{body}{section}{after}", "utf-8")
