"""Settings from TOML, environment variables and the command line: declared once, read together, checked together."""

from shiftboss.config.load import LoadedSettings, load_settings
from shiftboss.config.settings import SETTINGS, QueueSettings, Settings, settings_from_json, settings_to_json
from shiftboss.config.values import redact

__all__ = [
    "SETTINGS",
    "LoadedSettings",
    "QueueSettings",
    "Settings",
    "load_settings",
    "redact",
    "settings_from_json",
    "settings_to_json",
]
