"""What one setting may be, and how its text becomes a value: durations, sizes, switches, whole numbers, lists, URLs. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec

from shiftboss.config.units import format_duration, format_size, parse_duration, parse_size

AUTO: Final = "auto"  # how an optional number says None: TOML has no null
OFF: Final = "off"

_WHOLE_NUMBER = re.compile(r"-?\d{1,18}", re.ASCII)
# As libpq splits it: a user up to the first "@", hosts with ports, a database and options. A second "@" is in a password.
_HOST = r"(?:\[[^\]/?@]+\]|[^:,/?@\s]*)(?::[0-9]{0,5})?"
_HOSTS = rf"{_HOST}(?:,{_HOST})*"
_POSTGRES_REST = re.compile(rf"(?=.)(?:[^@/]*@{_HOSTS}(?:[/?][^@]*)?|{_HOSTS}(?:/[^?@]*)?(?:\?.*)?)", re.DOTALL)
_MAX_SOCKET_PATH_BYTES: Final = 107  # of a Unix socket's address, less the final zero
_SWITCHES: Final = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class Kind(StrEnum):
    """What a setting's value looks like in TOML."""

    TEXT = "text"
    DATABASE_URL = "database URL"
    NAMES = "list of names"
    WHOLE = "whole number"
    SWITCH = "true or false"
    DURATION = "duration"
    SIZE = "size"
    SOCKET = "path of a socket"
    CHOICE = "one of"
    QUEUES = "tables"


class Reload(StrEnum):
    """What a reload does to make a changed setting apply."""

    LIVE = "live"  # the actors are told
    EXECUTORS = "executors"  # new executors have it; every reload replaces them
    GATEWAY = "gateway"  # the gateway is replaced
    RESTART = "restart"  # nothing would do; the reload is refused


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of one setting.

    Attributes:
        doc: for people, one or more sentences; becomes the comment in TOML files and the entry in the reference.
        low, high: bounds, inclusive; of a duration in seconds, of a size in bytes.
        optional: `"auto"` is allowed and means `None`.
        variable: the bare environment variable, besides `SHIFTBOSS_<NAME>`.
        reload: what a reload that changes it does.
    """

    kind: Kind
    doc: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False
    variable: str | None = None
    reload: Reload = Reload.LIVE


def expected(spec: Spec) -> str:
    """What would be right, as the end of a sentence that begins with "must be"."""
    match spec.kind:
        case Kind.DURATION:
            right = f"a duration{_bounds(spec, format_duration)} like 500ms, 30s, 1m, 2h, 7d, or a number of seconds"
        case Kind.SIZE:
            right = f"a size{_bounds(spec, lambda bound: format_size(int(bound)))} like 512MiB, 2GiB, or a number of bytes"
        case Kind.WHOLE:
            right = f"a whole number{_bounds(spec, lambda bound: str(int(bound)))}"
        case Kind.CHOICE:
            right = "one of " + ", ".join(spec.choices)
        case other:
            right = _EXPECTED[other]
    return f'{right}, or "{AUTO}"' if spec.optional else right


_EXPECTED: Final = {
    Kind.SWITCH: "true or false",
    Kind.NAMES: 'a list of names like ["first", "second"]; in a variable separated by commas',
    Kind.QUEUES: "tables [queues.NAME] with concurrency and weight",
    Kind.DATABASE_URL: "sqlite:///path/to/file.db or postgresql://user@host:port/database; "
    "in a password @ : / ? and % are written %40 %3A %2F %3F and %25",
    Kind.SOCKET: f'"{AUTO}", "{OFF}" or an absolute path of at most {_MAX_SOCKET_PATH_BYTES} bytes',
    Kind.TEXT: "text that is not empty",
}


def _bounds(spec: Spec, show: Callable[[float], str]) -> str:
    if spec.low is not None and spec.high is not None:
        return f" from {show(spec.low)} to {show(spec.high)}"
    if spec.low is not None:
        return f" of at least {show(spec.low)}"
    return f" of at most {show(spec.high)}" if spec.high is not None else ""


def from_text(spec: Spec, text: str) -> object:
    """The text of a variable or a command line as TOML would have said it; what does not fit stays text."""
    stripped = text.strip()
    if spec.kind is Kind.WHOLE and _WHOLE_NUMBER.fullmatch(stripped):
        return int(stripped)
    if spec.kind is Kind.SWITCH:
        return _SWITCHES.get(stripped.lower(), text)
    if spec.kind is Kind.NAMES:
        return [name.strip() for name in stripped.split(",") if name.strip()]
    if spec.kind is Kind.QUEUES:
        import tomllib  # rarely needed, and every child process imports this package

        try:
            return tomllib.loads(f"value = {stripped}")["value"]
        except tomllib.TOMLDecodeError:
            return text
    return stripped


def parse(spec: Spec, value: object) -> object:
    """A TOML value as the field of `Settings` wants it.

    Raises:
        ValueError: it does not follow the rules; the message is what `expected` says.
    """
    if spec.optional and value == AUTO:
        return None
    parsed = _PARSERS[spec.kind](value)
    if parsed is None or not _within(spec, parsed):
        raise ValueError(f"must be {expected(spec)}")
    return parsed


def _within(spec: Spec, parsed: object) -> bool:
    if spec.choices:
        return parsed in spec.choices
    if isinstance(parsed, int | float) and not isinstance(parsed, bool):
        return (spec.low is None or parsed >= spec.low) and (spec.high is None or parsed <= spec.high)
    return True


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() and "\0" not in value else None


def _database_url(value: object) -> str | None:
    """Only the shape, but that with care: libpq's errors repeat what it takes for a host or a port.

    Whether it can be reached is known when it is opened. In memory would be one database a process.
    """
    url = _text(value)
    if url is None:
        return None
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite":
        return url if rest.startswith("/") and len(rest) > 1 and ":memory:" not in rest else None
    return url if separator and scheme in ("postgresql", "postgres") and _POSTGRES_REST.fullmatch(rest) else None


def _names(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list) or not all(isinstance(name, str) and name.strip() for name in value):
        return None
    return tuple(value)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _switch(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _duration(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) and value >= 0 else None
    if not isinstance(value, str):
        return None
    try:
        return parse_duration(value)
    except ValueError:
        return None


def _size(value: object) -> int | None:
    if not isinstance(value, str):
        return _whole(value)
    try:
        return parse_size(value)
    except ValueError:
        return None


def _socket(value: object) -> str | None:
    """Absolute: programs that look for it run elsewhere than the service."""
    path = _text(value)
    if path in (None, AUTO, OFF):
        return path
    return path if path.startswith("/") and len(path.encode()) <= _MAX_SOCKET_PATH_BYTES else None


_PARSERS: Final[Mapping[Kind, Callable[[object], object]]] = MappingProxyType(
    {
        Kind.TEXT: _text,
        Kind.DATABASE_URL: _database_url,
        Kind.NAMES: _names,
        Kind.WHOLE: _whole,
        Kind.SWITCH: _switch,
        Kind.DURATION: _duration,
        Kind.SIZE: _size,
        Kind.SOCKET: _socket,
        Kind.CHOICE: _text,
    }
)
