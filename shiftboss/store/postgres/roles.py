"""Least privilege on PostgreSQL: what a service, a program that enqueues and one that only looks may do, as GRANTs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import cache
from typing import Final

from psycopg import sql

from shiftboss.errors import OptionError, StoreError
from shiftboss.store.postgres.arrays import text_array
from shiftboss.store.postgres.dsn import parse_dsn
from shiftboss.store.postgres.link import Link, bounds
from shiftboss.store.postgres.migrate import check_schema
from shiftboss.store.postgres.sqltext import psycopg_sql
from shiftboss.store.queries import load_queries

KINDS: Final = ("worker", "producer", "reader")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.$@-]{0,62}")
# Words that stand for somebody else wherever a role is named, in quotes too.
_NO_ROLES: Final = ("public", "none")


def checked_role(name: str) -> str:
    """The name of a role, as it will be quoted.

    Raises:
        OptionError: it cannot be one.
    """
    if not _NAME.fullmatch(name) or name.lower() in _NO_ROLES or name.startswith("pg_"):
        raise OptionError(
            f"{name!r} cannot be the name of a role of yours: up to 63 letters, digits and _ . $ @ -, "
            "not public, none, or a name that begins with pg_"
        )
    return name


def grant_roles(dsn: str, roles: Mapping[str, Sequence[str]], *, execute: bool = True) -> str:
    """Give each role exactly the rights of its kinds, in one transaction; safe to repeat.

    Args:
        dsn: of the role that owns the tables.
        roles: kind (`worker`, `producer`, `reader`) -> names. A role named under two kinds gets both.
        execute: `False`: only say what would be executed.

    Returns:
        The SQL.

    Raises:
        OptionError: a name cannot be a role's.
        StoreError: a role does not exist, or can do everything anyway; or we are not the owner of the tables.
    """
    names = sorted({checked_role(name) for named in roles.values() for name in named})
    with closing(Link(parse_dsn(dsn, "shiftboss cli"))) as link:
        check_schema(link)
        schema = _home(link)
        if execute:
            _refuse(link, names)
        statements = [*_statements(schema, roles, names)]
        text = "\n".join(f"{statement.as_string(None)};" for statement in statements)
        if execute:
            with link.connected() as connection, connection.transaction():
                bounds(connection)
                connection.execute(text.encode())
    return text


@cache
def _texts() -> Mapping[str, str]:
    return load_queries("shiftboss.store.postgres", "roles.sql")


def _home(link: Link) -> str:
    """The schema of our tables; only their owner may go on."""
    with link.connected() as connection:
        found = connection.execute(_texts()["home"].encode()).fetchone()
    schema, owner, ours = found or ("public", "?", False)
    if not ours:
        raise StoreError(
            f"only the owner of the tables can grant rights to them: connect as {owner}, who ran `shiftboss db migrate`"
        )
    return str(schema)


def _refuse(link: Link, names: Sequence[str]) -> None:
    with link.connected() as connection:
        cursor = connection.execute(psycopg_sql(_texts()["candidates"]).encode(), {"names": text_array(names)})
        found: dict[str, bool] = dict(cursor.fetchall())
    if missing := [name for name in names if name not in found]:
        statements = " ".join(f"CREATE ROLE {_quoted(name)} LOGIN;" for name in missing)
        raise StoreError(f"no such role: {', '.join(missing)}. Make it first, as one who may create roles: {statements}")
    if mighty := [name for name in names if found[name]]:
        raise StoreError(f"{', '.join(mighty)}: owns the tables (by itself or as a member), or is a superuser; name another role")


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


def _statements(schema: str, roles: Mapping[str, Sequence[str]], names: Sequence[str]) -> Iterator[sql.Composed]:
    """First all is taken from everybody, so that the grants of two kinds to one role add up."""
    for name in names:
        yield from _filled("revoke", schema, name)
    for kind in KINDS:
        for name in roles.get(kind, ()):
            yield from _filled(kind, schema, name)


def _filled(part: str, schema: str, role: str) -> Iterator[sql.Composed]:
    text = "\n".join(line for line in _texts()[part].splitlines() if not line.startswith("--"))
    for statement in filter(None, map(str.strip, text.split(";"))):
        # A file of ours, as the templates of queries are; psycopg asks for literals only.
        yield sql.SQL(statement).format(schema=sql.Identifier(schema), role=sql.Identifier(role))
