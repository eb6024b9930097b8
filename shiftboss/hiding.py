"""The repr of structs that hold secrets: it gets into messages and tracebacks that nobody thought of."""

from __future__ import annotations

import msgspec


def repr_without(struct: msgspec.Struct, hidden: str) -> str:
    """As a struct's own repr, without the field `hidden`."""
    shown = (f"{name}={getattr(struct, name)!r}" for name in struct.__struct_fields__ if name != hidden)
    return f"{type(struct).__name__}({', '.join(shown)})"
