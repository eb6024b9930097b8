"""Settings from TOML, environment variables and the command line: declared once, read together, checked together."""

from shiftboss.config.changes import Change, changes, described
from shiftboss.config.load import LoadedSettings, load_again, load_settings
from shiftboss.config.redact import redact
from shiftboss.config.settings import SETTINGS, QueueSettings, Settings, settings_from_json, settings_to_json
from shiftboss.config.source import SOURCE_VARIABLE, Source, source_from_json, source_to_json
from shiftboss.config.values import Reload

__all__ = [
    "SETTINGS",
    "SOURCE_VARIABLE",
    "Change",
    "LoadedSettings",
    "QueueSettings",
    "Reload",
    "Settings",
    "Source",
    "changes",
    "described",
    "load_again",
    "load_settings",
    "redact",
    "settings_from_json",
    "settings_to_json",
    "source_from_json",
    "source_to_json",
]
