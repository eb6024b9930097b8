"""Collects values and mistakes from one source after another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from shiftboss.config.check import RULES
from shiftboss.config.credentials import SecretError, places, read_secret
from shiftboss.config.files import drop_ins_of, read_toml
from shiftboss.config.locate import line_of
from shiftboss.config.redact import redact, redact_wrong_url
from shiftboss.config.settings import QUEUE_SETTINGS, SETTINGS, QueueSettings, Setting, Settings
from shiftboss.config.show import shown, toml_value
from shiftboss.config.values import Kind, expected, from_text, parse
from shiftboss.errors import ConfigError

DEFAULT: Final = "default"

_BY_NAME: Final = {setting.name: setting for setting in SETTINGS}
_QUEUE_BY_NAME: Final = {setting.name: setting for setting in QUEUE_SETTINGS}
# A variable of somebody else's that merely begins with SHIFTBOSS_ is no mistake of ours; this close, it is.
_VARIABLE_LIKENESS: Final = 0.9
# What the processes of a service tell each other in the environment.
INTERNAL_VARIABLES: Final = frozenset(
    {
        "SHIFTBOSS_SETTINGS",
        "SHIFTBOSS_SOURCE",
        "SHIFTBOSS_LISTEN_FD",
        "SHIFTBOSS_CONTROL_FD",
        "SHIFTBOSS_BOARD_FD",
        "SHIFTBOSS_TABLE_FD",
        "SHIFTBOSS_PARENT_PID",
        "SHIFTBOSS_CHILD_NAME",
        "SHIFTBOSS_INCARNATION",
    }
)
_MAX_SHOWN_CHARS: Final = 200


class Reading(msgspec.Struct):
    """What has been read so far. A later source replaces an earlier one; a mistake stays."""

    values: dict[str, Any] = msgspec.field(default_factory=dict)  # field -> value
    origins: dict[str, str] = msgspec.field(default_factory=dict)
    mistakes: list[str] = msgspec.field(default_factory=list)
    wrong: set[str] = msgspec.field(default_factory=set)

    def read_files(self, path: Path) -> tuple[Path, ...]:
        """A TOML file and its drop-ins, each of which may set any of it anew. Returns the drop-ins.

        Raises:
            ConfigError: one of them cannot be read, or is not TOML.
        """
        self.read_file(path)
        found = drop_ins_of(path)
        for drop_in in found:
            self.read_file(drop_in)
        return found

    def read_file(self, path: Path) -> None:
        tables, lines = read_toml(path)
        for name, value in tables.items():
            line = line_of(lines, (name,))
            where = f"{path}:{line}" if line else str(path)
            if name == "queues":
                self._take_queues(value, where, {p: f"{path}:{n}" for p, n in lines.items()})
            else:
                self._take(name, value, where)

    def read_secrets(self, environ: Mapping[str, str]) -> None:
        """What stands in files of its own. A file that is of no use is a mistake even where a later source wins."""
        for setting in SETTINGS:
            for path, name in places(setting, environ) if setting.file_variables else ():
                try:
                    self.take_text(setting.name, read_secret(path), name)
                except SecretError as error:
                    self.wrong.add(setting.name)
                    self.mistakes.append(f"{name}: {error}")

    def read_variables(self, environ: Mapping[str, str]) -> None:
        """An empty variable is one that is not set."""
        for setting in SETTINGS:
            for variable in setting.variables:
                if text := environ.get(variable):
                    self.take_text(setting.name, text, f"environment variable {variable}")
                    break
        known = {variable for setting in SETTINGS for variable in (*setting.variables, *setting.file_variables)}
        strange = {name for name in environ if name.startswith("SHIFTBOSS_")} - known - INTERNAL_VARIABLES
        for variable in sorted(strange):
            if near := _nearest(variable, known, _VARIABLE_LIKENESS):
                self.mistakes.append(f"environment variable {variable}: no such setting; did you mean {near}?")

    def take_text(self, name: str, text: str, where: str) -> None:
        """One setting from a variable or the command line."""
        setting = _BY_NAME.get(name)
        value: object = from_text(setting.spec, text) if setting else text
        if setting and setting.spec.kind is Kind.QUEUES:
            self._take_queues(value, where, {})
        else:
            self._take(name, value, where)

    def finish(self) -> tuple[Settings, Mapping[str, str]]:
        """The settings and their origins.

        Raises:
            ConfigError: there were mistakes, of one setting or between settings.
        """
        if self.values.get("debug"):
            self.values["log_level"], self.origins["log_level"] = "debug", f"debug = true, {self.origins['debug']}"
        settings = Settings(**self.values)
        origins = {setting.name: self.origins.get(setting.name, DEFAULT) for setting in SETTINGS} | self.origins
        for rule in RULES:
            if not self.wrong.intersection(rule.names) and rule.broken(settings):
                self.mistakes.append(f"{_named_values(settings, origins, rule.names)}: {rule.names[0]} {rule.right}")
        if self.mistakes:
            raise ConfigError("\n".join(self.mistakes))
        return settings, origins

    def _take(self, name: str, value: object, where: str) -> None:
        setting = _BY_NAME.get(name)
        if setting is None:
            self.mistakes.append(f"{where}: {redact(name)}: no such setting{_suggestion(name, _BY_NAME)}")
            return
        try:
            self.values[setting.field] = parse(setting.spec, value)
            self.origins[name] = where
        except ValueError as error:
            self._mistake(name, name, value, where, str(error))

    def _take_queues(self, value: object, where: str, places: Mapping[tuple[str, ...], str]) -> None:
        """`[queues.NAME]`, each with its own settings; a later source replaces single values of an earlier one."""
        if not isinstance(value, dict):
            self._mistake("queues", "queues", value, where, f"must be {expected(_BY_NAME['queues'].spec)}")
            return
        queues: dict[str, QueueSettings] = dict(self.values.get("queues", {}))
        for queue, table in value.items():
            here = places.get(("queues", queue), where)
            if not isinstance(table, dict) or not queue.strip():
                self._mistake("queues", f"queues.{queue}", table, here, "must be a table like [queues.mail] with weight = 2")
                continue
            before = queues.get(queue, QueueSettings())
            given = {"concurrency": before.concurrency, "weight": before.weight}
            for key, item in table.items():
                self._take_of_queue(queue, key, item, places.get(("queues", queue, key), here), given)
            queues[queue] = QueueSettings(**given)
        self.values["queues"] = queues
        self.origins["queues"] = where

    def _take_of_queue(self, queue: str, key: str, item: object, where: str, given: dict[str, int | None]) -> None:
        setting = _QUEUE_BY_NAME.get(key)
        if setting is None:
            self.mistakes.append(f"{where}: queues.{queue}.{key}: no such setting{_suggestion(key, _QUEUE_BY_NAME)}")
            return
        try:
            number = parse(setting.spec, item)
        except ValueError as error:
            self._mistake("queues", f"queues.{queue}.{key}", item, where, str(error))
        else:
            assert isinstance(number, int)
            given[setting.field] = number
            self.origins[f"queues.{queue}.{key}"] = where

    def _mistake(self, setting: str, shown: str, value: object, where: str, right: str) -> None:
        self.wrong.add(setting)
        self.mistakes.append(f"{where}: {shown} = {_shown_value(setting, value)}: {right}")


def _nearest(name: str, known: Iterable[str], likeness: float) -> str | None:
    import difflib  # only for a mistake: every child process imports this package

    return next(iter(difflib.get_close_matches(name, list(known), 1, likeness)), None)


def _shown_value(name: str, value: object) -> str:
    if _BY_NAME[name].spec.kind is Kind.DATABASE_URL:
        return redact_wrong_url(value)
    text = redact(toml_value(value))
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}…"


def _suggestion(name: str, known: Iterable[str]) -> str:
    near = _nearest(name, known, 0.6)
    return f"; did you mean {near}?" if near else "; see `shiftboss config init` for all of them"


def _named_values(settings: Settings, origins: Mapping[str, str], names: tuple[str, ...]) -> str:
    """`conf/x.toml:3: heartbeat_interval = "20s" with worker_timeout = "30s" (default)`."""
    first, *others = (_BY_NAME[name] for name in names)
    rest = " and ".join(f"{_assignment(settings, other)} ({origins[other.name]})" for other in others)
    return f"{origins[first.name]}: {_assignment(settings, first)}{' with ' if rest else ''}{rest}"


def _assignment(settings: Settings, setting: Setting) -> str:
    return f"{setting.name} = {shown(settings, setting)}"
