"""Numbered migrations from `migrations/`, each applied once, in one transaction of their own."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from shiftboss.errors import SchemaError
from shiftboss.store.base import MigrationPlan
from shiftboss.store.queries import folder_of
from shiftboss.store.sqlite.database import Database
from shiftboss.store.sqlite.statements import SQL
from shiftboss.store.sqlite.times import to_text

_FILE_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


def migrations() -> list[tuple[int, str, str]]:
    """(version, name, SQL) of every migration that this version brings, in order."""
    found = []
    for file in (folder_of("shiftboss.store.sqlite") / "migrations").iterdir():
        match = _FILE_NAME.fullmatch(file.name)
        if match:
            found.append((int(match[1]), match[2], file.read_text(encoding="utf-8")))
    return sorted(found)


def plan(database: Database) -> MigrationPlan:
    """What `migrate` would do now.

    Raises:
        SchemaError: a newer version of Shiftboss has written the schema.
    """
    with database.read() as connection:
        return _plan(connection, database)


def migrate(database: Database, now: datetime) -> MigrationPlan:
    """Bring the schema up to date; of many callers at once one does it and the others find it done.

    Raises:
        SchemaError: a newer version of Shiftboss has written the schema.
    """
    if not plan(database).steps:
        return plan(database)
    with database.write() as connection:
        todo = _plan(connection, database)
        connection.execute(SQL["create_schema_migrations"])
        for version, name, sql in todo.steps:
            for statement in _statements(sql):
                connection.execute(statement)
            connection.execute(SQL["record_migration"], {"version": version, "name": name, "now": to_text(now)})
    return todo


def check(database: Database) -> None:
    """Raises `SchemaError` with the command to run unless the schema is the one of this version."""
    current = plan(database)
    if current.steps:
        raise SchemaError(
            f"the schema of {database.path} is at version {current.current}, this version of Shiftboss needs {current.target}: "
            "run `shiftboss db migrate`."
        )


def _plan(connection: sqlite3.Connection, database: Database) -> MigrationPlan:
    known = migrations()
    target = known[-1][0]
    current = _version(connection)
    if current > target:
        raise SchemaError(
            f"the schema of {database.path} is at version {current}, this version of Shiftboss knows {target}: "
            "install the newer Shiftboss that wrote it."
        )
    return MigrationPlan(current=current, target=target, steps=[step for step in known if step[0] > current])


def _version(connection: sqlite3.Connection) -> int:
    if connection.execute(SQL["has_schema_migrations"]).fetchone() is None:
        return 0
    (version,) = connection.execute(SQL["schema_version"]).fetchone()
    return int(version)


def _statements(sql: str) -> Iterator[str]:
    # executescript would commit the transaction first.
    pending = ""
    for line in sql.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
