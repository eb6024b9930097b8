"""How a PostgreSQL address is understood."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from shiftboss.errors import StoreError
from shiftboss.store.postgres.dsn import parse_dsn


def settings(dsn: str) -> dict[str, object]:
    return dict(conninfo_to_dict(parse_dsn(dsn, "app").conninfo))


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:p@h:5433/d",
        "postgres://u:p@h:5433/d",
        "postgresql+psycopg://u:p@h:5433/d",
        "host=h port=5433 user=u password=p dbname=d",
    ],
)
def test_every_way_to_write_it(dsn: str) -> None:
    found = settings(dsn)
    assert [str(found[key]) for key in ("host", "port", "user", "password", "dbname")] == ["h", "5433", "u", "p", "d"]
    assert found["application_name"] == "app"


def test_a_dead_peer_is_noticed_unless_the_address_says_otherwise() -> None:
    found = settings("postgresql://h/d?keepalives_idle=60&application_name=mine")
    assert (str(found["keepalives_idle"]), str(found["tcp_user_timeout"])) == ("60", "15000")
    assert (str(found["connect_timeout"]), found["application_name"]) == ("10", "mine")


def test_of_several_hosts_the_writable_one_is_used() -> None:
    assert settings("postgresql://a:1,b:2/d")["target_session_attrs"] == "read-write"
    assert settings("postgresql://a,b/d?target_session_attrs=any")["target_session_attrs"] == "any"
    assert "target_session_attrs" not in settings("postgresql://a/d")


@pytest.mark.parametrize(
    ("dsn", "threshold", "listen"),
    [
        ("postgresql://h/d", None, None),
        ("postgresql://h/d?prepare_threshold=0", 0, None),
        ("postgresql://h/d?listen=off&prepare_threshold=7", 7, False),
        ("postgresql://h/d?sslmode=disable&listen=on", None, True),
        ("postgresql://h/d?listen=on&sslmode=disable", None, True),
        ("host=h dbname=d prepare_threshold=5 listen=off", 5, False),
    ],
)
def test_our_own_options_are_kept_from_libpq(dsn: str, threshold: int | None, listen: bool | None) -> None:
    address = parse_dsn(dsn, "app")
    assert (address.prepare_threshold, address.listen) == (threshold, listen)
    found = conninfo_to_dict(address.conninfo)
    assert (found["host"], found["dbname"]) == ("h", "d")
    assert found.get("sslmode", "disable") == "disable"


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        ("postgresql://h/d?prepare_threshold=lots", "prepare_threshold=lots"),
        ("postgresql://h/d?listen=maybe", "listen=maybe"),
        ("postgresql://u:s3cret@h:5432/d?no_such_option=1", "cannot be read"),
        ("just words", "cannot be read"),
    ],
)
def test_what_cannot_be_understood_says_so_without_the_password(dsn: str, said: str) -> None:
    with pytest.raises(StoreError) as caught:
        parse_dsn(dsn, "app")
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_messages_name_no_user_and_no_password() -> None:
    assert parse_dsn("postgresql://u:s3cret@h:5433/d", "app").where == "h:5433/d"


@pytest.mark.parametrize(
    ("dsn", "where"),
    [
        ("postgresql://h/d", "h/d"),
        ("postgresql://h:5432/d", "h/d"),
        ("postgresql://a:5433,b:5432,c/d", "a:5433,b,c/d"),
        ("host=a,b port=5433 dbname=d", "a:5433,b:5433/d"),
        ("postgresql://[::1]:5433/d", "[::1]:5433/d"),
        ("postgresql:///d?host=/run/postgresql", "/run/postgresql/d"),
        ("postgresql:///d?port=5433", "the local socket:5433/d"),
        ("postgresql:///d", "the local socket/d"),
    ],
)
def test_messages_name_a_port_that_is_not_the_usual_one(dsn: str, where: str) -> None:
    assert parse_dsn(dsn, "app").where == where
