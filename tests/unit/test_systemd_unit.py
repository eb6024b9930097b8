"""The unit file agrees with what the service does."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import pytest

from shiftboss.cli.main import main
from shiftboss.config import Settings
from shiftboss.control import EXIT_CONFIG, EXIT_GAVE_UP, EXIT_UNREACHABLE, EXIT_USAGE

UNIT = Path(__file__).parents[2] / "systemd" / "shiftboss@.service"


@pytest.fixture
def service() -> dict[str, str]:
    unit = ConfigParser(interpolation=None, comment_prefixes="#", delimiters="=")
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    return dict(unit["Service"])


def test_it_starts_and_reloads_by_commands_that_exist(service: dict[str, str]) -> None:
    for directive, command in (("ExecStart", "start"), ("ExecReload", "reload")):
        program, *words = service[directive].split()
        assert Path(program).name == "shiftboss"
        assert words == [command, "--env", "%i"]
        assert main([command, "--help"]) == 0


def test_systemd_tries_again_only_where_that_may_help(service: dict[str, str]) -> None:
    final = {int(code) for code in service["RestartPreventExitStatus"].split()}
    assert final == {EXIT_USAGE, EXIT_CONFIG}
    assert not final & {EXIT_GAVE_UP, EXIT_UNREACHABLE}
    assert service["Restart"] == "on-failure"


def test_systemd_is_more_patient_than_the_service(service: dict[str, str]) -> None:
    settings = Settings()
    assert int(service["TimeoutStartSec"]) > settings.start_timeout_s
    assert int(service["TimeoutStopSec"]) > settings.shutdown_timeout_s + settings.cancel_grace_s
    assert (service["Type"], service["NotifyAccess"], service["KillMode"]) == ("notify", "main", "mixed")
