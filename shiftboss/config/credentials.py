"""The database URL from a file of its own: a systemd credential, or a file that an environment variable names.

Nothing of what such a file holds gets into an error.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from shiftboss.config.redact import redact
from shiftboss.config.settings import Setting

DIRECTORY_VARIABLE: Final = "CREDENTIALS_DIRECTORY"  # set by systemd for LoadCredential=
NAMES: Final = ("dsn", "database_url")  # where both are there, the last wins
_MAX_BYTES: Final = 64 * 1024


class SecretError(Exception):
    """A secret's file is of no use; the message begins with its path."""


def places(setting: Setting, environ: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """Files to read this setting from, each with what to call it; a later one wins. That one is there is not promised."""
    if folder := environ.get(DIRECTORY_VARIABLE):
        for name in NAMES:
            if _is_there(path := Path(folder) / name):
                yield path, f"credential {name}"
    for variable in setting.file_variables:
        if file := environ.get(variable):
            yield Path(file), f"environment variable {variable}"
            return


def read_secret(path: Path) -> str:
    """The one line that the file holds.

    Raises:
        SecretError: it cannot be read, or is something else; the content is not repeated.
    """
    data = _read(path)
    if len(data) > _MAX_BYTES:
        raise _error(path, f"is larger than {_MAX_BYTES // 1024} KiB")
    try:
        text = data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise _error(path, "is not UTF-8 text") from None  # that error shows a part of it
    if not text.strip():
        raise _error(path, "is empty")
    if len(text.splitlines()) > 1:
        raise _error(path, "has more than one line")
    return text


def _read(path: Path) -> bytes:
    try:
        # Not to wait for the writer of a pipe: what kind of file it is comes right after.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return _content(fd, path)
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        raise _error(path, f"cannot be read: {getattr(error, 'strerror', error)}") from None


def _content(fd: int, path: Path) -> bytes:
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        raise _error(path, "is a directory" if stat.S_ISDIR(mode) else "is not a regular file")
    with os.fdopen(fd, "rb", closefd=False) as file:
        return file.read(_MAX_BYTES + 1)


def _error(path: Path, wrong: str) -> SecretError:
    # In place of a path there may stand the URL itself.
    return SecretError(f"{redact(str(path))}: {wrong}; must be a file that holds the database URL and nothing else")


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass  # it will be said when it is read
    return True
