"""Settings: where they come from, which source wins, and what is said of every mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shiftboss.config import (
    SETTINGS,
    QueueSettings,
    Reload,
    Settings,
    changes,
    described,
    load_again,
    load_settings,
    redact,
    settings_from_json,
    settings_to_json,
    source_to_json,
)
from shiftboss.config.locate import lines_of_keys
from shiftboss.config.reading import INTERNAL_VARIABLES
from shiftboss.config.show import commented_toml, effective_toml
from shiftboss.config.templates import TEMPLATES
from shiftboss.config.units import format_duration, format_size, parse_duration, parse_size
from shiftboss.errors import ConfigError

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"

# The names that operators know, with their defaults.
PROMISED_VARIABLES = {
    "DATABASE_URL": ("database_url", "sqlite:///shiftboss.db"),
    "WORKER_POOL_SIZE": ("worker_pool_size", 10),
    "CLAIM_INTERVAL": ("claim_interval_s", 1.0),
    "SHUTDOWN_TIMEOUT": ("shutdown_timeout_s", 30.0),
    "DISTRIBUTED_MODE": ("distributed_mode", False),
    "HEARTBEAT_INTERVAL": ("heartbeat_interval_s", 10.0),
    "WORKER_TIMEOUT": ("worker_timeout_s", 30.0),
    "LEADER_TERM": ("leader_term_s", 30.0),
    "CLEANUP_INTERVAL": ("cleanup_interval_s", 60.0),
    "METRICS_PORT": ("metrics_port", 9090),
    "DEBUG": ("debug", False),
    "ENQUEUE_EXAMPLES": ("enqueue_examples", False),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, text: str) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def mistakes(text: str = "", **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_settings(file=write("bad.toml", text), environ=environ)
    return str(caught.value).splitlines()


# ---- values


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("1m", 60),
        ("2h", 7200),
        ("7d", 604_800),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        ("12", 12),
        (" 0 ", 0),
    ],
)
def test_a_duration_is_a_number_with_a_unit_or_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "1x", "-1s", "1 week", "1s?", "nan", "inf", "1e3", "1,5s", "٣s"])
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.25, 1.0, 1.5, 59.0, 60.0, 90.0, 3600.0, 86_400.0, 604_800.0, 0.0005])
def test_a_duration_shown_is_the_duration_read(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("512MiB", 536_870_912), ("64 KiB", 65_536), ("2GiB", 2_147_483_648), (" 12 ", 12), ("0", 0)],
)
def test_a_size_is_a_number_with_a_binary_unit_or_bytes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes
    assert parse_size(format_size(size_bytes)) == size_bytes


@pytest.mark.parametrize("text", ["", "MiB", "1MB", "1.5GiB", "-1", "1 week", "512mib", "1e3"])
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://app:s3cret@db/x",
        "postgresql://app:s3c@s3cret@db/x?sslmode=require",
        "postgresql://:s3cret@db",
        "postgresql://db/x?user=a&password=s3cret&sslmode=require",
        "postgresql://db/x?sslpassword=s3cret",
        "host=db password=s3cret",
        "host=db password = 's3cret and s3cret' user=a",
        "mysql://app:s3/s3cret?x@db/x",
        "postgresql://app:s3cret",
        "postgresql:/app:s3cret/x",
        "postgresql://app@tenant:s3cret@db/x",
        'password = "s3cret s3cret"',
    ],
)
def test_no_password_is_shown(text: str) -> None:
    assert "s3c" not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://app@db:5432/x?sslmode=require",
        "postgresql://db:5432",
        "postgresql://a:1,b:2/x",
        "postgresql://[::1]:5432/x",
        "http://127.0.0.1:9090/metrics, and no more",
        "cannot reach postgresql://db:5432: no route",
        "sqlite:////var/lib/x:y.db",
    ],
)
def test_text_without_a_password_is_shown_as_it_is(text: str) -> None:
    assert redact(text) == text


# ---- sources


def test_the_promised_variables_have_their_defaults() -> None:
    settings = load_settings(environ={}).settings
    bare = {setting.spec.variable for setting in SETTINGS if setting.spec.variable} - {"SHIFTBOSS_ENV"}
    assert bare == set(PROMISED_VARIABLES)
    assert {name: getattr(settings, name) for name, _ in PROMISED_VARIABLES.values()} == dict(PROMISED_VARIABLES.values())


def test_each_source_wins_over_the_one_before() -> None:
    file = write("x.toml", 'claim_interval = "2s"\nlog_level = "error"\nworker_pool_size = 4\n')
    environ = {"CLAIM_INTERVAL": "500ms", "WORKER_POOL_SIZE": "6", "SHIFTBOSS_WORKER_POOL_SIZE": "7"}
    loaded = load_settings(file=file, environ=environ, overrides={"claim_interval": "250ms"})
    assert (loaded.settings.claim_interval_s, loaded.origins["claim_interval"]) == (0.25, "command line")
    assert (loaded.settings.worker_pool_size, loaded.origins["worker_pool_size"]) == (
        7,
        "environment variable SHIFTBOSS_WORKER_POOL_SIZE",
    )
    assert (loaded.settings.log_level, loaded.origins["log_level"]) == ("error", "x.toml:2")
    assert (loaded.settings.debug, loaded.origins["debug"]) == (False, "default")
    assert set(loaded.origins) >= {setting.name for setting in SETTINGS}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_can_be_given_by_its_variable(setting) -> None:  # type: ignore[no-untyped-def]
    texts = {
        "database URL": "postgresql://a@b/c",
        # Towards the side on which no other setting stands.
        "duration": "31s" if setting.name.endswith("_timeout") else "8d" if setting.name == "completed_retention" else "4s",
        "whole number": "3" if setting.name != "max_args_bytes" else "4096",
        "true or false": "yes",
        "list of names": "a.b, c",
        "text": "elsewhere",
        "size": "1GiB",
        "path of a socket": "/run/shiftboss/x.sock",
        "tables": "{mail = {weight = 3}}",
        "one of": setting.spec.choices[-1] if setting.spec.choices else "",
    }
    loaded = load_settings(environ={f"SHIFTBOSS_{setting.name.upper()}": texts[setting.spec.kind]})
    assert getattr(loaded.settings, setting.field) != setting.default
    assert loaded.origins[setting.name] == f"environment variable SHIFTBOSS_{setting.name.upper()}"


def test_debug_lowers_the_log_level_whatever_the_file_says() -> None:
    loaded = load_settings(file=write("x.toml", 'log_level = "error"\n'), environ={"DEBUG": "1"})
    assert loaded.settings.log_level == "debug"
    assert loaded.origins["log_level"] == "debug = true, environment variable DEBUG"


def test_an_empty_variable_is_not_set() -> None:
    assert load_settings(environ={"DATABASE_URL": "", "SHIFTBOSS_ENV": ""}).settings.database_url == "sqlite:///shiftboss.db"


def test_a_named_environment_is_read_from_conf() -> None:
    write("conf/staging.toml", "worker_pool_size = 3\n")
    by_name = load_settings("staging", environ={})
    by_variable = load_settings(environ={"SHIFTBOSS_ENV": "staging"})
    assert by_name.file == by_variable.file == Path("conf/staging.toml")
    assert by_name.settings == by_variable.settings
    assert by_name.settings.environment == "staging"
    assert (by_name.origins["environment"], by_name.origins["worker_pool_size"]) == ("command line", "conf/staging.toml:1")


def test_a_named_environment_without_a_file_says_where_it_was_looked_for() -> None:
    with pytest.raises(ConfigError, match=r"'live' has no file.*conf/live\.toml or /etc/shiftboss/live\.toml"):
        load_settings("live", environ={})
    with pytest.raises(ConfigError, match="'live' has no file"):
        load_settings(environ={"SHIFTBOSS_ENV": "live"})


@pytest.mark.parametrize("name", ["../etc/passwd", "a/b", ".hidden", "a b"])
def test_an_environment_is_a_name_not_a_path(name: str) -> None:
    with pytest.raises(ConfigError, match="a path goes to --config"):
        load_settings(name, environ={})


def test_without_a_name_the_file_at_hand_is_read() -> None:
    assert load_settings(environ={}).file is None
    write("conf/development.toml", "worker_pool_size = 2\n")
    assert load_settings(environ={}).file == Path("conf/development.toml")
    write("shiftboss.toml", "worker_pool_size = 3\n")
    assert load_settings(environ={}).file == Path("shiftboss.toml")


def test_queues_are_merged_key_by_key() -> None:
    file = write("q.toml", '[queues.mail]\nweight = 2\nconcurrency = 4\n[queues."two words"]\nweight = 1\n')
    loaded = load_settings(file=file, environ={"SHIFTBOSS_QUEUES": "{mail = {weight = 9}}"})
    assert loaded.settings.queues == {"mail": QueueSettings(concurrency=4, weight=9), "two words": QueueSettings(weight=1)}
    assert loaded.origins["queues.mail.concurrency"] == "q.toml:3"
    assert loaded.origins["queues.mail.weight"] == "environment variable SHIFTBOSS_QUEUES"


def test_settings_survive_the_way_to_a_child() -> None:
    settings = Settings(
        imports=("a", "b"), executors=3, queues={"mail": QueueSettings(weight=2)}, database_url="postgresql://a:b@c/d"
    )
    assert settings_from_json(settings_to_json(settings)) == settings


# ---- a reload


def test_the_same_places_can_be_read_again() -> None:
    write("conf/staging.toml", "worker_pool_size = 3\n")
    first = load_settings("staging", environ={"METRICS_PORT": "1"}, overrides={"claim_interval": "2s"})
    assert load_again(source_to_json(first.source), {"METRICS_PORT": "1"}) == first
    write("conf/staging.toml", "worker_pool_size = 4\n")
    again = load_again(source_to_json(first.source), {"METRICS_PORT": "2"})
    assert described(changes(first.settings, again.settings)) == "worker_pool_size: 3 -> 4, metrics_port: 1 -> 2"
    by_file = load_settings(file=write("x.toml", "worker_pool_size = 5\n"), environ={})
    assert load_again(source_to_json(by_file.source), {}) == by_file
    assert load_again(source_to_json(load_settings(environ={}).source), {"SHIFTBOSS_ENV": "staging"}).file == first.file


def test_a_source_does_not_show_what_it_overrides() -> None:
    loaded = load_settings(environ={}, overrides={"database_url": "postgresql://app:s3cret@db/x"})
    assert "s3cret" not in repr(loaded)


def test_changes_say_what_was_what_is_and_what_a_reload_does_about_it() -> None:
    queues = {"mail": QueueSettings(weight=2), "a b": QueueSettings(concurrency=0)}
    old = Settings(imports=("a",), queues={"mail": QueueSettings(weight=1, concurrency=3)})
    new = Settings(imports=("a", "b"), debug=True, executor_max_memory_bytes=2**30, metrics_port=1, executors=2, queues=queues)
    assert [(str(change), change.reload) for change in changes(old, new)] == [
        ('imports: ["a"] -> ["a","b"]', Reload.EXECUTORS),
        ('executors: "auto" -> 2', Reload.EXECUTORS),
        ('executor_max_memory: 0 -> "1GiB"', Reload.EXECUTORS),
        ("metrics_port: 9090 -> 1", Reload.GATEWAY),
        ("debug: false -> true", Reload.LIVE),
        ("queues.a b.concurrency: as stored -> 0", Reload.LIVE),
        ("queues.mail.concurrency: 3 -> as stored", Reload.LIVE),
        ("queues.mail.weight: 1 -> 2", Reload.LIVE),
    ]
    assert described(changes(old, old)) == "nothing"


def test_changes_show_no_password() -> None:
    one, other = (Settings(database_url=f"postgresql://app:{password}@db/x") for password in ("s3cret", "s3cret2"))
    (change,) = changes(one, other)
    assert str(change) == ('database_url: "postgresql://app:***@db/x" -> "postgresql://app:***@db/x" (another password)')
    assert change.reload is Reload.RESTART


def test_what_a_reload_cannot_change() -> None:
    by_word = {word: {s.name for s in SETTINGS if s.spec.reload is word} for word in Reload}
    assert by_word[Reload.RESTART] == {"environment", "database_url", "distributed_mode", "control_socket"}
    assert by_word[Reload.GATEWAY] == {"metrics_host", "metrics_port"}


# ---- mistakes


def test_every_mistake_is_named_with_its_line_value_and_what_would_be_right() -> None:
    text = """\
