"""The schema: numbered files, applied once each, in one transaction behind one lock."""

from __future__ import annotations

import re
from datetime import timedelta
from functools import cache
from typing import Final

from shiftboss.errors import SchemaError
from shiftboss.store.base import MigrationPlan
from shiftboss.store.postgres.errors import MIGRATE
from shiftboss.store.postgres.link import BoundedConnection, Link, lift_bounds, run
from shiftboss.store.postgres.upkeep import DAYS_AHEAD
from shiftboss.store.queries import folder_of

_FILE: Final = re.compile(r"(\d{4})_(\w+)\.sql")
_PATIENCE_S: Final = 600.0


@cache
def migrations() -> tuple[tuple[int, str, str], ...]:
    """(version, name, SQL) of every migration that this version has, in order."""
    folder = folder_of("shiftboss.store.postgres") / "migrations"
    found = [(match, file) for file in folder.iterdir() if (match := _FILE.fullmatch(file.name))]
    return tuple(sorted((int(match[1]), match[2], file.read_text(encoding="utf-8")) for match, file in found))


def check_schema(link: Link) -> None:
    """Raises `SchemaError` unless exactly our migrations have been applied."""
    with link.connected() as connection:
        applied = _applied(connection)
    newest = migrations()[-1][0]
    if not applied:
        raise SchemaError(f"PostgreSQL at {link.address.where} has no Shiftboss schema yet; {MIGRATE}")
    _refuse_newer(link, applied)
    missing = [version for version, _, _ in migrations() if version not in applied]
    if missing:
        raise SchemaError(
            f"the schema of PostgreSQL at {link.address.where} is at version {max(applied)}, this Shiftboss works with {newest}; "
            f"{MIGRATE}"
        )


def plan(link: Link) -> MigrationPlan:
    """What `migrate` would do now."""
    with link.connected() as connection:
        applied = _applied(connection)
    return _plan(applied)


def migrate(link: Link) -> MigrationPlan:
    """Apply what is missing and prepare the coming days; many may call it at once, one does it, the others wait."""
    with link.connected() as connection, connection.transaction():
        connection.patience_s = _PATIENCE_S
        lift_bounds(connection)
        run(connection, "lock_migrations", {})
        applied = _applied(connection)
        if not applied:  # whoever may not create tables can still find that there is nothing to do
            run(connection, "create_migrations", {})
        _refuse_newer(link, applied)
        todo = _plan(applied)
        for version, name, text in todo.steps:
            connection.execute(text.encode())  # without parameters: a file holds many statements
            run(connection, "record_migration", {"version": version, "name": name})
        (today,) = run(connection, "now", {"now": None}).fetchall()[0]
        for ahead in range(DAYS_AHEAD + 1):
            run(connection, "add_history_day", {"day": (today + timedelta(days=ahead)).date()})
    return todo


def _applied(connection: BoundedConnection) -> set[int]:
    if run(connection, "migrations_exist", {}).fetchone() != (True,):
        return set()
    return {row[0] for row in run(connection, "applied_migrations", {})}


def _plan(applied: set[int]) -> MigrationPlan:
    steps = [step for step in migrations() if step[0] not in applied]
    return MigrationPlan(current=max(applied, default=0), target=migrations()[-1][0], steps=steps)


def _refuse_newer(link: Link, applied: set[int]) -> None:
    newest = migrations()[-1][0]
    if max(applied, default=0) > newest:
        raise SchemaError(
            f"the schema of PostgreSQL at {link.address.where} is at version {max(applied)}, newer than this Shiftboss, "
            f"which knows {newest}: upgrade Shiftboss on this machine"
        )
