"""What `shiftboss systemd` writes fits the environment's settings, and what it checks goes wrong for real."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import pytest

from shiftboss.config import Settings
from shiftboss.errors import ConfigError
from shiftboss.units import plan
from shiftboss.units.access import Account, unreadable_part
from shiftboss.units.check import Installed, problems
from shiftboss.units.effective import EffectiveUnit, read_unit, time_span_s
from shiftboss.units.place import Difference, compare, write
from shiftboss.units.plan import Installation, PlannedFile, planned_files


def installation(environment: str = "production", **changes: object) -> Installation:
    fields = {name: changes.pop(name) for name in ("program", "user", "working_directory", "socket") if name in changes}
    return Installation(environment=environment, settings=Settings(**changes), **fields)  # type: ignore[arg-type]


def unit_of(planned: Installation, root: Path) -> EffectiveUnit:
    """The unit as it is after an installation."""
    for file in planned_files(planned):
        write(compare(file, root))
    unit = read_unit(plan.SERVICE, planned.environment, root)
    assert unit is not None
    return unit


def own_drop_in(root: Path, text: str, owner: str = "shiftboss@production.service.d", name: str = "50-own.conf") -> None:
    folder = root / "etc/systemd/system" / owner
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


# ---- what is written


def test_the_defaults_need_nothing_beside_the_template() -> None:
    assert "Nothing." in plan.service_drop_in(installation())


def test_the_numbers_in_code_are_those_in_the_files(tmp_path: Path) -> None:
    unit = unit_of(installation(), tmp_path)
    assert unit.seconds("TimeoutStartSec", 0) == plan.TIMEOUT_START_S
    assert unit.seconds("TimeoutStopSec", 0) == plan.TIMEOUT_STOP_S
    assert unit.seconds("StartLimitIntervalSec", 0) == plan.START_LIMIT_S
    assert unit.seconds("StartLimitBurst", 0) == plan.START_LIMIT_BURST
    assert unit.seconds("RestartSec", 0) == plan.RESTART_S
    assert (unit.last("User"), unit.last("WorkingDirectory")) == (plan.DEFAULT_USER, str(plan.DEFAULT_WORKING_DIRECTORY))
    assert unit.last("ExecStart") == f"{plan.DEFAULT_PROGRAM} start --env %i"
    assert f"ListenStream={plan.DEFAULT_LISTEN}\n" in plan.packaged(plan.SOCKET)


def test_systemd_is_more_patient_than_the_environment(tmp_path: Path) -> None:
    slow = installation(shutdown_timeout_s=600.0, cancel_grace_s=20.0, start_timeout_s=300.0)
    unit = unit_of(slow, tmp_path)
    assert unit.seconds("TimeoutStopSec", 0) > 620
    assert unit.seconds("TimeoutStartSec", 0) > 600


def test_a_long_outage_of_the_database_never_uses_up_the_starts(tmp_path: Path) -> None:
    unit = unit_of(installation(start_timeout_s=5.0), tmp_path)
    assert unit.seconds("StartLimitIntervalSec", 0) < 5 * (5 + 2)


def test_program_user_and_folder_stand_in_the_drop_in_of_the_one_environment(tmp_path: Path) -> None:
    own = installation("staging", program=Path("/srv/a b/50%/shiftboss"), user="app", working_directory=Path("/srv/app"))
    unit = unit_of(own, tmp_path)
    assert unit.all("ExecStart") == ['"/srv/a b/50%%/shiftboss" start --env %i']
    assert unit.all("ExecReload") == ['"/srv/a b/50%%/shiftboss" reload --env %i']
    assert (unit.last("User"), unit.last("Group"), unit.last("WorkingDirectory")) == ("app", "", "/srv/app")
    other = read_unit(plan.SERVICE, "production", tmp_path)
    assert other is not None
    assert other.all("ExecStart") == ["/opt/shiftboss/venv/bin/shiftboss start --env %i"]


@pytest.mark.parametrize(
    ("host", "port", "address"),
    [("0.0.0.0", 80, "0.0.0.0:80"), ("::1", 9090, "[::1]:9090"), ("localhost", 9191, "127.0.0.1:9191")],
)
def test_the_socket_has_the_address_of_the_settings(host: str, port: int, address: str) -> None:
    drop_in = plan.socket_drop_in(installation(metrics_host=host, metrics_port=port))
    assert drop_in.endswith(f"[Socket]\nListenStream=\nListenStream={address}\n")


def test_a_socket_without_an_address_that_is_known_beforehand_is_refused() -> None:
    with pytest.raises(ConfigError, match="metrics_port=0"):
        planned_files(installation(metrics_port=0, socket=True))
    with pytest.raises(ConfigError, match="systemd looks up no names"):
        planned_files(installation(metrics_host="metrics.internal", socket=True))


@pytest.mark.parametrize("environment", ["../etc", "", "a b", "a\nUser=root"])
def test_an_environment_that_is_no_name_is_refused(environment: str) -> None:
    with pytest.raises(ConfigError, match="a name has only letters"):
        installation(environment)


def test_what_would_add_lines_to_a_unit_is_refused() -> None:
    with pytest.raises(ConfigError, match="--user"):
        installation(user="app\nExecStartPre=/bin/evil")
    with pytest.raises(ConfigError, match="without control characters"):
        installation(working_directory=Path("/srv\nUser=root"))
    with pytest.raises(ConfigError, match="must be an absolute path"):
        installation(program=Path("bin/shiftboss"))


def test_an_environment_of_another_name_begins_with_productions_configuration() -> None:
    assert 'environment = "eu-west"' in plan.config_text("eu-west")
    assert plan.settings_to_begin_with("eu-west").environment == "eu-west"


# ---- how it is written


def test_a_file_is_written_whole_with_its_mode_and_nothing_else_beside_it(tmp_path: Path) -> None:
    planned = PlannedFile(Path("/etc/x/y.conf"), "text\n", 0o640)
    write(compare(planned, tmp_path))
    place = tmp_path / "etc/x/y.conf"
    assert (place.read_text(), place.stat().st_mode & 0o777) == ("text\n", 0o640)
    assert list(place.parent.iterdir()) == [place]
    assert compare(planned, tmp_path).difference is Difference.SAME


def test_a_masked_unit_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/y.conf").symlink_to("/dev/null")
    with pytest.raises(ConfigError, match="is a link to /dev/null"):
        compare(PlannedFile(Path("/etc/y.conf"), "text\n"), tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("a file, no folder")
    with pytest.raises(ConfigError, match=r"etc/y\.conf cannot be (written|read): .*--root"):
        write(compare(PlannedFile(Path("/etc/y.conf"), "text\n"), tmp_path))


# ---- how systemd reads it


def test_the_last_assignment_wins_and_an_empty_one_forgets(tmp_path: Path) -> None:
    own_drop_in(tmp_path, "[Service]\nUser=other\nReadWritePaths=/a\n", "shiftboss@.service.d", "15-all.conf")
    own_drop_in(tmp_path, "# c\n; c\n[Service]\nUser=\nReadWritePaths=/b \\\n# between\n  /c\n")
    unit = unit_of(installation(), tmp_path)
    assert unit.last("User", "root") == "root"
    assert [word for value in unit.all("ReadWritePaths") for word in value.split()] == ["/a", "/b", "/c"]


def test_an_instances_drop_in_replaces_the_templates_of_the_same_name(tmp_path: Path) -> None:
    own_drop_in(tmp_path, "[Service]\nProtectHome=no\n", name="10-hardening.conf")
    assert unit_of(installation(), tmp_path).all("ProtectHome") == ["no"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("1min 30s", 90.0), ("2h", 7200.0), ("500ms", 0.5), ("infinity", math.inf)]
)
def test_times_are_read_as_systemd_reads_them(text: str, seconds: float) -> None:
    assert time_span_s(text) == seconds


def test_what_is_no_time_is_no_number() -> None:
    assert math.isnan(time_span_s("soon"))
    assert math.isnan(time_span_s("5 parsecs"))


# ---- what is checked


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A root with a program and an application in it."""
    program = tmp_path / "opt/shiftboss/venv/bin/shiftboss"
    program.parent.mkdir(parents=True)
    program.write_text("#!/usr/bin/python3\n")
    return tmp_path