# a comment
worker_pool_size = "ten"
claim_intervall = "1s"
database_url = "mysql://u:s3cret@h/db"
log_format = "xml"
imports = "app"
debug = 1
metrics_host = ""
shutdown_timeout = -1

[queues.mail]
wieght = 2
concurrency = 1.5
[queues]
batch = 3
"""
    found = mistakes(text, METRICS_PORT="70000", SHIFTBOSS_WORKER_POOLSIZE="3")
    expected = [
        r"bad\.toml:2: worker_pool_size = \"ten\": must be a whole number from 1 to 10000$",
        r"bad\.toml:3: claim_intervall: no such setting; did you mean claim_interval\?$",
        r"bad\.toml:4: database_url = \"mysql://\*\*\*\": must be sqlite:///\S+ or postgresql://\S+; in a password @",
        r"bad\.toml:6: imports = \"app\": must be a list of names",
        r"bad\.toml:5: log_format = \"xml\": must be one of auto, text, json, journal$",
        r"bad\.toml:7: debug = 1: must be true or false$",
        r"bad\.toml:8: metrics_host = \"\": must be text that is not empty$",
        r"bad\.toml:9: shutdown_timeout = -1: must be a duration from 0s to 3650d like 500ms",
        r"bad\.toml:12: queues\.mail\.wieght: no such setting; did you mean weight\?$",
        r"bad\.toml:13: queues\.mail\.concurrency = 1\.5: must be a whole number from 0 to 100000$",
        r"bad\.toml:15: queues\.batch = 3: must be a table",
        r"environment variable METRICS_PORT: metrics_port = 70000: must be a whole number from 0 to 65535$",
        r"environment variable SHIFTBOSS_WORKER_POOLSIZE: no such setting; did you mean SHIFTBOSS_WORKER_POOL_SIZE\?$",
    ]
    for pattern in expected:
        assert [line for line in found if re.match(pattern, line)], f"{pattern} is not in\n" + "\n".join(found)
    assert len(found) == len(expected)
    assert "s3cret" not in "\n".join(found)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            'heartbeat_interval = "20s"\nworker_timeout = "30s"',
            ["bad.toml:1", "20s", "bad.toml:2", "30s", "third of worker_timeout"],
        ),
        ("executors = 11", ["bad.toml:1", "executors = 11", "worker_pool_size = 10 (default)"]),
        ('ping_interval = "20s"', ["ping_timeout"]),
        ('restart_backoff = "1m"', ["restart_backoff_max"]),
        ('result_retention = "8d"', ["completed_retention"]),
        ('leader_term = "2s"', ["leader_term", "3s"]),
        ('executor_max_memory = "63MiB"', ['executor_max_memory = "63MiB": executor_max_memory must be 0 or at least 64MiB']),
        ('executor_max_age = "500ms"', ["executor_max_age must be 0 or at least 1s"]),
        ('executor_max_memory = "1GB"', ['"1GB"', "like 512MiB"]),
        ('control_socket = "run/x.sock"', ['"run/x.sock"', '"auto", "off" or an absolute path']),
        (f'control_socket = "/{"x" * 107}"', ["at most 107 bytes"]),
    ],
)
def test_settings_that_clash_are_named_together(text: str, named: list[str]) -> None:
    (mistake,) = mistakes(text)
    assert [part for part in named if part not in mistake] == []


@pytest.mark.parametrize("text", ["0", '"0"', '"0s"'])
def test_who_keeps_no_history_need_not_say_how_long_its_results_are_kept(text: str) -> None:
    assert not load_settings(file=write("good.toml", f"completed_retention = {text}"), environ={}).settings.keeps_completed
    assert len(mistakes('completed_retention = "1s"')) == 1


def test_a_clash_with_a_setting_that_is_wrong_by_itself_is_not_reported() -> None:
    (mistake,) = mistakes('heartbeat_interval = "20s"\nworker_timeout = "soon"')
    assert mistake.startswith("bad.toml:2: worker_timeout")


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "file.db", "postgresql://", "http://x/y", "sqlite:x.db"]
)
def test_a_database_that_several_processes_cannot_share_is_refused(url: str) -> None:
    assert "database_url" in mistakes(f'database_url = "{url}"')[0]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@ss@h/d",
        "postgresql://u:p/ss@h/d",
        "postgresql://u:12/ss@h/d",
        "postgresql://u:p@ss/w@h/d",
        "postgresql://u:p@ss?w@h/d",
        "postgresql://u@tenant:p@h/d",
        "postgresql://u:p@h:port/d",
        "postgresql://u:p",
    ],
)
def test_a_password_that_would_be_taken_for_a_host_or_a_port_is_refused(url: str) -> None:
    (mistake,) = mistakes(f'database_url = "{url}"')
    assert mistake.startswith('bad.toml:1: database_url = "postgresql://***": must be')
    assert "in a password @ : / ? and % are written %40 %3A %2F %3F and %25" in mistake


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%40ss@h:5432/d?sslmode=require",
        "postgres://u:p:s#s?s w@h1:1,h2:,[::1]:3/d",
        "postgresql:///d?host=/tmp/x&user=me@tenant",
        "postgresql://u@%2Fvar%2Frun/d",
        "postgresql://h?password=p@ss/word",
        "postgresql://u:p@/d?options=-c work_mem=1MB",
    ],
)
def test_every_other_way_to_write_a_url_is_right(url: str) -> None:
    assert load_settings(environ={"DATABASE_URL": url}).settings.database_url == url


def test_a_file_that_is_not_there_or_not_toml_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read: No such file"):
        load_settings(file=Path("nowhere.toml"), environ={})
    assert re.search(r"bad\.toml: is not TOML: .*line 2", mistakes("debug = true\nqueues = = 1")[0])
    Path("latin.toml").write_bytes(b'metrics_host = "\xe6"')
    with pytest.raises(ConfigError, match=r"latin\.toml: is not UTF-8"):
        load_settings(file=Path("latin.toml"), environ={})


def test_somebody_elses_variable_is_no_mistake() -> None:
    load_settings(environ={"SHIFTBOSS_CONTROL_FD": "3", "SHIFTBOSS_DEPLOY_TOKEN": "x"})


def test_no_variable_of_ours_is_taken_for_a_misspelt_setting() -> None:
    code = "".join(path.read_text() for folder in ("shiftboss", "actors", "supervisor") for path in (ROOT / folder).rglob("*.py"))
    names = set(re.findall(r'_VARIABLE: Final = "(SHIFTBOSS_\w+)"', code)) - {"SHIFTBOSS_ENV"}
    assert names >= {"SHIFTBOSS_SOURCE", "SHIFTBOSS_CONTROL_FD"}
    load_settings(environ=dict.fromkeys(names | INTERNAL_VARIABLES, "x"))


def test_a_wrong_override_says_command_line() -> None:
    with pytest.raises(ConfigError, match='command line: debug = "maybe": must be true or false'):
        load_settings(environ={}, overrides={"debug": "maybe"})


# ---- text


def test_lines_are_found_in_tables_dotted_keys_and_not_in_long_strings() -> None:
    text = 'a = 1\nb = """\na = 2\n[c]\n"""\n  "d" = 3\n[queues.x]\nweight = 1\n[queues."y z"]\nweight=2\n'
    assert lines_of_keys(text) == {
        ("a",): 1,
        ("b",): 2,
        ("d",): 6,
        ("queues", "x"): 7,
        ("queues", "x", "weight"): 8,
        ("queues", "y z"): 9,
        ("queues", "y z", "weight"): 10,
    }


def test_what_is_shown_can_be_read_back() -> None:
    given = Settings(
        executors=2, imports=("a",), queues={"mail": QueueSettings(weight=2), "two words": QueueSettings(concurrency=0)}
    )
    for text in (effective_toml(given, {s.name: "default" for s in SETTINGS}), commented_toml(given, "A test.")):
        assert load_settings(file=write("back.toml", text), environ={}).settings == given


def test_what_is_shown_hides_the_password() -> None:
    loaded = load_settings(environ={"DATABASE_URL": "postgresql://app:s3cret@db/x"})
    text = effective_toml(loaded.settings, loaded.origins)
    assert 'database_url = "postgresql://app:***@db/x"' in text
    assert "# environment variable DATABASE_URL" in text


def test_every_field_is_declared_with_its_words() -> None:
    assert [setting.field for setting in SETTINGS] == list(Settings.__struct_fields__)
    assert [setting.name for setting in SETTINGS if len(setting.spec.doc) < 20] == []


# ---- the files under conf/


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_file_under_conf_is_valid_and_has_every_setting_once(name: str) -> None:
    file = CONF / f"{name}.toml"
    loaded = load_settings(file=file, environ={})
    assert loaded.settings.environment == name
    keys = re.findall(r"^([a-z_]+) = ", file.read_text(), re.MULTILINE)
    assert keys == [setting.name for setting in SETTINGS if setting.name != "queues"]
    assert "[queues.mail]" in file.read_text()
    assert [name for name, origin in loaded.origins.items() if origin == "default"] == ["queues"]


def test_conf_holds_the_templates_and_nothing_else() -> None:
    assert {file.stem: file.read_text() for file in CONF.iterdir()} == {
        name: template.toml() for name, template in TEMPLATES.items()
    }
