"""docs/operations/DEPLOYMENT.md, followed as root on this machine: every command is run, and answers as the page says.

One step is another one here: packages are copied into the virtual environments, for want of a network.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import Reader
from tests.systemd.install import PREFIX, ROOT, NotHere, interpreter
from tests.systemd.machine import run

PAGE = ROOT / "docs/operations/DEPLOYMENT.md"
_INSTALLATION = re.compile(r"^\$ python3 -m venv (\S+)\n\$ \1/bin/pip install --quiet shiftboss$", re.MULTILINE)


@pytest.fixture
def empty_machine() -> Iterator[None]:
    """As it was before other tests installed anything; afterwards as they left it."""
    present = sorted(path for path in _installed() if path.exists())
    aside = [(path, path.with_name(f".{path.name}.aside")) for path in present]
    for path, name in aside:
        path.rename(name)
    yield
    run("systemctl", "stop", "shiftboss@production.socket", "shiftboss@production.service")
    for path in _installed():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for path, name in aside:
        name.rename(path)
    run("systemctl", "daemon-reload").ok()


def _installed() -> list[Path]:
    """All that `shiftboss systemd install` and the page put on a machine."""
    units = Path("/etc/systemd/system").glob("shiftboss@*")
    of_tests = [path for path in units if path.name.startswith(("shiftboss@.", "shiftboss@production."))]
    configuration = [Path("/etc/shiftboss"), Path("/etc/sysusers.d/shiftboss.conf"), Path("/etc/tmpfiles.d/shiftboss.conf")]
    return [PREFIX, Path("/var/lib/shiftboss/production"), *configuration, *of_tests]


@pytest.mark.timeout(240)
def test_the_page_takes_an_empty_machine_to_a_running_service(empty_machine: None, tmp_path: Path) -> None:
    try:
        python = interpreter()
    except NotHere as missing:
        pytest.skip(str(missing))
    command = f"cd {ROOT} && PYTHONPATH={ROOT} {sys.executable} -m tests.systemd.install"
    text, count = _INSTALLATION.subn(lambda found: f"$ true\n$ ({command} {found[1]})", PAGE.read_text(encoding="utf-8"))
    assert count == 2  # the installation and the upgrade
    page = tmp_path / PAGE.name
    page.write_text(text)
    tmp_path.chmod(0o755)
    Reader(page, tmp_path, {"PATH": f"/usr/local/bin:{python.parent}:/usr/sbin:/usr/bin:/sbin:/bin"}).follow()
    assert run("systemctl", "list-units", "--all", "--plain", "--no-legend", "shiftboss@production*").ok().out == ""
