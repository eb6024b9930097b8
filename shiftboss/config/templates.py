"""The files to begin with, one an environment: `shiftboss config init` writes them, and conf/ holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from shiftboss.config.settings import Settings
from shiftboss.config.show import commented_toml

_HOW: Final = (
    "Every setting stands here once. Drop-ins beside this file ({name}.d/*.toml), environment variables and the command line "
    "win over it.\n`shiftboss config check` says whether it is right, `shiftboss config show` what applies and from where.\n"
    "Durations: 500ms, 30s, 1m, 2h, 7d, or a number of seconds. Sizes: 512MiB, 2GiB, or a number of bytes."
)
_PASSWORD_NOTE: Final = (
    "Keep a password out of this file: give the whole URL as the systemd credential database_url, in a file that "
    "DATABASE_URL_FILE names, or in DATABASE_URL; or use a .pgpass file."
)


class Template(msgspec.Struct, frozen=True):
    """An environment's values, and what to say of some of them."""

    purpose: str
    settings: Settings
    notes: Mapping[str, str] = msgspec.field(default_factory=dict)

    def toml(self) -> str:
        """The whole file."""
        introduction = f"{self.purpose}\n\n{_HOW.format(name=self.settings.environment)}"
        return commented_toml(self.settings, introduction, lambda setting: self.notes.get(setting.name))


TEMPLATES: Final[Mapping[str, Template]] = {
    "development": Template(
        "Shiftboss on a developer's machine: an SQLite file, nothing to install, text logs.",
        Settings(environment="development", shutdown_timeout_s=5.0, log_level="debug"),
    ),
    "staging": Template(
        "Shiftboss as in production, but with more to see and less to keep.",
        Settings(
            environment="staging",
            database_url="postgresql://shiftboss@localhost:5432/shiftboss_staging",
            log_level="debug",
            completed_retention_s=2 * 86_400.0,
            cancelled_retention_s=2 * 86_400.0,
            dead_letter_retention_s=7 * 86_400.0,
        ),
        {"database_url": _PASSWORD_NOTE},
    ),
    "production": Template(
        "Shiftboss on one machine with PostgreSQL, one worker. For several see high-availability.toml.",
        Settings(environment="production", database_url="postgresql://shiftboss@localhost:5432/shiftboss"),
        {
            "database_url": _PASSWORD_NOTE,
            "shutdown_timeout": "The unit's TimeoutStopSec may be shorter: systemd is asked for more time while it drains.",
        },
    ),
    "high-availability": Template(
        "Shiftboss on several machines: each runs this file against one PostgreSQL that fails over.",
        Settings(
            environment="high-availability",
            database_url="postgresql://shiftboss@db1.internal,db2.internal/shiftboss?target_session_attrs=read-write",
            distributed_mode=True,
            heartbeat_interval_s=5.0,
            worker_timeout_s=20.0,
            leader_term_s=15.0,
        ),
        {
            "database_url": f"All hosts stand in one URL; the one that takes writes is used. {_PASSWORD_NOTE}",
            "worker_timeout": "A database failover must fit in here, or every worker is fenced by it.",
        },
    ),
}
