"""Settings as TOML text: the effective ones with their origins, or a commented file to begin with."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from shiftboss.config.redact import redact
from shiftboss.config.settings import GROUPS, QUEUE_SETTINGS, SETTINGS, QueueSettings, Setting, Settings
from shiftboss.config.units import format_duration, format_size
from shiftboss.config.values import AUTO, Kind, Reload

_COMMENT_WIDTH: Final = 110
_ORIGIN_COLUMN: Final = 44
_RESTART_NOTE: Final = "A change takes a restart."


def toml_value(value: object) -> str:
    """One value as TOML writes it; what TOML has no word for, as Python shows it."""
    import tomli_w  # not in child processes

    try:
        return tomli_w.dumps({"v": _inline(value)}).removeprefix("v = ").strip()
    except TypeError:
        return repr(value)


def _inline(value: object) -> object:
    # A table would be written under a header of its own; inside an array it stays on one line.
    return [value] if isinstance(value, dict) else value


def plain_value(settings: Settings, setting: Setting) -> object:
    """The setting's value as TOML and JSON have it: durations as text, `"auto"` for `None`, passwords hidden."""
    value = getattr(settings, setting.field)
    if value is None:
        return AUTO
    match setting.spec.kind:
        case Kind.DURATION:
            return format_duration(value)
        case Kind.SIZE:
            return format_size(value) if value else 0
        case Kind.DATABASE_URL:
            return redact(value)
        case Kind.NAMES:
            return list(value)
        case Kind.QUEUES:
            return {name: _given(queue) for name, queue in value.items()}
        case _:
            return value


def shown(settings: Settings, setting: Setting) -> str:
    """The setting's value as TOML text."""
    return toml_value(plain_value(settings, setting))


def _given(queue: QueueSettings) -> dict[str, int]:
    values = {setting.name: getattr(queue, setting.field) for setting in QUEUE_SETTINGS}
    return {name: value for name, value in values.items() if value is not None}


def effective_toml(settings: Settings, origins: Mapping[str, str]) -> str:
    """Every setting with the place its value came from as a comment; passwords hidden."""

    def line(key: str, value: str, origin: str) -> str:
        return f"{f'{key} = {value}':{_ORIGIN_COLUMN}}  # {origin}"

    lines = [line(s.name, shown(settings, s), origins[s.name]) for s in SETTINGS if s.spec.kind is not Kind.QUEUES]
    for name, queue in settings.queues.items():
        lines += ["", _queue_header(name)]
        lines += [line(key, str(value), origins.get(f"queues.{name}.{key}", "default")) for key, value in _given(queue).items()]
    return "\n".join(lines) + "\n"


def commented_toml(settings: Settings, introduction: str, note: Callable[[Setting], str | None] = lambda _: None) -> str:
    """A complete file: every setting once, under headings, each with its comment.

    Args:
        introduction: the comment at the top.
        note: what to say of a setting besides its own words, if anything.
    """
    lines = [*_comment(introduction)]
    for setting in SETTINGS:
        if title := GROUPS.get(setting.name):
            lines += ["", f"# ---- {title}"]
        restart = _RESTART_NOTE if setting.spec.reload is Reload.RESTART else None
        lines += ["", *_comment(" ".join(filter(None, (setting.spec.doc, note(setting), restart))))]
        if setting.spec.kind is Kind.QUEUES:
            lines += list(_queue_tables(settings.queues))
        else:
            lines.append(f"{setting.name} = {shown(settings, setting)}")
    return "\n".join(lines) + "\n"


def _queue_tables(queues: Mapping[str, QueueSettings]) -> Iterator[str]:
    if not queues:
        yield from ("# [queues.mail]", "# concurrency = 4", "# weight = 2")
    for position, (name, queue) in enumerate(queues.items()):
        if position:
            yield ""
        yield _queue_header(name)
        yield from (f"{key} = {value}" for key, value in _given(queue).items())


def _queue_header(name: str) -> str:
    bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return f"[queues.{name if bare else toml_value(name)}]"


def _comment(text: str) -> list[str]:
    return [f"# {line}".rstrip() for paragraph in text.split("\n") for line in textwrap.wrap(paragraph, _COMMENT_WIDTH) or [""]]
