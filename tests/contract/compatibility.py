"""What a change breaks: pure functions over two versions of a catalogue, an OpenAPI document or an event's schema.

All of it rests on one question about JSON schemas, `widenings`: where may a value be valid under one and not under the
other? Requests must keep fitting: what was taken is taken still. Answers and events must keep their promises: what is
sent now fits what was promised. A keyword that is not known here is compared as it is: its change is reported, not
overlooked.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

type Json = Mapping[str, Any]

_AT_LEAST = ("minimum", "exclusiveMinimum", "minLength", "minItems")
_AT_MOST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")
_SAME = ("pattern", "format", "uniqueItems", "multipleOf", "not", "allOf", "oneOf", "discriminator", "propertyNames")
_PROSE = frozenset({"title", "description", "examples", "example", "default", "writeOnly", "deprecated", "$defs"})
_KNOWN = frozenset(
    {*_AT_LEAST, *_AT_MOST, *_SAME, *_PROSE, "type", "enum", "const", "anyOf", "items", "properties", "required"}
    | {"additionalProperties", "$ref", "x-extensible"}
)


def broken_catalogue(old: Json, new: Json) -> list[str]:
    """Codes that are gone, or mean something else to a client than they did."""
    return [f"code {code} was removed" for code in old if code not in new] + [
        f"code {code}: {fact} was {old[code][fact]}, is {new[code][fact]}"
        for code in old
        if code in new
        for fact in ("status", "retryable")
        if old[code][fact] != new[code][fact]
    ]


def broken_event(old: Json, new: Json) -> list[str]:
    """What a consumer of the event would miss or not understand; a new `version` is a new event."""
    if new["version"] > old["version"]:
        return []
    moved = [f"{fact} was {old[fact]}, is {new[fact]}" for fact in ("version", "stream") if old[fact] != new[fact]]
    schemas = new["schema"], old["schema"]
    return moved + list(widenings(*schemas, of=schemas[0], to=schemas[1], at="payload", keeps_properties=True))


def broken_document(old: Json, new: Json) -> list[str]:
    """What a client of the OpenAPI document would run into."""
    found = chain.from_iterable(
        _broken_operation(f"{method.upper()} {path}", operation, new["paths"].get(path, {}).get(method), old, new)
        for path, item in old["paths"].items()
        for method, operation in item.items()
    )
    return list(found)


def _broken_operation(name: str, before: Json, after: Json | None, old: Json, new: Json) -> Iterator[str]:
    if after is None:
        yield f"{name} was removed"
        return
    for fact in ("operationId", "security"):
        if before.get(fact) != after.get(fact):
            yield f"{name}: {fact} was {before.get(fact)}, is {after.get(fact)}"
    yield from _broken_parameters(name, before.get("parameters", ()), after.get("parameters", ()), old, new)
    yield from _broken_body(f"{name}: body", before.get("requestBody", {}), after.get("requestBody", {}), old, new)
    for status, response in before["responses"].items():
        yield from _broken_response(f"{name}: {status}", response, after["responses"].get(status), old, new)


def _broken_parameters(name: str, before: Sequence[Json], after: Sequence[Json], old: Json, new: Json) -> Iterator[str]:
    known = {(one["in"], one["name"]): one for one in before}
    taken = {(one["in"], one["name"]): one for one in after}
    for place, key in known.keys() - taken.keys():
        yield f"{name}: {place} {key} is no longer taken"
    for (place, key), parameter in taken.items():
        earlier = known.get((place, key))
        if parameter.get("required") and not (earlier and earlier.get("required")):
            yield f"{name}: {place} {key} is now required"
        if earlier:
            yield from widenings(earlier["schema"], parameter["schema"], of=old, to=new, at=f"{name}: {place} {key}")


def _broken_body(at: str, before: Json, after: Json, old: Json, new: Json) -> Iterator[str]:
    if after.get("required") and not before.get("required"):
        yield f"{at} is now required"
    for kind, content in before.get("content", {}).items():
        if kind not in after.get("content", {}):
            yield f"{at} {kind} is no longer taken"
        else:
            yield from widenings(content["schema"], after["content"][kind]["schema"], of=old, to=new, at=at)


def _broken_response(at: str, before: Json, after: Json | None, old: Json, new: Json) -> Iterator[str]:
    if after is None:
        if at[-3] == "2":  # an error that no longer happens is missed by nobody
            yield f"{at} is no longer answered"
        return
    for name, header in before.get("headers", {}).items():
        if header.get("required") and not after.get("headers", {}).get(name, {}).get("required"):
            yield f"{at}: header {name} is no longer promised"
    for kind, content in before.get("content", {}).items():
        if kind not in after.get("content", {}):
            yield f"{at} {kind} is no longer answered"
        else:
            schema = after["content"][kind]["schema"]
            yield from widenings(schema, content["schema"], of=new, to=old, at=at, keeps_properties=True)


def widenings(
    narrow: Json,
    wide: Json,
    *,
    of: Json,
    to: Json,
    at: str,
    keeps_properties: bool = False,
    seen: frozenset[tuple[str, str]] = frozenset(),
) -> Iterator[str]:
    """Where a value of `narrow` need not be one of `wide`. `of` and `to` are the documents that hold their `$ref`s.

    With `keeps_properties` an optional property of `wide` has to be known to `narrow`, too: whoever reads it would
    never see it again.
    """
    refs = narrow.get("$ref", ""), wide.get("$ref", "")
    if all(refs) and refs in seen:
        return
    narrow, wide = _resolve(narrow, of), _resolve(wide, to)
    deeper = {"of": of, "to": to, "keeps_properties": keeps_properties, "seen": seen | {refs}}
    if "anyOf" in narrow or "anyOf" in wide:
        yield from _widened_alternatives(narrow, wide, at, deeper)
        return
    yield from _widened_values(narrow, wide, at)
    yield from _widened_limits(narrow, wide, at)
    if "items" in wide:
        yield from widenings(narrow.get("items", {}), wide["items"], at=f"{at}[]", **deeper)
    yield from _widened_properties(narrow, wide, at, deeper)


def _widened_alternatives(narrow: Json, wide: Json, at: str, deeper: dict[str, Any]) -> Iterator[str]:
    others = wide.get("anyOf", (wide,))
    for one in narrow.get("anyOf", (narrow,)):
        found = [list(widenings(one, other, at=at, **deeper)) for other in others]
        if all(found):
            names = ", ".join(_name(other) for other in others)
            yield from found[0] if len(found) == 1 else (f"{at}: {_name(one)} fits none of {names}",)


def _widened_values(narrow: Json, wide: Json, at: str) -> Iterator[str]:
    if "type" in wide and narrow.get("type") != wide["type"] and (narrow.get("type"), wide["type"]) != _INTEGERS:
        yield f"{at}: type {narrow.get('type', 'any')} is no {wide['type']}"
    allowed, possible = _values(wide), _values(narrow)
    if allowed is not None and not wide.get("x-extensible"):
        if possible is None:
            yield f"{at}: any value, where only {', '.join(allowed)} are known"
        elif extra := [value for value in possible if value not in allowed]:
            yield f"{at}: {', '.join(extra)} not among {', '.join(allowed)}"
    for keyword in (*_SAME, *sorted(wide.keys() - _KNOWN)):
        if keyword in wide and narrow.get(keyword) != wide[keyword]:
            yield f"{at}: {keyword} {narrow.get(keyword)} is not {wide[keyword]}"


def _widened_limits(narrow: Json, wide: Json, at: str) -> Iterator[str]:
    for keyword in _AT_LEAST:
        if keyword in wide and narrow.get(keyword, float("-inf")) < wide[keyword]:
            yield f"{at}: {keyword} {narrow.get(keyword)} is below {wide[keyword]}"
    for keyword in _AT_MOST:
        if keyword in wide and narrow.get(keyword, float("inf")) > wide[keyword]:
            yield f"{at}: {keyword} {narrow.get(keyword)} is above {wide[keyword]}"


def _widened_properties(narrow: Json, wide: Json, at: str, deeper: dict[str, Any]) -> Iterator[str]:
    known, given = wide.get("properties", {}), narrow.get("properties", {})
    for name in (name for name in wide.get("required", ()) if name not in narrow.get("required", ())):
        yield f"{at}.{name} may be missing"
    for name, schema in given.items():
        if name in known:
            yield from widenings(schema, known[name], at=f"{at}.{name}", **deeper)
        elif wide.get("additionalProperties") is False:
            yield f"{at}.{name} is not known"
    if deeper["keeps_properties"]:
        yield from (f"{at}.{name} is gone" for name in known if name not in given)
    if wide.get("additionalProperties") is False and narrow.get("additionalProperties") is not False:
        yield f"{at}: unknown properties are refused" if narrow.get("type") == "object" else f"{at}: is no object"


def _resolve(schema: Json, document: Json) -> Json:
    """The schema that a `$ref` leads to, with what stands beside it."""
    if "$ref" not in schema:
        return schema
    found: Any = document
    for step in schema["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return _resolve({**found, **{key: value for key, value in schema.items() if key != "$ref"}}, document)


def _values(schema: Json) -> list[str] | None:
    found = schema.get("enum", [schema["const"]] if "const" in schema else None)
    return None if found is None else [repr(value) for value in found]


def _name(schema: Json) -> str:
    return str(schema.get("$ref", schema.get("type", "any"))).rpartition("/")[2]


_INTEGERS = ("integer", "number")
