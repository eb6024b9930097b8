"""Hides passwords in text that people will see. Hiding too much is the safe mistake. Pure."""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "***"

# Greedy up to the last "@": a password may hold any character. One slash is what `Path` leaves of two.
_URL_PASSWORD = re.compile(r"(:/{1,2}[^/:]*:).*@", re.DOTALL)
# Without an "@" in sight what stands in a port's place and is none may be a password whose "@" was forgotten.
_URL_NO_PORT = re.compile(r"(:/{1,2}(?!\[)[^/\s:]*:)(?!\*\*\*|\d{0,5}(?:[\s,/?#&\"'`)\]};.]|:\s|$))[^\s\"']*")
_NAMED_PASSWORD = re.compile(r"(?i)((?:password|passwd|secret|token)\s*=\s*)(?:(\\?['\"]).*?(?:\2|$)|[^&\s']+)")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{1,30}", re.ASCII)


def redact(text: str) -> str:
    """The text with every password in it replaced by `***`: of a URL, and `password=…` of a connection string."""
    hidden = _URL_NO_PORT.sub(rf"\1{HIDDEN}", _URL_PASSWORD.sub(rf"\1{HIDDEN}@", text))
    return _NAMED_PASSWORD.sub(rf"\1{HIDDEN}", hidden)


def redact_wrong_url(value: object) -> str:
    """What may be said of a database URL that is none: its scheme. Where in it a password would be, nobody knows."""
    if not isinstance(value, str):
        return f"a value of type {type(value).__name__}"
    if value.startswith("sqlite:"):
        return f'"{redact(value)}"'
    scheme, separator, _ = value.partition("://")
    return f'"{scheme}://{HIDDEN}"' if separator and _SCHEME.fullmatch(scheme) else f'"{HIDDEN}"'
