"""What systemd's own tools say of the installed units."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from shiftboss.units.plan import Installation

MOST_EXPOSURE: Final = 1.5
_TIMEOUT_S: Final = 60.0
_SCORE = re.compile(r"Overall exposure level for \S+: ([\d.]+)")


def verify(installation: Installation, root: Path) -> list[str]:
    """What `systemd-analyze verify` complains of, in our own units only. Nothing where the tool is missing."""
    units = [f"{installation.instance}.service", *([f"{installation.instance}.socket"] if installation.socket else [])]
    done = _analyze("verify", "--recursive-errors=no", *_below(root), *units)
    if done is None or done.returncode == 0:
        return []
    return [f"systemd-analyze verify: {line}" for line in done.stderr.splitlines() if line.strip()] or [
        "systemd-analyze verify fails"
    ]


def exposure(installation: Installation, root: Path) -> float | None:
    """The score of `systemd-analyze security`, 0 to 10, less is better; `None` where the tool is missing or cannot say."""
    done = _analyze("security", "--offline=true", "--no-pager", *_below(root), f"{installation.instance}.service")
    found = _SCORE.search(done.stdout) if done is not None else None
    return float(found[1]) if found else None


def _below(root: Path) -> list[str]:
    return [] if root == Path("/") else [f"--root={root}"]


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str] | None:
    program = shutil.which("systemd-analyze")
    if program is None:
        return None
    try:
        return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
