"""The mailbox as a page: plain HTML, no script, every value escaped."""

from html import escape

from simulators.mailbox.messages import Mailbox, Message

SHOWN = 200
"""Messages on the page; /messages has all."""

HEADERS = {
    # Even markup that got past the escaping could load and run nothing.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}

STYLE = """
:root { color-scheme: light dark; --line: light-dark(#dcdfe4, #3a3f47); --soft: light-dark(#5b6470, #a3abb6);
        --card: light-dark(#fff, #1d2025); --page: light-dark(#f4f5f7, #14161a); --mark: light-dark(#8a4b00, #ffb454); }
body { margin: 0 auto; max-width: 52rem; padding: 2rem 1rem; background: var(--page);
       font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.5rem; }
h2 { margin: 0; font-size: 1.05rem; }
header p, .empty { color: var(--soft); }
article { margin: 1rem 0; padding: 1rem 1.25rem; background: var(--card); border: 1px solid var(--line);
          border-radius: 8px; }
.meta { margin: .25rem 0 0; color: var(--soft); font-size: .875rem; }
.copies { color: var(--mark); }
pre { margin: .75rem 0; white-space: pre-wrap; font: inherit; }
details { color: var(--soft); font-size: .875rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .125rem 1rem; margin: .5rem 0 0; }
dt { font-weight: 600; }
dd { margin: 0; }
"""


def page(mailbox: Mailbox) -> str:
    """The newest messages first."""
    count = mailbox.count()
    newest = mailbox.messages(newest=SHOWN)
    shown = f", the newest {SHOWN} of them here" if count > SHOWN else ""
    articles = "".join(article(message, mailbox.copies(message.message_id)) for message in newest)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Mailbox</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><header><h1>Mailbox</h1>"
        f"<p>{count} message{'' if count == 1 else 's'}{shown}</p></header>"
        f"<main>{articles or '<p class="empty">Nothing has arrived yet.</p>'}</main></body></html>"
    )


def article(message: Message, copies: int) -> str:
    many = (
        f' <span class="copies">· {copies} copies of this Message-ID</span>'
        if copies > 1 and message.message_id
        else ""
    )
    headers = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in message.headers.items())
    recipients = escape(", ".join(message.recipients))
    return (
        f'<article id="message-{message.id}"><h2>{escape(message.subject) or "(no subject)"}</h2>'
        f'<p class="meta">{escape(message.sender) or "&lt;&gt;"} → {recipients}'
        f' · <time datetime="{escape(message.received_at)}">{escape(readable(message.received_at))}</time>{many}</p>'
        f"<pre>{escape(message.text)}</pre>"
        f"<details><summary>Headers</summary><dl>{headers}</dl></details></article>"
    )


def readable(received_at: str) -> str:
    return f"{received_at[:19].replace('T', ' ')} UTC"
