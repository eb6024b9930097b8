"""Puts files where they belong: compares, shows what would change, writes whole or not at all."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from shiftboss.errors import ConfigError
from shiftboss.units.plan import PlannedFile


class Difference(StrEnum):
    """How an installed file stands to the planned one."""

    MISSING = "missing"
    CHANGED = "changed"
    SAME = "unchanged"
    KEPT = "kept as it is"  # the user's own


@dataclass(frozen=True, slots=True)
class Comparison:
    """A planned file and what is there instead.

    Attributes:
        place: `planned.path` below the root.
    """

    planned: PlannedFile
    place: Path
    difference: Difference
    present: str = ""

    def diff(self) -> str:
        """What installing would change, as a unified diff."""
        old, new = self.present.splitlines(keepends=True), self.planned.text.splitlines(keepends=True)
        return "".join(_ended(difflib.unified_diff(old, new, f"{self.place} (installed)", f"{self.place} (new)")))


def _ended(lines: Iterable[str]) -> Iterable[str]:
    return (line if line.endswith("\n") else line + "\n" for line in lines)


def below(root: Path, path: Path) -> Path:
    """An absolute path as it is below another root."""
    return root / path.relative_to("/")


def compare(planned: PlannedFile, root: Path) -> Comparison:
    """What is installed, against what is planned.

    Raises:
        ConfigError: it cannot be read, or is a link (a masked unit is one): not ours to replace.
    """
    place = below(root, planned.path)
    if place.is_symlink():
        raise ConfigError(f"{place} is a link to {place.readlink()}: remove it (systemctl unmask) or leave the unit alone")
    try:
        present = place.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return Comparison(planned, place, Difference.MISSING)
    except OSError as error:
        raise ConfigError(f"{place} cannot be read: {error.strerror}; be root, or work below another --root") from error
    if present == planned.text:
        return Comparison(planned, place, Difference.SAME, present)
    return Comparison(planned, place, Difference.KEPT if planned.once else Difference.CHANGED, present)


def write(comparison: Comparison) -> None:
    """Write the planned file in one step: a reader sees the old one or the new one, also when the machine loses power.

    Raises:
        ConfigError: it cannot be written; what was there stays.
    """
    place = comparison.place
    try:
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(comparison.planned.text)
                file.flush()
                os.fchmod(fd, comparison.planned.mode)
                os.fsync(fd)
            Path(temporary).replace(place)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(f"{place} cannot be written: {error.strerror}; be root, or work below another --root") from error
