"""Values on their way in: arrays in one piece, and text that PostgreSQL can store.

A batch travels as a few arrays: building their literals by `str.join` costs a tenth of adapting each element. What every end
of an attempt has goes in binary form, which spares both sides the digits.
"""

from __future__ import annotations

import re
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Final, cast

import psycopg
from psycopg import abc as pg_abc
from psycopg import adapt, postgres, pq

_HEAD: Final = struct.Struct("!iiiii")  # dimensions, whether it has NULLs, the elements' type, how many, the first one's number
_NULL: Final = struct.pack("!i", -1)
_FLOAT8: Final = struct.Struct("!id")
_LENGTH: Final = b"\x08"
_UUID_LENGTH: Final = "00000010"
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_NO_TEXT: Final = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")


def text_array(values: Iterable[str | None]) -> str:
    """An array literal of texts; every text must be storable (see `storable`)."""
    return "{" + ",".join("NULL" if v is None else _quoted(v) for v in values) + "}"


def plain_array(values: Iterable[object]) -> str:
    """An array literal of UUIDs, numbers or booleans, which need no quotes; `None` becomes NULL."""
    return "{" + ",".join("NULL" if v is None else str(v) for v in values) + "}"


class BinaryArray:
    """An array parameter as the protocol carries it; see `register_arrays`."""

    __slots__ = ("body", "count", "has_null")
    element = ""  # name of the elements' type

    def __init__(self, body: bytes, count: int, has_null: bool = False) -> None:
        self.body, self.count, self.has_null = body, count, has_null


class UuidArray(BinaryArray):
    """Of UUIDs."""

    element = "uuid"


class FloatArray(BinaryArray):
    """Of double precision."""

    element = "float8"


class IntArray(BinaryArray):
    """Of bigint."""

    element = "int8"


def uuid_array(ids: Sequence[str]) -> UuidArray | None:
    """The ids as an array; `None` when not all of them are UUIDs in the usual form of 36 characters."""
    count = len(ids)
    text = ",".join(ids)
    if len(text) != 37 * count - 1 or text[36::37] != "," * (count - 1):
        return None
    if any(text[at::37] != "-" * count for at in (8, 13, 18, 23)):
        return None
    try:
        body = bytes.fromhex(_UUID_LENGTH + text.replace("-", "").replace(",", _UUID_LENGTH))
    except ValueError:
        return None
    return UuidArray(body, count) if len(body) == 20 * count else None  # fromhex passes over blanks


def float_array(values: Sequence[float | None]) -> FloatArray:
    if None not in values:
        return FloatArray(_eights(array("d", cast("Sequence[float]", values))), len(values))
    pack = _FLOAT8.pack
    body = b"".join([_NULL if value is None else pack(8, value) for value in values])
    return FloatArray(body, len(values), has_null=True)


def int_array(values: Sequence[int]) -> IntArray:
    return IntArray(_eights(array("q", values)), len(values))


def _eights(values: array[int] | array[float]) -> bytes:
    """Each with its length before it and its most significant byte first. Byte by byte of all of them: a fifth of one by one."""
    if sys.byteorder == "little":
        values.byteswap()
    plain, body = values.tobytes(), bytearray(12 * len(values))
    body[3::12] = _LENGTH * len(values)
    for place in range(8):
        body[4 + place :: 12] = plain[place::8]
    return bytes(body)


class _ArrayDumper(adapt.Dumper):
    """Already in the form that travels: what is left is the head."""

    format = pq.Format.BINARY
    element_oid = 0

    def dump(self, obj: BinaryArray) -> pg_abc.Buffer | None:
        return _HEAD.pack(1, obj.has_null, self.element_oid, obj.count, 1) + obj.body


def register_arrays(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Have `connection` take our arrays as parameters."""
    for kind in (UuidArray, FloatArray, IntArray):
        info = postgres.types[kind.element]
        dumper = type(f"{kind.__name__}Dumper", (_ArrayDumper,), {"oid": info.array_oid, "element_oid": info.oid})
        connection.adapters.register_dumper(kind, dumper)


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def storable(text: str | None, limit: int | None = None) -> str | None:
    """`text` as PostgreSQL can keep it: NUL and lone surrogates become U+FFFD; cut to `limit` characters."""
    if text is None:
        return None
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def may_be_no_text(json: bytes) -> bool:
    """Whether JSON may name a NUL or half a surrogate pair: a json column takes it, and who reads it as text is refused."""
    return b"\\u" in json and _NO_TEXT.search(json) is not None


def ascii_only(text: str | None) -> str | None:
    """The last resort, for a database whose encoding lacks a character."""
    return None if text is None else text.encode("ascii", "backslashreplace").decode("ascii")
