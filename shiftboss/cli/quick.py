"""The command lines that must be quick, read without the library that reads the others.

That library takes longer to load than all else that `shiftboss reload` does. Only plain, right lines are read here; any
other is left to it, which knows how to explain, complete and complain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from shiftboss import commands
from shiftboss.cli.operate import Request

_SWITCHES: Final[Mapping[str, Mapping[str, tuple[str, bool] | None]]] = {
    "stop": {"--now": ("now", True)},
    "drain": {"--no-wait": ("wait", False)},
    "reload": {"--wait": None},
}
_WITH_VALUE: Final = {
    "--env": "env",
    "-e": "env",
    "--config": "config",
    "-c": "config",
    "--socket": "socket",
    "--timeout": "timeout_s",
}
_KINDS: Final[Mapping[str, Callable[..., commands.AnyCommand]]] = {
    "stop": commands.Stop,
    "drain": commands.Drain,
    "resume": commands.Resume,
    "reload": commands.Reload,
    "restart": commands.Restart,
    "dump": commands.Dump,
}


def read(words: Sequence[str]) -> Request | None:
    """The request in these words; None: it takes more to understand them."""
    if not words or words[0] not in _KINDS:
        return None
    options: dict[str, Any] = {}
    details: dict[str, bool] = {}
    rest = iter(words[1:])
    for word in rest:
        if word == "--json":
            options["as_json"] = True
        elif word in _SWITCHES.get(words[0], {}):
            switch = _SWITCHES[words[0]][word]
            details.update([switch] if switch else [])
        elif not _take(options, word, next(rest, "")):
            return None
    return Request(command=_KINDS[words[0]](**details), **options)


def _take(options: dict[str, Any], word: str, value: str) -> bool:
    """Whether this is an option with a value that can only mean one thing."""
    name = _WITH_VALUE.get(word)
    if name is None or not value or value.startswith("-"):
        return False
    if name == "timeout_s":
        if not (value.isascii() and value.isdigit()):
            return False
        options[name] = float(value)
    else:
        options[name] = value if name == "env" else Path(value)
    return True
