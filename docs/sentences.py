"""Draws sentences from the docstrings and comments of the chassis and the services: `python docs/sentences.py`.

A reader who has not seen the project reads them: at least 97 of 100 must be clear at the first reading. The same seed
draws the same sentences from the same tree. `--count 0` prints all of them, in the order of the files. `--context 8`
prints each with the eight lines before and after it, as a reader of the file sees it.
"""
# ruff: noqa: INP001  a script beside the pages, not a package

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from random import Random
from typing import NamedTuple

PROJECT = Path(__file__).parents[1]
_MARKS = {".sql": "--", ".lua": "--"}
_DIRECTIVE = re.compile(r"^(?:ruff: )?(?:noqa|type: ignore|fmt: o)(?:: ?[A-Z]+\d+(?:, ?[A-Z]+\d+)*|\[\S+\]|n|ff)?\s*")
"""What a comment says to a tool. A reason may follow, which is for people."""
_STATEMENT_NAME = re.compile(r"^name: \w+$")
_END = re.compile(r"""(?<=[.!?])["')]*\s+""")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|Mr|No)\.$")
_OWN_LINE = re.compile(r"(?:[-*] |\d+\. |(?:KEYS|ARGV)\[|Returns  )")
_HAS_WORDS = re.compile(r"(?!https?://\S+$).*[A-Za-z]{2}")


class Sentence(NamedTuple):
    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}  {self.text}"


class Line(NamedTuple):
    number: int
    text: str
    is_after_code: bool = False


def sentences_of(path: Path, source: str) -> list[Sentence]:
    """The sentences of one file, in order."""
    if mark := _MARKS.get(path.suffix):
        blocks = _joined(_marked_comments(source, mark))
    else:
        blocks = chain(_docstrings(source), _joined(_python_comments(source)))
    found = (Sentence(path, line.number, line.text) for block in blocks for line in _split(block))
    return sorted(found, key=lambda sentence: sentence.line)


def all_sentences(project: Path) -> list[Sentence]:
    """Those of every Python, SQL and Lua file under `services`, in the order of paths."""
    paths = sorted(path for path in project.glob("services/*/src/**/*") if path.suffix in {".py", *_MARKS})
    return [
        sentence
        for path in paths
        for sentence in sentences_of(path.relative_to(project), path.read_text(encoding="utf-8"))
    ]


def drawn(sentences: Sequence[Sentence], *, count: int, seed: int) -> list[Sentence]:
    """`count` of them at random, in the order of the draw; all of them when there are fewer."""
    return Random(seed).sample(sentences, min(count, len(sentences)))  # noqa: S311  a sample, no secret


def _docstrings(source: str) -> Iterator[list[Line]]:
    """The docstrings of modules, classes, functions and attributes: all that is a statement of its own."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            # Not `inspect.cleandoc`: the numbers of the lines are needed.
            lines = node.value.value.split("\n")
            indent = min((len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()), default=0)
            yield [
                Line(node.lineno + index, line[indent:].rstrip() if index else line.strip())
                for index, line in enumerate(lines)
            ]


def _python_comments(source: str) -> Iterator[Line]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = _DIRECTIVE.sub("", token.string.lstrip("#").strip())
            yield Line(token.start[0], text, is_after_code=not token.line.lstrip().startswith("#"))


def _marked_comments(source: str, mark: str) -> Iterator[Line]:
    for number, line in enumerate(source.splitlines(), start=1):
        code, found, text = line.partition(mark)
        if found and not _STATEMENT_NAME.match(text.strip()):
            yield Line(number, text.strip(), is_after_code=bool(code.strip()))


def _joined(comments: Iterator[Line]) -> Iterator[list[Line]]:
    """Comments on neighbouring lines are one block. A comment after code is a block by itself."""
    block: list[Line] = []
    for comment in comments:
        if block and (comment.is_after_code or block[-1].is_after_code or block[-1].number != comment.number - 1):
            yield block
            block = []
        block.append(comment)
    if block:
        yield block


def _split(block: list[Line]) -> Iterator[Line]:
    """The sentences of a block. A list's entry begins one, an empty line ends one, and indented code has none."""
    paragraph: list[Line] = []
    for line in block:
        if not line.text or line.text.startswith("    "):
            yield from _sentences_in(paragraph)
            paragraph = []
            continue
        if _OWN_LINE.match(line.text):
            yield from _sentences_in(paragraph)
            paragraph = []
        paragraph.append(Line(line.number, line.text.strip()))
    yield from _sentences_in(paragraph)


def _sentences_in(paragraph: list[Line]) -> Iterator[Line]:
    text = " ".join(line.text for line in paragraph)
    starts = list(_starts(paragraph))
    begin = 0
    for end in [*_END.finditer(text), None]:
        sentence = text[begin : end.start() if end else len(text)] + (end.group().rstrip() if end else "")
        if end and _ABBREVIATION.search(sentence):
            continue
        if _HAS_WORDS.match(sentence):
            yield Line(max(number for start, number in starts if start <= begin), sentence.strip())
        begin = end.end() if end else begin


def _starts(paragraph: list[Line]) -> Iterator[tuple[int, int]]:
    """Where each line begins in the joined text, and its number."""
    position = 0
    for line in paragraph:
        yield position, line.number
        position += len(line.text) + 1


def _surroundings(sentence: Sentence, count: int) -> str:
    lines = (PROJECT / sentence.path).read_text(encoding="utf-8").splitlines()
    around = lines[max(0, sentence.line - 1 - count) : sentence.line + count]
    return "".join(f"     | {line}\n" for line in around) + "\n"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Draw sentences from the docstrings and comments of the services.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=100, help="How many; 0 for all.")
    parser.add_argument("--context", type=int, default=0, help="Lines of the file to print before and after each.")
    options = parser.parse_args(arguments)
    found = all_sentences(PROJECT)
    chosen = drawn(found, count=options.count, seed=options.seed) if options.count else found
    for number, sentence in enumerate(chosen, start=1):
        sys.stdout.write(f"{number:3}. {sentence}\n")
        if options.context:
            sys.stdout.write(_surroundings(sentence, options.context))


if __name__ == "__main__":
    main(sys.argv[1:])
