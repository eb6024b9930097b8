"""The throw-away process of a reload: what it answers about a configuration and the code that it names."""

from __future__ import annotations

from pathlib import Path

import pytest
from process_harness import ActorProcess

from shiftboss import control
from shiftboss.config import SOURCE_VARIABLE, Settings, Source, settings_from_json, source_to_json


class Place:
    """A working directory with a configuration and modules in it, and the check that is run there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "shop.toml"
        self.old = Settings(database_url=f"sqlite:///{folder / 'tasks.db'}", log_format="json", imports=("old_code",))

    def configure(self, text: str) -> None:
        self.config.write_text(f'database_url = "{self.old.database_url}"\nlog_format = "json"\n{text}\n')

    def module(self, name: str, text: str) -> None:
        (self.folder / f"{name}.py").write_text(text)

    def check(self, **overrides: str) -> tuple[control.Checked, ActorProcess]:
        source = source_to_json(Source(file=self.config, overrides=overrides))
        with ActorProcess("check", self.old, env={SOURCE_VARIABLE: source, "PYTHONPATH": str(self.folder)}) as process:
            checked = process.said.wait_type(control.Checked)
            assert process.wait_exit() == 0
            assert not process.said.of(control.Ready)
            return checked, process


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in ("SHIFTBOSS_ENV", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return Place(tmp_path)


def test_a_good_configuration_is_answered_with_the_settings_as_they_are_now(place: Place) -> None:
    place.configure('imports = ["new_code"]\nworker_pool_size = 7')
    place.module("new_code", "from shiftboss import task\n@task(type='shop:sell')\ndef sell() -> None: ...\n")
    checked, _process = place.check(only_queues="mail")
    assert checked.error == ""
    settings = settings_from_json(checked.settings)
    assert (settings.imports, settings.worker_pool_size) == (("new_code",), 7)
    assert settings.only_queues == ("mail",), "what stood on the command line stays"


def test_every_mistake_of_a_bad_configuration_is_told(place: Place) -> None:
    place.configure('worker_pool_size = "many"\nlog_levle = "info"')
    checked, _process = place.check()
    assert checked.settings == b""
    assert "worker_pool_size" in checked.error and "did you mean log_level" in checked.error
    assert f"{place.config}:3" in checked.error, checked.error


def test_our_own_variables_are_not_taken_for_settings(place: Place) -> None:
    place.configure("")
    assert place.check()[0].error == ""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import nothing_of_this_name\n", "ModuleNotFoundError: No module named 'nothing_of_this_name' ({}:1)"),
        ("pass\nraise SystemExit(3)\n", "SystemExit: 3 ({}:2)"),
        ("def broken(:\n", "({}:1)"),
    ],
)
def test_code_that_cannot_be_imported_is_named_with_its_line_and_its_traceback_is_logged_once(
    place: Place, code: str, expected: str
) -> None:
    place.configure('imports = ["bad_code"]')
    place.module("bad_code", code)
    checked, process = place.check()
    assert checked.settings == b""
    assert checked.error.startswith("cannot import 'bad_code': ")
    assert expected.format(place.folder / "bad_code.py") in checked.error
    errors = [line for line in process.log.things if line["level"] == "error"]
    assert len(errors) == 1 and "bad_code.py" in errors[0]["traceback"]


def test_a_module_that_is_not_there_is_named(place: Place) -> None:
    place.configure('imports = ["nowhere"]')
    assert place.check()[0].error == "cannot import 'nowhere': ModuleNotFoundError: No module named 'nowhere'"


def test_a_handler_that_executors_would_refuse_is_refused_here(place: Place) -> None:
    place.configure('imports = ["bad_handler"]')
    place.module("bad_handler", "from shiftboss import task\n@task(type='a:b')\ndef b(what: 'Nonsense') -> None: ...\n")
    checked, process = place.check()
    assert "Nonsense" in checked.error
    (line,) = [line for line in process.log.things if line["level"] == "error"]
    assert "traceback" not in line, "the message says it all, and the calls are ours"


def test_a_source_that_is_not_known_is_said(place: Place) -> None:
    with ActorProcess("check", place.old) as process:
        assert "restart" in process.said.wait_type(control.Checked).error
