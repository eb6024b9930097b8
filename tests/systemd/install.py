"""Puts this checkout on the machine as a user would: an environment of its own under /opt, units, the user, folders.

Only where the packages come from differs: they are copied from the environment that runs the tests, so no network is needed.

    python -m tests.systemd.install FOLDER      makes the environment
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Final

from tests.systemd.machine import run

ROOT: Final = Path(__file__).parents[2]
PREFIX: Final = Path("/opt/shiftboss")
VENV: Final = PREFIX / "venv"
PROGRAM: Final = VENV / "bin/shiftboss"
_HOMES: Final = (Path("/home"), Path("/root"))
_SCRIPT: Final = "#!{python}\nimport sys\nfrom shiftboss.cli.main import main\nsys.exit(main())\n"
_REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")


class NotHere(Exception):
    """This machine lacks something that the tests need; the message says what."""


def put_on_machine() -> None:
    """The packages, and what our own installer writes.

    Raises:
        NotHere: see `install_packages`.
    """
    install_packages()
    run(PROGRAM, "systemd", "install", "--env", "production", "--yes", "--socket", cwd=PREFIX).ok()
    run("systemd-sysusers", "shiftboss.conf").ok()
    run("systemd-tmpfiles", "--create", "shiftboss.conf").ok()
    run("systemctl", "daemon-reload").ok()


def install_packages(venv: Path = VENV) -> None:
    """What `python3 -m venv` and `pip install shiftboss` leave behind.

    Raises:
        NotHere: there is no interpreter of this version outside the home folders.
    """
    subprocess.run([interpreter(), "-m", "venv", "--without-pip", venv], check=True, capture_output=True)
    (packages,) = venv.glob("lib/python3*/site-packages")
    for name in sorted(_requirements("shiftboss") - {"shiftboss"}):
        _copy_distribution(name, packages)
    shutil.copytree(ROOT / "shiftboss", packages / "shiftboss", ignore=shutil.ignore_patterns("__pycache__"))
    _copy_metadata("shiftboss", packages)
    program = venv / "bin/shiftboss"
    program.write_text(_SCRIPT.format(python=venv / "bin/python"))
    program.chmod(0o755)


def interpreter() -> Path:
    """The interpreter that runs the tests, or one of the same version that a hardened service can see.

    Raises:
        NotHere: there is none.
    """
    version = f"python3.{sys.version_info.minor}"
    places = [Path(sys.executable).resolve(), *(Path(folder, version) for folder in ("/usr/local/bin", "/usr/bin"))]
    for place in places:
        if place.is_file() and not any(place.is_relative_to(home) for home in _HOMES):
            return place
    raise NotHere(f"needs a {version} outside /home and /root: the hardened service cannot see {places[0]}")


def _requirements(name: str) -> set[str]:
    """The distribution and all that it needs without extras."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop().lower().replace("_", "-")
        if one in found or not _installed(one):
            continue
        found.add(one)
        for requirement in metadata.requires(one) or ():
            text, _, marker = requirement.partition(";")
            extra = "binary" if one == "psycopg" else ""  # the only extra of our own requirements
            if "extra ==" not in marker or (extra and f'extra == "{extra}"' in marker.replace("'", '"')):
                waiting.append(_REQUIREMENT.match(text.strip())[0])  # type: ignore[index]
    return found


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False  # for another platform or version of Python
    return True


def _copy_distribution(name: str, packages: Path) -> None:
    distribution = metadata.distribution(name)
    tops = {file.parts[0] for file in distribution.files or () if not file.is_absolute() and file.parts[0] != ".."}
    for top in tops - {"__pycache__"}:
        source = Path(str(distribution.locate_file(top)))
        if source.is_dir():
            shutil.copytree(source, packages / top, dirs_exist_ok=True)
        elif source.is_file():
            shutil.copy2(source, packages / top)


def _copy_metadata(name: str, packages: Path) -> None:
    """Of an editable installation only the metadata lies among the packages."""
    file = next(file for file in metadata.distribution(name).files or () if file.name in ("METADATA", "PKG-INFO"))
    folder = Path(str(metadata.distribution(name).locate_file(file))).parent
    shutil.copytree(folder, packages / folder.name, dirs_exist_ok=True)


if __name__ == "__main__":
    install_packages(Path(sys.argv[1]))