def found(machine: Path, drop_in: str = "", *, database_url: str = "postgresql://db/x", **changes: object) -> list[str]:
    """What is wrong after an installation and a drop-in of the operator's."""
    own_drop_in(machine, drop_in)
    planned = installation(database_url=database_url, **changes)
    unit = unit_of(planned, machine)
    return problems(Installed(planned, unit, machine, machine / "etc/shiftboss/production.toml", None))


def test_a_fresh_installation_has_no_problems(machine: Path) -> None:
    assert found(machine) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("TimeoutStopSec=30", "TimeoutStopSec=30 is too short for shutdown_timeout=30s and cancel_grace=5s"),
        ("TimeoutStartSec=1min", "TimeoutStartSec=1min is too short for start_timeout=60s"),
        ("TimeoutStopSec=soon", "TimeoutStopSec=soon is too short"),
        ("WatchdogSec=3", "WatchdogSec=3: a busy machine"),
        ("StartLimitIntervalSec=1h", "systemd would give up after 310 s"),
        ("StartLimitIntervalSec=0", "would be tried for ever"),
        ("ExecStart=\nExecStart=/opt/gone/shiftboss start", "ExecStart names /opt/gone/shiftboss, and it is not there"),
        ("WorkingDirectory=/srv/gone", "WorkingDirectory=/srv/gone is not there"),
        ("WorkingDirectory=/home/app", "WorkingDirectory is /home/app, and with ProtectHome="),
        (
            "ExecStart=\nExecStart=/root/venv/bin/shiftboss start",
            "the program is /root/venv/bin/shiftboss, and with ProtectHome=",
        ),
    ],
)
def test_what_does_not_fit_is_said(machine: Path, line: str, problem: str) -> None:
    (machine / "home/app").mkdir(parents=True)
    assert any(problem in one for one in found(machine, f"[Service]\n{line}\n"))


