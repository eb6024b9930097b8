"""What JSON would change or the databases would refuse: found when a task is enqueued, not when it runs.

msgspec writes NaN as null, a datetime under an unannotated parameter as a string, a set as a list. Each would reach the
handler as something else than what was passed, so each is named and refused.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

MAX_DEPTH: Final = 100  # SQLite's JSON functions stop at 1,000, and a stack is not free anywhere
MIN_INT: Final = -(2**63)
MAX_INT: Final = 2**64 - 1

_LONG_DIGITS: Final = 19  # from here on it may be beyond 64 bits
_LONG_NUMBER: Final = re.compile(rb"[0-9]{%d}" % _LONG_DIGITS)
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NOT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SCALARS: Final = (str, int, float, bool, type(None))


class Flaw(NamedTuple):
    """One value that cannot be stored, or would come back as something else: where it is, and why."""

    path: str
    why: str


def suspicious(raw: bytes) -> bool:
    """Whether the JSON text may hold a NUL, a number beyond 64 bits or too deep a nesting: look with `first_unstorable`."""
    size = len(raw)  # most arguments are too short for a long number or for deep nesting
    return (
        b"\\u0000" in raw
        or (size >= _LONG_DIGITS and _LONG_NUMBER.search(raw) is not None)
        or (size > 2 * MAX_DEPTH and _may_be_deep(raw))
    )


def _may_be_deep(raw: bytes) -> bool:
    brackets = raw.translate(None, _NOT_BRACKETS)
    if len(brackets) <= 2 * MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):  # each round takes the innermost level away, at the speed of C
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if not brackets:
            return False
    return True


def first_unstorable(value: object, path: str, depth: int = 0) -> Flaw | None:
    """The first part of `value` that no JSON text can hold, or none of the databases would take."""
    if depth > MAX_DEPTH:
        return Flaw(
            path, f"is nested deeper than {MAX_DEPTH} levels, or contains itself; store it elsewhere and pass a reference"
        )
    if isinstance(value, str):
        return _unstorable_text(value, path)
    if isinstance(value, float) and not math.isfinite(value):
        return Flaw(path, f"is {value}, which JSON cannot hold; pass None or a string instead")
    if isinstance(value, int) and not MIN_INT <= value <= MAX_INT:
        return Flaw(path, "is a number beyond 64 bits; pass it as a string or a Decimal")
    if isinstance(value, dict):
        return _first(_unstorable_items(value, path, depth))
    if isinstance(value, list | tuple | set | frozenset):
        return _first(first_unstorable(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value))
    if value is None or isinstance(value, int | float):
        return None
    return _unstorable_object(value, path, depth)


def _unstorable_text(value: str, path: str) -> Flaw | None:
    if "\0" in value:
        return Flaw(path, "holds a NUL character, which PostgreSQL cannot store; remove it or pass bytes")
    if _SURROGATE.search(value):
        return Flaw(
            path, "holds a lone surrogate, which is not valid Unicode; decode the text with errors='replace' or pass bytes"
        )
    return None


def _unstorable_items(value: dict[Any, Any], path: str, depth: int) -> Iterator[Flaw | None]:
    for key, item in value.items():
        yield first_unstorable(key, f"a key of {path}", depth + 1)
        yield first_unstorable(item, f"{path}[{key!r}]", depth + 1)


def _unstorable_object(value: object, path: str, depth: int) -> Flaw | None:
    try:
        plain = msgspec.to_builtins(value)
    except RecursionError:
        return Flaw(
            path, f"is nested deeper than {MAX_DEPTH} levels, or contains itself; store it elsewhere and pass a reference"
        )
    except (TypeError, ValueError):
        return Flaw(
            path, f"holds something that has no JSON form in a {type(value).__qualname__}; pass its plain data or a dataclass"
        )
    if isinstance(plain, list | dict | str):
        return first_unstorable(plain, path, depth + 1)
    return None


def _first(flaws: Iterable[Flaw | None]) -> Flaw | None:
    return next((flaw for flaw in flaws if flaw is not None), None)


def first_difference(sent: Any, back: Any, path: str) -> Flaw | None:
    """Where `back`, which is `sent` after the round trip, is something else to a handler.

    A tuple may come back as a list, an int as a float, and a `str` or `int` subclass (an enum) as its base class.
    """
    if isinstance(back, _SCALARS):
        return _scalar_difference(sent, back, path)
    if isinstance(back, list):
        return _list_difference(sent, back, path)
    if isinstance(back, tuple) and type(sent) in (list, tuple, type(back)):
        return _each(list(sent), list(back), path)
    if isinstance(back, dict):
        return _dict_difference(sent, back, path)
    return _object_difference(sent, back, path)


def _changed(sent: Any, back: Any, path: str) -> Flaw:
    sent_type, back_type = type(sent).__qualname__, type(back).__qualname__
    if isinstance(sent, float) and not math.isfinite(sent):
        return Flaw(path, f"is {sent}, which JSON cannot hold; pass None or a string instead")
    return Flaw(
        path, f"is a {sent_type} and would reach the handler as a {back_type}; annotate it as {sent_type} or pass a {back_type}"
    )


def _scalar_difference(sent: Any, back: Any, path: str) -> Flaw | None:
    same_kind = isinstance(sent, type(back)) or (isinstance(back, float) and isinstance(sent, int))
    return None if same_kind and equal(sent, back) else _changed(sent, back, path)


def _list_difference(sent: Any, back: list[Any], path: str) -> Flaw | None:
    if not isinstance(sent, list | tuple):
        return _changed(sent, back, path)
    return _each(list(sent), back, path)


def _each(sent: list[Any], back: list[Any], path: str) -> Flaw | None:
    return _first(first_difference(s, b, f"{path}[{i}]") for i, (s, b) in enumerate(zip(sent, back, strict=True)))


def _dict_difference(sent: Any, back: dict[Any, Any], path: str) -> Flaw | None:
    if not isinstance(sent, dict):
        return _changed(sent, back, path)
    for key in sent:
        if key not in back:
            return Flaw(f"a key of {path}", f"is {key!r} and would reach the handler as text; annotate the type of the keys")
    return _first(first_difference(sent[key], back[key], f"{path}[{key!r}]") for key in sent)


def _object_difference(sent: Any, back: Any, path: str) -> Flaw | None:
    if equal(sent, back):
        return None
    names = _fields(back)
    if type(sent) is not type(back) or names is None:
        # Equality is not everybody's: an object that says nothing about it is compared by what it would be as JSON.
        return None if type(sent) is type(back) and _as_json(sent) == _as_json(back) else _changed(sent, back, path)
    return _first(first_difference(getattr(sent, name), getattr(back, name), f"{path}.{name}") for name in names)


def _fields(value: object) -> tuple[str, ...] | None:
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if dataclasses.is_dataclass(value):
        return tuple(field.name for field in dataclasses.fields(value))
    return None


def _as_json(value: object) -> bytes:
    return msgspec.json.encode(value, order="deterministic")


def equal(sent: Any, back: Any) -> bool:
    """`==`, and `False` when it raises."""
    try:
        return bool(sent == back)
    except Exception:  # noqa: BLE001  somebody's __eq__; then the fields decide
        return False


def type_nodes(kind: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    """Every type inside an annotation, itself included; recursive ones end."""
    seen: set[int] = set()
    todo: list[object] = [kind]
    visit: Callable[[object], None] = todo.append
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, msgspec.inspect.Type):
            yield node
        for child in _children(node):
            visit(child)


def _children(node: object) -> Iterable[object]:
    if isinstance(node, tuple | list):
        return node
    if isinstance(node, msgspec.inspect.Type | msgspec.inspect.Field):
        return [getattr(node, name) for name in node.__struct_fields__]
    return ()
