"""Drop-ins beside a file, the database's URL from a file of its own, and what two environments' files say."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shiftboss.cli.main import main
from shiftboss.config import QueueSettings, load_settings
from shiftboss.config import load as load_module
from shiftboss.errors import ConfigError

URL = "postgresql://app:s3cret@db/x"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "DATABASE_URL_FILE", "CREDENTIALS_DIRECTORY", "DEBUG", "SHIFTBOSS_ENV"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write(path: str, text: str | bytes) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


# ---- drop-ins


def test_drop_ins_are_read_in_the_order_of_their_names_and_the_last_wins() -> None:
    write("conf/production.toml", 'worker_pool_size = 1\nclaim_interval = "1s"\nlog_level = "error"\n[queues.mail]\nweight = 1\n')
    write("conf/production.d/20-more.toml", "\nworker_pool_size = 3\n[queues.mail]\nconcurrency = 5\n")
    write("conf/production.d/10-first.toml", 'worker_pool_size = 2\nclaim_interval = "2s"\n')
    loaded = load_settings("production", environ={"CLAIM_INTERVAL": "3s"})
    assert loaded.drop_ins == (Path("conf/production.d/10-first.toml"), Path("conf/production.d/20-more.toml"))
    assert (loaded.settings.worker_pool_size, loaded.origins["worker_pool_size"]) == (3, "conf/production.d/20-more.toml:2")
    assert (loaded.settings.claim_interval_s, loaded.origins["claim_interval"]) == (3.0, "environment variable CLAIM_INTERVAL")
    assert loaded.settings.log_level == "error"
    assert loaded.settings.queues == {"mail": QueueSettings(weight=1, concurrency=5)}
    assert loaded.origins["queues.mail.concurrency"] == "conf/production.d/20-more.toml:4"


def test_a_file_given_by_its_path_has_drop_ins_too() -> None:
    write("some where/x.d/a.toml", "worker_pool_size = 2\n")
    assert load_settings(file=write("some where/x.toml", ""), environ={}).settings.worker_pool_size == 2
    write("plain.d/a.toml", "worker_pool_size = 3\n")
    assert load_settings(file=write("plain", ""), environ={}).settings.worker_pool_size == 3


def test_drop_ins_belong_to_the_file_that_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "SYSTEM_FOLDER", Path("etc"))
    write("etc/production.toml", "worker_pool_size = 2\n")
    write("etc/production.d/a.toml", "metrics_port = 2\n")
    write("conf/production.d/a.toml", "metrics_port = 3\n")
    loaded = load_settings("production", environ={})
    assert (loaded.file, loaded.settings.metrics_port) == (Path("etc/production.toml"), 2)
    write("conf/production.toml", "worker_pool_size = 3\n")
    loaded = load_settings("production", environ={})
    assert (loaded.file, loaded.settings.metrics_port) == (Path("conf/production.toml"), 3)


def test_hidden_files_and_other_suffixes_are_left_alone() -> None:
    for name in (".hidden.toml", "a.toml~", "b.toml.dpkg-old", "README", "c.conf"):
        write(f"x.d/{name}", "= wrong")
    assert load_settings(file=write("x.toml", ""), environ={}).drop_ins == ()


def broken_toml() -> None:
    write("x.d/a.toml", "= 1")


def dangling_link() -> None:
    Path("x.d").mkdir()
    Path("x.d/a.toml").symlink_to("nowhere")


def folder_for_file() -> None:
    Path("x.d/a.toml").mkdir(parents=True)


def file_for_folder() -> None:
    write("x.d", "")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (broken_toml, "x.d/a.toml: is not TOML"),
        (dangling_link, "x.d/a.toml: cannot be read: No such file"),
        (folder_for_file, "x.d/a.toml: cannot be read: Is a directory"),
        (file_for_folder, "x.d: cannot be read: Not a directory; it is for drop-ins of x.toml"),
    ],
)
def test_a_drop_in_that_cannot_be_read_is_an_error(make: Callable[[], None], said: str) -> None:
    make()
    with pytest.raises(ConfigError) as caught:
        load_settings(file=write("x.toml", ""), environ={})
    assert said in str(caught.value)


def test_a_mistake_in_a_drop_in_is_named_with_its_line() -> None:
    write("x.d/a.toml", "\nworker_pool_size = 0\n")
    with pytest.raises(ConfigError, match=r"^x\.d/a\.toml:2: worker_pool_size = 0: must be"):
        load_settings(file=write("x.toml", ""), environ={})


# ---- a file with the database's URL and nothing else


def test_a_credential_wins_over_files_and_loses_to_variables_and_the_command_line() -> None:
    file = write("x.toml", 'database_url = "sqlite:///toml.db"\n')
    write("x.d/a.toml", 'database_url = "sqlite:///drop-in.db"\n')
    write("cred/database_url", f"{URL}\n")
    write("secret", "sqlite:///secret.db\r\n")
    environ, overrides, found = {"CREDENTIALS_DIRECTORY": "cred"}, {}, []

    def note() -> None:
        loaded = load_settings(file=file, environ=environ, overrides=overrides)
        found.append((loaded.settings.database_url, loaded.origins["database_url"]))

    note()
    environ["DATABASE_URL_FILE"] = "secret"
    note()
    environ["DATABASE_URL"] = "sqlite:///variable.db"
    note()
    overrides["database_url"] = "sqlite:///set.db"
    note()
    assert found == [
        (URL, "credential database_url"),
        ("sqlite:///secret.db", "environment variable DATABASE_URL_FILE"),
        ("sqlite:///variable.db", "environment variable DATABASE_URL"),
        ("sqlite:///set.db", "command line"),
    ]


def test_a_credential_may_be_called_dsn() -> None:
    write("cred/dsn", "sqlite:///dsn.db")
    environ = {"CREDENTIALS_DIRECTORY": "cred"}
    loaded = load_settings(environ=environ)
    assert (loaded.settings.database_url, loaded.origins["database_url"]) == ("sqlite:///dsn.db", "credential dsn")
    write("cred/database_url", URL)
    assert load_settings(environ=environ).settings.database_url == URL


def test_credentials_for_somebody_else_are_left_alone() -> None:
    write("cred/tls.key", "x")
    assert load_settings(environ={"CREDENTIALS_DIRECTORY": "cred"}).origins["database_url"] == "default"
    assert load_settings(environ={"CREDENTIALS_DIRECTORY": "nowhere"}).origins["database_url"] == "default"
    assert load_settings(environ={"DATABASE_URL_FILE": ""}).origins["database_url"] == "default"


def test_the_longer_name_of_the_file_variable_wins() -> None:
    write("a", "sqlite:///a.db")
    environ = {"SHIFTBOSS_DATABASE_URL_FILE": "a", "DATABASE_URL_FILE": "nowhere"}
    assert load_settings(environ=environ).origins["database_url"] == "environment variable SHIFTBOSS_DATABASE_URL_FILE"


def nothing(_path: Path) -> None:
    pass


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (nothing, "cannot be read: No such file or directory"),
        (a_folder, "is a directory"),
        (a_pipe, "is not a regular file"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (f"{URL}\nand more\n".encode(), "has more than one line"),
        (b"postgresql://app:s3cret\xff@db/x", "is not UTF-8 text"),
        (b"postgresql://app:s3cret@db/" + b"x" * 65_536, "is larger than 64 KiB"),
    ],
)
def test_a_secret_file_that_is_of_no_use_is_an_error_without_its_content(
    content: bytes | Callable[[Path], None], said: str
) -> None:
    path = Path("secret")
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={"DATABASE_URL_FILE": "secret"})
    mistake = str(caught.value)
    assert mistake.startswith(f"environment variable DATABASE_URL_FILE: secret: {said}; must be a file that holds")
    assert "s3cret" not in mistake
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(("path", "said"), [("/proc/self/mem", "Input/output error"), ("a\0b", "embedded null byte")])
def test_a_secret_file_that_fails_while_it_is_read_is_an_error(path: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot be read: {said}"):
        load_settings(environ={"DATABASE_URL_FILE": path})


def test_no_descriptor_is_left_open() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for path in ("/", "/proc/self/mem", "/dev/null"):
        with pytest.raises(ConfigError):
            load_settings(environ={"DATABASE_URL_FILE": path})
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_password_alone_in_the_place_of_a_url_is_not_repeated() -> None:
    write("cred/database_url", "s3cret\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={"CREDENTIALS_DIRECTORY": "cred"})
    assert str(caught.value).startswith('credential database_url: database_url = "***": must be sqlite:///')


# ---- shiftboss config check, diff


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main(arguments)
    return (code, *capfd.readouterr())


def test_check_names_every_file_it_has_read(capfd: pytest.CaptureFixture[str]) -> None:
    write("conf/staging.toml", "")
    write("conf/staging.d/a.toml", "")
    code, out, err = run(capfd, "config", "check", "--env", "staging")
    assert (code, err) == (0, "")
    assert out == "the settings of environment staging (conf/staging.toml, conf/staging.d/a.toml) are right\n"
    _, out, _ = run(capfd, "config", "check", "--env", "staging", "--json")
    assert json.loads(out)["drop_ins"] == ["conf/staging.d/a.toml"]


def test_check_warns_of_what_works_and_is_hardly_meant(capfd: pytest.CaptureFixture[str]) -> None:
    write("x.toml", "distributed_mode = true\n")
    code, out, err = run(capfd, "config", "check", "--config", "x.toml")
    assert (code, out) == (0, "the settings of environment development (x.toml) are right\n")
    assert err.startswith("warning: x.toml:1: distributed_mode = true: with an SQLite database every worker must be on this")
    code, out, _ = run(capfd, "config", "check", "--config", "x.toml", "--json")
    assert (code, len(json.loads(out)["warnings"])) == (0, 1)
    assert run(capfd, "config", "check", "--config", "x.toml", "--set", f"database_url={URL}")[2] == ""


def test_diff_prints_what_two_environments_say_differently(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("conf/staging.toml", f'claim_interval = "2s"\nworker_pool_size = 4\ndatabase_url = "{URL}"\n')
    write("conf/staging.d/a.toml", "[queues.mail]\nweight = 2\n")
    write("conf/production.toml", f'worker_pool_size = 4\ndatabase_url = "{URL.replace("s3cret", "s3cret2")}"\n')
    monkeypatch.setenv("CLAIM_INTERVAL", "7s")
    code, out, err = run(capfd, "config", "diff", "staging", "conf/production.toml")
    assert (code, err) == (1, "")
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "SETTING A FROM B FROM",
        'database_url "postgresql://app:***@db/x" conf/staging.toml:3 '
        '"postgresql://app:***@db/x" (another password) conf/production.toml:2',
        'claim_interval "2s" conf/staging.toml:1 "1s" default',
        "queues.mail.weight 2 conf/staging.d/a.toml:2 as stored default",
    ]
    code, out, err = run(capfd, "config", "diff", "staging", "production", "--json")
    assert (code, err) == (1, "")
    assert json.loads(out)[1:] == [
        {
            "name": "claim_interval",
            "a": {"value": "2s", "origin": "conf/staging.toml:1"},
            "b": {"value": "1s", "origin": "default"},
        },
        {
            "name": "queues.mail.weight",
            "a": {"value": 2, "origin": "conf/staging.d/a.toml:2"},
            "b": {"value": None, "origin": "default"},
        },
    ]


def test_diff_of_what_agrees_ends_with_0_and_of_what_is_wrong_with_78(capfd: pytest.CaptureFixture[str]) -> None:
    write("a.toml", "worker_pool_size = 10\n")
    write("b.toml", "")
    write("wrong.toml", "worker_pool_size = 0\n")
    assert run(capfd, "config", "diff", "a.toml", "b.toml") == (0, "", "a.toml and b.toml say the same\n")
    assert run(capfd, "config", "diff", "a.toml", "b.toml", "--json") == (0, "[]\n", "")
    code, out, err = run(capfd, "config", "diff", "a.toml", "wrong.toml")
    assert (code, out) == (78, "")
    assert "wrong.toml:1: worker_pool_size = 0" in err
    code, _, err = run(capfd, "config", "diff", "a.toml", "nowhere")
    assert (code, "environment 'nowhere' has no file" in err) == (78, True)
