"""`shiftboss systemd print|install|check`, below another root."""

from __future__ import annotations

import re
from pathlib import Path
from shutil import which

import pytest

from shiftboss.cli.main import main

SERVICE = "etc/systemd/system/shiftboss@.service"
CONFIG = "etc/shiftboss/production.toml"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    program = tmp_path / "opt/shiftboss/venv/bin/shiftboss"
    program.parent.mkdir(parents=True)
    program.write_text("#!/usr/bin/python3\n")
    program.chmod(0o755)
    return tmp_path


def run(root: Path, command: str, *options: str) -> int:
    program = "/opt/shiftboss/venv/bin/shiftboss"
    return main(["systemd", command, "--env", "production", "--root", str(root), "--bin", program, *options])


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in sorted((root / "etc").rglob("*")) if path.is_file()}


def test_print_shows_every_file_and_writes_none(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "print", "--socket") == 0
    shown = capsys.readouterr().out
    for path in (SERVICE, "etc/systemd/system/shiftboss@.socket", "etc/sysusers.d/shiftboss.conf", CONFIG):
        assert f"# ==== /{path}\n" in shown
    assert not (root / "etc").exists()


def test_install_writes_what_print_shows_and_says_what_comes_next(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "print", "--socket") == 0
    shown = capsys.readouterr().out
    assert run(root, "install", "--socket") == 0
    said = capsys.readouterr().out
    assert "".join(f"# ==== /{path}\n{text}\n" for path, text in files(root).items()) in _sorted(shown)
    assert said.count("wrote: ") == len(files(root)) == 8
    assert f"systemctl --root={root} enable shiftboss@production.service shiftboss@production.socket" in said
    assert (root / CONFIG).stat().st_mode & 0o777 == 0o640


def _sorted(shown: str) -> str:
    """What was printed, file by file in the order of their paths."""
    parts = re.split(r"^(?=# ==== )", shown, flags=re.MULTILINE)[1:]
    return "".join(sorted(parts, key=lambda part: Path(part.partition("\n")[0].removeprefix("# ==== ")).parts))


def test_a_second_install_changes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "install") == 0
    before = files(root)
    capsys.readouterr()
    assert run(root, "install") == 0
    said = capsys.readouterr().out
    assert files(root) == before
    assert said.count("unchanged: ") == len(before) == 6
    assert "wrote" not in said


def test_without_a_terminal_and_without_yes_a_file_that_differs_is_not_overwritten(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, "install") == 0
    (root / SERVICE).write_text((root / SERVICE).read_text().replace("WatchdogSec=30", "WatchdogSec=99"))
    (root / "etc/tmpfiles.d/shiftboss.conf").unlink()
    before = files(root)
    capsys.readouterr()
    assert run(root, "install") == 1
    said = capsys.readouterr()
    assert "-WatchdogSec=99\n+WatchdogSec=30\n" in said.out
    assert "--yes overwrites them" in said.err
    assert files(root) == before  # not even the missing one

    assert run(root, "install", "--yes") == 0
    assert "WatchdogSec=30" in (root / SERVICE).read_text()
    assert (root / "etc/tmpfiles.d/shiftboss.conf").exists()


def test_a_configuration_is_never_overwritten_and_decides_the_drop_in(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / CONFIG).parent.mkdir(parents=True)
    (root / CONFIG).write_text('shutdown_timeout = "10m"\n')
    assert run(root, "install", "--yes") == 0
    assert (root / CONFIG).read_text() == 'shutdown_timeout = "10m"\n'
    assert f"kept as it is: {root / CONFIG}" in capsys.readouterr().out
    assert "TimeoutStopSec=625" in (root / "etc/systemd/system/shiftboss@production.service.d/20-environment.conf").read_text()


def test_variables_of_the_installers_shell_are_not_the_services(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHUTDOWN_TIMEOUT", "10m")
    assert run(root, "install") == 0
    assert "TimeoutStopSec" not in (root / "etc/systemd/system/shiftboss@production.service.d/20-environment.conf").read_text()


def test_a_wrong_configuration_stops_everything(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / CONFIG).parent.mkdir(parents=True)
    (root / CONFIG).write_text("worker_pool_size = 0\n")
    assert run(root, "install") == 78
    assert "worker_pool_size = 0" in capsys.readouterr().err
    assert list(files(root)) == [CONFIG]


def test_check_is_content_with_what_install_has_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "install", "--socket") == 0
    assert run(root, "check", "--socket") == 0, capsys.readouterr().err
    assert "shiftboss@production is installed as it should be" in capsys.readouterr().out


def test_check_names_what_is_missing_changed_or_will_go_wrong(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "check") == 1
    assert f"{root / SERVICE} is missing" in capsys.readouterr().err
    assert run(root, "install") == 0
    (root / SERVICE).write_text((root / SERVICE).read_text().replace("TimeoutStopSec=60", "TimeoutStopSec=6"))
    capsys.readouterr()
    assert run(root, "check") == 1
    said = capsys.readouterr()
    assert "-TimeoutStopSec=6\n+TimeoutStopSec=60\n" in said.out
    assert "is not what install would write" in said.err
    assert "TimeoutStopSec=6 is too short" in said.err


def test_check_notices_a_hardening_that_is_not_in_force(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    assert run(root, "install") == 0
    own = root / "etc/systemd/system/shiftboss@production.service.d/10-hardening.conf"
    own.write_text("[Service]\nNoNewPrivileges=no\n")
    capsys.readouterr()
    assert run(root, "check") == 1
    assert "the hardening is not in force or relaxed" in capsys.readouterr().err


def test_an_unknown_directive_is_found_by_systemds_own_tool(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    assert run(root, "install") == 0
    (root / "etc/systemd/system/shiftboss@production.service.d/50-own.conf").write_text("[Service]\nWatchdogSeconds=30\n")
    assert run(root, "check") == 1
    assert re.search("Unknown key.* 'WatchdogSeconds'", capsys.readouterr().err)


def test_a_root_that_is_no_folder_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root / "nowhere", "install") == 78
    assert "nowhere is not a folder" in capsys.readouterr().err
