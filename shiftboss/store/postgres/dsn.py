"""The database's address: what libpq gets, and the two options of our own that it must not see."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from shiftboss.errors import StoreError

_SCHEME: Final = re.compile(r"^postgres(?:ql)?(?:\+\w+)?://")
_OWN: Final = ("prepare_threshold", "listen")
_PAIR: Final = re.compile(rf"(?:^|\s)({'|'.join(_OWN)})\s*=\s*(\w+)")

_USUAL_PORT: Final = "5432"

# A dead peer is noticed after 10 + 3 * 5 seconds of silence, unanswered data after 15.
_DEFAULTS: Final = {
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to connect and how.

    Attributes:
        conninfo: for libpq, with our defaults filled in where it says nothing.
        where: host, port if it is not the usual one, and database, for messages; never a password.
        prepare_threshold: executions before a statement is prepared; 0 never; `None`: found out at connect.
        listen: whether LISTEN works; `None`: found out at connect.
    """

    conninfo: str
    where: str
    prepare_threshold: int | None = None
    listen: bool | None = None


def parse_dsn(dsn: str, application_name: str) -> Address:
    """Understand a PostgreSQL URL (`postgresql://`, `postgres://`) or a key=value string.

    Raises:
        StoreError: it is neither; the message does not repeat it, since it may hold a password.
    """
    rest, own = _split_own(_SCHEME.sub("postgresql://", dsn))
    try:
        given = conninfo_to_dict(rest)
    except psycopg.Error as error:
        reason = re.sub(r'"[^"]*"', '"…"', str(error)).strip()
        raise StoreError(
            f"the database address cannot be read: {reason}. Like: postgresql://user:password@host:5432/name"
        ) from None
    settings = {**_DEFAULTS, "application_name": application_name, **{k: v for k, v in given.items() if v is not None}}
    hosts = str(given.get("host") or given.get("hostaddr") or "")
    if "," in hosts:
        settings.setdefault("target_session_attrs", "read-write")
    return Address(
        conninfo=make_conninfo("", **settings),
        where=f"{_with_ports(hosts, str(given.get('port') or ''))}/{given.get('dbname') or ''}",
        prepare_threshold=_number(own.get("prepare_threshold")),
        listen=_switch(own.get("listen")),
    )


def _with_ports(hosts: str, ports: str) -> str:
    """For people: `a:5433,b`. One port may be meant for all hosts, as for libpq."""
    names, numbers = (hosts or "the local socket").split(","), ports.split(",")
    if len(numbers) == 1:
        numbers *= len(names)
    return ",".join(
        name if port in ("", _USUAL_PORT) else f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        for name, port in zip_longest(names, numbers, fillvalue="")
    )


def _split_own(dsn: str) -> tuple[str, dict[str, str]]:
    """The address without our own options, and those."""
    if not _SCHEME.match(dsn):
        return _PAIR.sub(" ", dsn), dict(_PAIR.findall(dsn))
    front, mark, query = dsn.partition("?")
    options = [option.partition("=") for option in query.split("&") if option]
    rest = "&".join("".join(option) for option in options if option[0] not in _OWN)
    return front + (mark + rest if rest else ""), {key: value for key, _, value in options if key in _OWN}


def _number(text: str | None) -> int | None:
    if text is not None and not text.isdigit():
        raise StoreError(f"prepare_threshold={text} in the database address: a number is needed, 0 to never prepare")
    return None if text is None else int(text)


def _switch(text: str | None) -> bool | None:
    if text not in (None, "on", "off"):
        raise StoreError(f"listen={text} in the database address: must be on or off")
    return None if text is None else text == "on"