def test_a_shell_that_stays_between_is_found(machine: Path) -> None:
    shell = machine / "bin/bash"
    shell.parent.mkdir()
    shell.write_text("")
    (problem,) = found(machine, "[Service]\nExecStart=\nExecStart=/bin/bash -lc 'shiftboss start'\n")
    assert "systemd never hears that it is ready" in problem
    assert found(machine, "[Service]\nExecStart=\nExecStart=/bin/bash -c 'exec shiftboss start'\n") == []


def test_times_without_an_end_fit(machine: Path) -> None:
    assert found(machine, "[Service]\nTimeoutStopSec=infinity\nTimeoutStartSec=infinity\nWatchdogSec=0\n") == []


def test_an_interpreter_behind_links_under_root_is_found(machine: Path) -> None:
    (machine / "root/python/bin").mkdir(parents=True)
    (machine / "root/python/bin/python3").write_text("")
    (machine / "opt/shiftboss/venv/bin/python").symlink_to(machine / "root/python/bin/python3")
    (machine / "opt/shiftboss/venv/bin/shiftboss").write_text("#!/opt/shiftboss/venv/bin/python\n")
    (problem,) = found(machine)
    assert "the interpreter is /root/python/bin/python3" in problem
    assert found(machine, "[Service]\nProtectHome=read-only\n") == []


def test_a_database_file_where_the_service_may_not_write_is_found(machine: Path) -> None:
    (problem,) = found(machine, database_url="sqlite:///shiftboss.db")
    assert "the database is /opt/shiftboss/shiftboss.db, which the service may not write to" in problem
    assert found(machine, "[Service]\nReadWritePaths=-/opt/shiftboss\n", database_url="sqlite:///shiftboss.db") == []
    assert found(machine, database_url="sqlite:////var/lib/shiftboss/production/shiftboss.db") == []


def test_a_database_given_as_a_credential_is_not_looked_for_in_the_settings(machine: Path) -> None:
    credential = machine / "etc/credstore/shiftboss.production.database_url"
    credential.parent.mkdir(parents=True)
    credential.write_text("postgresql://db/x")
    assert found(machine, database_url="sqlite:///shiftboss.db") == []


def test_what_keeps_a_user_from_reading_a_file_is_named() -> None:
    stranger, member = Account("app", 54321, frozenset({54321})), Account("app", 54321, frozenset({os.getgid()}))
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # the test run's own folder is this user's alone
        folder, file = Path(name), Path(name, "production.toml")
        folder.chmod(0o755)
        file.write_text("")
        file.chmod(0o640)
        assert unreadable_part(file, stranger) == file
        assert unreadable_part(file, member) is None
        folder.chmod(0o700)
        assert unreadable_part(file, member) == folder
        assert unreadable_part(file, Account("root", 0, frozenset({0}))) is None
