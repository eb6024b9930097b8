"""What systemd makes of a unit and its drop-ins: files read in its order, the last assignment wins. Pure but for reading."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shiftboss.units.place import below

# The first folder that has a file of some name wins over the later ones.
_FOLDERS: Final = tuple(
    map(Path, ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/lib/systemd/system"))
)
_UNIT_S: Final = {
    "us": 1e-6, "usec": 1e-6, "µs": 1e-6, "ms": 1e-3, "msec": 1e-3,
    "": 1.0, "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0,
    "m": 60.0, "min": 60.0, "minute": 60.0, "minutes": 60.0,
    "h": 3600.0, "hr": 3600.0, "hour": 3600.0, "hours": 3600.0,
    "d": 86_400.0, "day": 86_400.0, "days": 86_400.0,
}  # fmt: skip
_SPAN_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zµ]*)")


class EffectiveUnit:
    """The assignments that apply, each name with its values in order; an empty value forgets those before it."""

    def __init__(self, assignments: Iterator[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in assignments:
            if value:
                self._values.setdefault(name, []).append(value)
            else:
                self._values[name] = []

    def all(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def last(self, name: str, default: str = "") -> str:
        return self.all(name)[-1] if self.all(name) else default

    def seconds(self, name: str, default_s: float) -> float:
        """A time; `default_s` when it is not set. Infinite for `infinity`, not a number for what is no time."""
        text = self.last(name)
        return time_span_s(text) if text else default_s


def read_unit(template: str, environment: str, root: Path = Path("/")) -> EffectiveUnit | None:
    """The unit of one environment as it is installed below `root`; `None` when its template is not."""
    files = [below(root, folder) / template for folder in _FOLDERS]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    texts = [file, *drop_ins(template, environment, root)]
    return EffectiveUnit(pair for path in texts for pair in _assignments(path.read_text(encoding="utf-8", errors="replace")))


def drop_ins(template: str, environment: str, root: Path) -> list[Path]:
    """Its drop-ins in the order in which they apply: by name, whatever folder they are in."""
    prefix, _, kind = template.partition("@.")
    owners = (f"{prefix}@{environment}.{kind}.d", f"{template}.d", f"{kind}.d")
    found: dict[str, Path] = {}
    for owner in owners:
        for folder in _FOLDERS:
            for path in (below(root, folder) / owner).glob("*.conf"):
                found.setdefault(path.name, path)
    return [found[name] for name in sorted(found)]


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    for line in _joined_lines(text):
        name, separator, value = line.partition("=")
        if separator:
            yield name.strip(), value.strip()


def _joined_lines(text: str) -> Iterator[str]:
    """Lines without comments; a backslash at the end joins the next one."""
    kept = ""
    for raw in text.splitlines():
        line = raw.strip()
        if not line.startswith(("#", ";")):
            kept += line.removesuffix("\\")
            if line.endswith("\\"):
                kept += " "
                continue
            yield kept
            kept = ""


def time_span_s(text: str) -> float:
    """Seconds in `90`, `2min 30s`, `infinity`; not a number for anything else."""
    if text == "infinity":
        return math.inf
    parts = _SPAN_PART.findall(text)
    if not parts or _SPAN_PART.sub("", text).strip() or any(unit not in _UNIT_S for _, unit in parts):
        return math.nan
    return sum(float(amount) * _UNIT_S[unit] for amount, unit in parts)
