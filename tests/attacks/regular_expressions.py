"""Every regular expression of a tree, read from its modules: what is compiled, what is a literal of a call, and what
Pydantic is given.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_FUNCTIONS = {"compile", "search", "match", "fullmatch", "split", "findall", "finditer", "sub", "subn"}


class Found(NamedTuple):
    """A regular expression, or the place of one whose text is not in its module."""

    place: str
    pattern: str | None
    flags: int = 0


def found_in(root: Path, folder: str) -> Iterator[Found]:
    """Those of all modules of a folder, virtual environments left out."""
    for path in sorted((root / folder).rglob("*.py")):
        if not any(part.startswith(".") for part in path.relative_to(root).parts):
            yield from found_in_module(str(path.relative_to(root)), path.read_text("utf-8"))


def found_in_module(name: str, source: str) -> Iterator[Found]:
    """Those of one module."""
    module = ast.parse(source)
    constants = _constants_of(module)
    calls = [node for node in ast.walk(module) if isinstance(node, ast.Call)]
    passing = {
        (function.name, function.args.args[n].arg): n
        for function in ast.walk(module)
        if isinstance(function, ast.FunctionDef)
        for n in _parameters_used_as_patterns(function)
    }
    for call in calls:
        given = [keyword.value for keyword in call.keywords if keyword.arg == "pattern"]
        given += [call.args[n] for (function, _), n in passing.items() if _is_call_of(call, function)]
        if _is_of_re(call) and not any(isinstance(call.args[0], ast.Name) and call.args[0].id == p for _, p in passing):
            given.append(call.args[0])
        yield from (Found(f"{name}:{one.lineno}", _text(one, constants), _flags(call)) for one in given)


def _constants_of(module: ast.Module) -> dict[str, str]:
    """The module's texts by name."""
    found: dict[str, str] = {}
    for statement in module.body:
        if isinstance(statement, ast.Assign) and isinstance(target := statement.targets[0], ast.Name):
            value = _text(statement.value, found)
            found |= {} if value is None else {target.id: value}
    return found


def _is_call_of(call: ast.Call, function: str) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == function


def _is_of_re(call: ast.Call) -> bool:
    function = call.func
    return (
        isinstance(function, ast.Attribute)
        and function.attr in _FUNCTIONS
        and isinstance(function.value, ast.Name)
        and function.value.id == "re"
    )


def _parameters_used_as_patterns(function: ast.FunctionDef) -> list[int]:
    """The places of those parameters that the function gives to `re`."""
    used = {
        call.args[0].id
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and _is_of_re(call) and isinstance(call.args[0], ast.Name)
    }
    return [n for n, parameter in enumerate(function.args.args) if parameter.arg in used]


def _text(node: ast.expr, constants: Mapping[str, str]) -> str | None:
    """The text that an expression is known to have: literals, constants of the module, and both put together."""
    match node:
        case ast.Constant(value=str() as value):
            return value
        case ast.Constant(value=bytes() as data):
            return data.decode("latin-1")
        case ast.Name(id=name):
            return constants.get(name)
        case ast.FormattedValue(value=inner):
            return _text(inner, constants)
        case ast.JoinedStr(values=parts):
            texts = [_text(part, constants) for part in parts]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            texts = [_text(left, constants), _text(right, constants)]
        case _:
            return None
    known = [text for text in texts if text is not None]
    return "".join(known) if len(known) == len(texts) else None


def _flags(call: ast.Call) -> int:
    """The flags that are named in the call."""
    given = [*call.args[1:], *(keyword.value for keyword in call.keywords if keyword.arg == "flags")]
    names = {node.attr for argument in given for node in ast.walk(argument) if isinstance(node, ast.Attribute)}
    return sum(getattr(re, name) for name in names if isinstance(getattr(re, name, None), re.RegexFlag))
