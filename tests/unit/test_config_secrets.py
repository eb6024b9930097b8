"""No password is ever printed: a canary is put wherever one may stand, and nothing that is printed may hold a part of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from shiftboss.cli.main import main

MARK = "xyzzy"
# Between every two characters that end a part of a URL stands the mark: no part of the password is without it.
RAW = f"{MARK}1@{MARK}2/{MARK}3:{MARK}4?{MARK}5%{MARK}6#{MARK}7&{MARK}8"
ENCODED = quote(RAW, safe="")
WORD = f"{MARK}9"

RIGHT = f"postgresql://app:{ENCODED}@127.0.0.1:1/x"
URLS = {
    "right": RIGHT,
    "in the query": f"postgresql://127.0.0.1:1/x?user=app&password={ENCODED}",
    "several hosts": f"postgresql://app:{ENCODED}@127.0.0.1:1,127.0.0.1:2/x",
    "not encoded": f"postgresql://app:{RAW}@127.0.0.1:1/x",
    "with a slash": f"postgresql://app:{MARK}/{MARK}@127.0.0.1:1/x",
    "with an at": f"postgresql://app:{MARK}@{MARK}@127.0.0.1:1/x",
    "with a percent": f"postgresql://app:{MARK}%zz{MARK}@127.0.0.1:1/x",
    "with a quote": f'postgresql://app:{MARK}"{MARK}@127.0.0.1:1/x',
    "wrong port": f"postgresql://app:{ENCODED}@127.0.0.1:port/x",
    "port too large": f"postgresql://app:{WORD}@127.0.0.1:99999/x",
    "wrong option": f"postgresql://app:{WORD}@127.0.0.1:1/x?no_such=1",
    "option of ours": f"postgresql://app:{WORD}@127.0.0.1:1/x?listen=maybe",
    "wrong scheme": f"mysql://app:{RAW}@127.0.0.1/x",
    "no scheme": f"app:{WORD}@127.0.0.1/x",
    "one slash": f"postgresql:/app:{WORD}@127.0.0.1/x",
    "a space": f"postgresql:// app:{WORD}@127.0.0.1/x",
    "no at": f"postgresql://app:{WORD}",
    "no at, no user": f"postgresql://:{WORD}/x",
    "two ats": f"postgresql://app@tenant:{WORD}@127.0.0.1:1/x",
    "key and value": f"host=127.0.0.1 password='{WORD} {WORD}' user=app",
    "the password alone": WORD,
    "very long": f"postgresql://app:{WORD * 100}",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, none of our variables, and tracebacks on."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "DATABASE_URL_FILE", "CREDENTIALS_DIRECTORY", "SHIFTBOSS_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DEBUG", "1")
    Path("plain.toml").write_text("")
    return tmp_path


CONFIG_COMMANDS = ("config show", "config show --json", "config check", "config check --json")
DATABASE_COMMANDS = ("status", "db check", "tasks list")


def command_lines(config: str, commands: tuple[str, ...] = CONFIG_COMMANDS) -> Iterator[list[str]]:
    yield from ([*command.split(), "--config", config] for command in commands)


def check(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    capfd.readouterr()
    code = main(arguments)
    printed = "".join(capfd.readouterr())
    assert MARK not in printed.lower(), f"{arguments} ended with {code} and printed\n{printed}"
    return printed


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
@pytest.mark.parametrize("source", ["variable", "file variable", "credential", "file", "drop-in", "option"])
def test_no_command_prints_the_password(
    source: str, url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    more: list[str] = []
    quoted = "'" + url.replace("'", "") + "'"
    match source:
        case "variable":
            monkeypatch.setenv("DATABASE_URL", url)
        case "file variable":
            Path("secret").write_text(url)
            monkeypatch.setenv("DATABASE_URL_FILE", "secret")
        case "credential":
            Path("dsn").write_text(url)
            monkeypatch.setenv("CREDENTIALS_DIRECTORY", ".")
        case "file":
            Path("plain.toml").write_text(f"database_url = {quoted}\n")
        case "drop-in":
            Path("plain.d").mkdir()
            Path("plain.d/a.toml").write_text(f"database_url = {quoted}\n")
        case "option":
            more = ["--set", f"database_url={url}"]
    for arguments in command_lines("plain.toml"):
        assert check(capfd, [*arguments, *more])


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_no_command_that_opens_the_database_prints_the_password(
    url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    for arguments in command_lines("plain.toml", DATABASE_COMMANDS):
        assert check(capfd, arguments)


@pytest.mark.parametrize(
    "text",
    [
        f'database_url = "{RIGHT}',
        f"database_url = {RIGHT}",
        f'databse_url = "{RIGHT}"',
        f'database_url_file = "{RIGHT}"',
        f'database_url = ["{RIGHT}"]',
        f'[database_url]\npassword = "{WORD} {WORD}"',
        f'database_url = "{RIGHT}"\ndatabase_url = "{RIGHT}"',
        f'database_url = "{RIGHT}" "',
        f'metrics_port = "{RIGHT}"',
        f'queues = "{RIGHT}"',
        f'[queues.mail]\nweight = "{RIGHT}"',
        f'control_socket = "{RIGHT}"',
        f'log_level = "password = \\"{WORD} {WORD}\\""',
        f'database_url = "{RIGHT}"\nworker_pool_size = 0\nexecutors = 11',
    ],
)
def test_no_mistake_in_a_file_prints_the_password(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("bad.toml").write_text(f"{text}\n")
    for arguments in command_lines("bad.toml", (*CONFIG_COMMANDS, "status")):
        assert check(capfd, arguments).count("shiftboss: ") >= 1
    check(capfd, ["config", "diff", "bad.toml", "plain.toml"])
    check(capfd, ["config", "diff", "plain.toml", "bad.toml", "--json"])


# Without "://" nobody could tell that it is a URL.
@pytest.mark.parametrize("name", [name for name, url in URLS.items() if "://" in url])
def test_a_url_in_the_wrong_place_is_not_repeated(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    url = URLS[name]
    check(capfd, ["config", "show", "--config", url])
    check(capfd, ["config", "show", "--env", url])
    check(capfd, ["config", "show", "--set", url])
    check(capfd, ["config", "show", "--set", f"databse_url={url}"])
    check(capfd, ["config", "diff", url, "plain.toml"])
    for variable in ("SHIFTBOSS_ENV", "DATABASE_URL_FILE", "METRICS_PORT", "SHIFTBOSS_DATABASE_UR"):
        monkeypatch.setenv(variable, url)
        check(capfd, ["config", "show"])
        monkeypatch.delenv(variable)


def test_diff_of_two_passwords_prints_neither(capfd: pytest.CaptureFixture[str]) -> None:
    Path("a.toml").write_text(f'database_url = "{RIGHT}"\n')
    Path("b.toml").write_text(f'database_url = "{RIGHT.replace(ENCODED, WORD)}"\n')
    assert "another password" in check(capfd, ["config", "diff", "a.toml", "b.toml"])
    assert "127.0.0.1" in check(capfd, ["config", "diff", "a.toml", "b.toml", "--json"])


@pytest.mark.parametrize("name", ["right", "in the query", "wrong option", "not encoded", "with an at"])
def test_a_service_without_its_database_logs_no_password(name: str, folder: Path) -> None:
    variables = {
        "DATABASE_URL": URLS[name],
        "DEBUG": "1",
        "SHIFTBOSS_START_TIMEOUT": "3s",
        "SHIFTBOSS_SHUTDOWN_TIMEOUT": "1s",
        "SHIFTBOSS_LOG_FORMAT": "json",
        "METRICS_PORT": "0",
    }
    done = subprocess.run(
        [sys.executable, "-m", "shiftboss.cli", "start", "--config", "plain.toml"],
        env={**os.environ, **variables},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        text=True,
    )
    assert done.returncode in (70, 75, 78), done.stdout
    assert "127.0.0.1" in done.stdout or "***" in done.stdout or "cannot be read" in done.stdout
    assert MARK not in done.stdout.lower()
