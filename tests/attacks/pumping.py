"""Texts that make a regular expression slow if any do: what its parts match, again and again, and then no end."""

import itertools
import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from re import _constants as op
from re import _parser as parser

type Node = tuple[object, object]

_PROBES = "a1_-. :/,=@\"'" + string.ascii_letters + string.digits + string.punctuation + "\n\té"
_KINDS: Sequence[Callable[[str], bool]] = (str.isalpha, str.isdigit, str.isspace, lambda one: one == "_")
_MOST_SAMPLES = 5
_ENDS = ("", "\0")


def attacks(pattern: str, flags: int) -> Iterator[tuple[str, Callable[[int], str]]]:
    """Texts by what they are made of: a beginning, a piece that is repeated to about the length asked for, an end."""
    tree = list(parser.parse(pattern, flags))
    units = dict.fromkeys(("", unit) for unit in _beginnings(tree))
    units |= dict.fromkeys(_repetitions(tree))
    for (before, unit), end in itertools.product(units, _ENDS):
        if unit:
            yield f"{before!r} + {unit!r}… + {end!r}", _text(before, unit, end)


def _text(before: str, unit: str, end: str) -> Callable[[int], str]:
    return lambda size: before + unit * (size // len(unit)) + end


def _beginnings(nodes: Sequence[Node]) -> Iterator[str]:
    """What the pattern's first parts match: a text of these makes a search begin again and again."""
    for n in range(1, len(nodes) + 1):
        yield from _of_sequence(nodes[:n])
    for node in nodes:
        for inner in _inner(node):
            yield from _beginnings(inner)


def _repetitions(nodes: Sequence[Node], before: str = "") -> Iterator[tuple[str, str]]:
    """Each repetition with what leads up to it: a text of these has many ways to be taken apart."""
    for n, node in enumerate(nodes):
        for start in _of_sequence(nodes[:n])[:2] if n else [""]:
            if node[0] in _REPEATS:
                yield from ((before + start, sample) for sample in _of_sequence(_inner(node)[0]))
            for inner in _inner(node):
                yield from _repetitions(inner, before + start)


_REPEATS = {op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT}


def _inner(node: Node) -> list[Sequence[Node]]:
    """The sequences inside a part."""
    kind, given = node
    if kind in _REPEATS or kind is op.SUBPATTERN:
        return [list(given[-1])]
    if kind is op.ATOMIC_GROUP:
        return [list(given)]
    if kind is op.BRANCH:
        return [list(branch) for branch in given[1]]
    return []


def _of_sequence(nodes: Iterable[Node]) -> list[str]:
    """A few texts that the parts match, one after the other: the first sample of each, and each other one once."""
    samples = [_of(node) for node in nodes]
    first = [found[0] for found in samples]
    others = ["".join([*first[:n], other, *first[n + 1 :]]) for n, found in enumerate(samples) for other in found[1:]]
    return list(dict.fromkeys(["".join(first), *others]))[: _MOST_SAMPLES * 4]


def _of(node: Node) -> list[str]:
    kind, given = node
    found = [""]  # of what only looks, and of the ends of a text
    if kind is op.LITERAL:
        found = [chr(given)]
    elif kind in {op.IN, op.NOT_LITERAL, op.ANY}:
        found = _of_class(node)
    elif kind is op.BRANCH:
        found = [sample for branch in _inner(node) for sample in _of_sequence(branch)[:2]]
    elif kind in _REPEATS:
        found = [sample * max(1, given[0]) for sample in _of_sequence(_inner(node)[0])[:_MOST_SAMPLES]]
    elif kind is op.ASSERT and given[0] < 0:  # what has to stand before
        found = _of_sequence(list(given[1]))[:2]
    elif inner := _inner(node):
        found = _of_sequence(inner[0])[:_MOST_SAMPLES]
    return found


def _of_class(node: Node) -> list[str]:
    """One character of each kind that the class has, and some of the others that it has."""
    has = _tester(node)
    members = [one for one in dict.fromkeys(_PROBES) if has(one)]
    if not members:
        return [chr(next((given for kind, given in node[1] if kind is op.LITERAL), 0))]
    of_kinds = [next((one for one in members if is_kind(one)), "") for is_kind in _KINDS]
    signs = [one for one in members if one in string.punctuation]
    return [one for one in dict.fromkeys([*of_kinds, *signs, *members]) if one][:_MOST_SAMPLES]


def _tester(node: Node) -> Callable[[str], bool]:
    pattern = parser.parse("x")
    pattern.data[:] = [node]
    compiled = re._compiler.compile(pattern, 0)
    return lambda one: compiled.fullmatch(one) is not None
