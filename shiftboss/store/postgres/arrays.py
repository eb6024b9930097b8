"""Values on their way in: array literals in one string, and text that PostgreSQL can store.

A batch travels as a few array literals: building them by `str.join` costs a tenth of adapting each element.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def text_array(values: Iterable[str | None]) -> str:
    """An array literal of texts; every text must be storable (see `storable`)."""
    return "{" + ",".join("NULL" if v is None else _quoted(v) for v in values) + "}"


def plain_array(values: Iterable[object]) -> str:
    """An array literal of UUIDs, numbers or booleans, which need no quotes; `None` becomes NULL."""
    return "{" + ",".join("NULL" if v is None else str(v) for v in values) + "}"


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


def ascii_only(text: str | None) -> str | None:
    """The last resort, for a database whose encoding lacks a character."""
    return None if text is None else text.encode("ascii", "backslashreplace").decode("ascii")
