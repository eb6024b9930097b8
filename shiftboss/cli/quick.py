"""The command lines that must be quick, read without the library that reads the others.

That library takes longer to load than all else that `shiftboss reload` does, and a third of what `shiftboss start` does.
Only plain, right lines are read here; any other is left to it, which knows how to explain, complete and complain.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from shiftboss import commands
from shiftboss.cli.exits import INTERRUPTED, NOTHING, explain
from shiftboss.cli.operate import Request, operate
from shiftboss.config import load_settings

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
_OF_START: Final = {
    "--env": "env",
    "-e": "env",
    "--config": "config",
    "-c": "config",
    "--set": "set",
    "-s": "set",
    "--only": "only",
    "--import": "import",
    "-i": "import",
}
_KINDS: Final[Mapping[str, Callable[..., commands.AnyCommand]]] = {
    "stop": commands.Stop,
    "drain": commands.Drain,
    "resume": commands.Resume,
    "reload": commands.Reload,
    "restart": commands.Restart,
    "dump": commands.Dump,
}


def run(words: Sequence[str]) -> int | None:
    """The exit code of this command line; None: it takes more to understand it, and nothing was done."""
    request = read(words) or read_start(words)
    if request is None:
        return None
    try:
        code = operate(request) if isinstance(request, Request) else _start(request)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # nobody reads what is printed, and Python is not to try once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOTHING
    except Exception as error:  # noqa: BLE001  the one place that turns any error into a message and a code
        return explain(error)
    return code


def _start(request: StartRequest) -> NoReturn:
    loaded = load_settings(request.env, request.config, overrides=request.overrides)
    from shiftboss.service import start  # knows every part of the service

    start(loaded)


def read(words: Sequence[str]) -> Request | None:
    """What these words ask of the running service; None: it takes more to understand them."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """What `shiftboss start` is to read its settings from."""

    env: str | None = None
    config: Path | None = None
    overrides: Mapping[str, str]


def read_start(words: Sequence[str]) -> StartRequest | None:
    """The start that these words ask for; None: it takes more to understand them."""
    if words[:1] != ["start"] or len(words) % 2 == 0:
        return None
    given: dict[str, list[str]] = {name: [] for name in _OF_START.values()}
    for option, value in zip(words[1::2], words[2::2], strict=True):
        if option not in _OF_START or not value or value.startswith("-"):
            return None
        given[_OF_START[option]].append(value)
    if any("=" not in assignment for assignment in given["set"]):
        return None
    lists = {"only_queues": ",".join(given["only"]), "imports": ",".join(given["import"])}
    assigned = {name.strip(): value for name, _, value in (text.partition("=") for text in given["set"])}
    return StartRequest(
        env=given["env"][-1] if given["env"] else None,
        config=Path(given["config"][-1]) if given["config"] else None,
        overrides={**{name: text for name, text in lists.items() if text}, **assigned},
    )


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
