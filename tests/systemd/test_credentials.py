"""The database URL comes from systemd's credentials, and its password is nowhere to be seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.machine import run, until
from tests.systemd.unit import Unit

STORE = Path("/etc/credstore")


@pytest.fixture
def credential(unit: Unit) -> Iterator[Path]:
    """The file that systemd reads for the unit; the configuration says nothing of a database."""
    unit.configure()
    lines = unit.config.read_text().splitlines(keepends=True)
    unit.config.write_text("".join(line for line in lines if not line.startswith("database_url")))
    file = STORE / f"shiftboss.{unit.name}.database_url"
    yield file
    file.unlink(missing_ok=True)


def give(file: Path, url: str) -> None:
    file.write_text(url + "\n")
    file.chmod(0o600)


def test_the_database_of_the_credential_is_used(unit: Unit, credential: Path) -> None:
    give(credential, f"sqlite:///{unit.state}/from_the_credential.db")
    unit.start()
    assert (unit.state / "from_the_credential.db").exists()
    assert not (unit.state / "shiftboss.db").exists()


def test_the_password_is_in_no_log_no_status_and_no_command_line(unit: Unit, credential: Path) -> None:
    give(credential, "postgresql://someone:s3cret-password@127.0.0.1:1/nothing")
    unit.configure(start_timeout="6s")
    text = unit.config.read_text()
    unit.config.write_text("".join(line for line in text.splitlines(keepends=True) if not line.startswith("database_url")))
    unit.drop_in("[Service]\nRestart=no\n")
    run("systemctl", "start", "--no-block", unit.service).ok()
    until("it tries", lambda: unit.pids())
    lines = "".join(_command_line(pid) for pid in unit.pids())
    until("it gives up", lambda: unit.state_of() == "failed")
    assert unit.show("ExecMainStatus") == "75"
    assert "127.0.0.1" in unit.log()
    assert "s3cret-password" not in unit.log() + lines + unit.systemctl("show").out + unit.systemctl("status").out


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_a_unit_without_a_credential_starts(unit: Unit) -> None:
    assert not (STORE / f"shiftboss.{unit.name}.database_url").exists()
    unit.start()
    assert unit.state_of() == "active"
