"""The script that draws sentences from the code: where a sentence begins and ends, and on which line it stands."""

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from holdfast_local.settings import PROJECT
from sentences import all_sentences, drawn, sentences_of

PYTHON = '''\
"""A module. uvicorn serves it,
e.g. on `two.*` ports.

    code = "is no sentence. At all."

- An entry.
- Another one, which goes on
  here.
"""
# ruff: noqa: INP001  a script

# One comment
# on two lines. The third starts here.
x = 1  # seconds
y = "# no comment"  # noqa: S101  the reason

"""What x is."""


def f() -> None:
    """See https://example.org/a.b. Done."""
'''


def read(source: str, suffix: str) -> list[tuple[int, str]]:
    return [(sentence.line, sentence.text) for sentence in sentences_of(Path(f"file{suffix}"), source)]


def test_docstrings_and_comments_of_python_are_split_into_sentences_with_their_lines() -> None:
    assert read(PYTHON, ".py") == [
        (1, "A module."),
        (1, "uvicorn serves it, e.g. on `two.*` ports."),
        (6, "- An entry."),
        (7, "- Another one, which goes on here."),
        (10, "a script"),
        (12, "One comment on two lines."),
        (13, "The third starts here."),
        (14, "seconds"),
        (15, "the reason"),
        (17, "What x is."),
        (21, "See https://example.org/a.b."),
        (21, "Done."),
    ]


@pytest.mark.parametrize("suffix", [".sql", ".lua"])
def test_comments_of_sql_and_lua_are_split_alike_and_a_statements_name_is_none(suffix: str) -> None:
    source = dedent("""\
        -- The statements.
        -- name: publish
        -- Adds an event
        -- to the stream.
        SELECT 1  -- the position
        -- KEYS[1]  the stream
        -- ARGV[1]  its limit
        """)
    assert read(source, suffix) == [
        (1, "The statements."),
        (3, "Adds an event to the stream."),
        (5, "the position"),
        (6, "KEYS[1]  the stream"),
        (7, "ARGV[1]  its limit"),
    ]


def test_a_seed_draws_the_same_sentences_each_time_and_another_seed_others() -> None:
    sentences = all_sentences(PROJECT)
    first = drawn(sentences, count=100, seed=1)
    assert first == drawn(sentences, count=100, seed=1)
    assert first != drawn(sentences, count=100, seed=2)
    assert len(first) == 100


def test_a_sentence_is_printed_with_its_number_and_a_line_that_holds_its_first_word() -> None:
    printed = subprocess.run(
        [sys.executable, PROJECT / "docs" / "sentences.py", "--seed", "7", "--count", "20"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert [line.split(".")[0].strip() for line in printed] == [str(number) for number in range(1, 21)]
    for line in printed:
        place, _, text = line.partition(". ")[2].partition("  ")
        path, _, number = place.partition(":")
        assert text.split()[0] in (PROJECT / path).read_text().splitlines()[int(number) - 1]


def test_with_context_a_sentence_is_printed_with_the_lines_around_it() -> None:
    printed = subprocess.run(
        [sys.executable, PROJECT / "docs" / "sentences.py", "--seed", "7", "--count", "1", "--context", "2"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    path, _, number = printed[0].partition(". ")[2].partition("  ")[0].partition(":")
    lines = (PROJECT / path).read_text().splitlines()
    around = lines[max(0, int(number) - 3) : int(number) + 2]
    assert printed[1:] == [*(f"     | {line}" for line in around), ""]
