"""From a database URL to a store. Loads only the driver that the URL needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shiftboss.clock import Clock
from shiftboss.errors import StoreError
from shiftboss.store.base import Store

if TYPE_CHECKING:
    from shiftboss.store.sqlite.files import Memory


def open_store(
    database_url: str,
    *,
    clock: Clock | None = None,
    application_name: str = "shiftboss",
    create: bool = True,
    memory: Memory | None = None,
) -> Store:
    """Open `sqlite:///file.db` or `postgresql://…`.

    Args:
        clock: the database's own clock unless a test brings one.
        application_name: how a PostgreSQL server lists our connections.
        create: make a SQLite file where there is none. Without it nothing is looked at before the first call, which raises
            `StoreUnavailable` while the file is not there.
        memory: where those who have to work on one and the same SQLite file keep which one that is.

    Raises:
        StoreError: an unknown kind of URL, or one that means nothing to its database.
        StoreUnavailable: the file or folder cannot be used. A PostgreSQL server is first asked at the first call.
    """
    scheme = database_url.partition("://")[0]
    if scheme == "sqlite":
        from shiftboss.store.sqlite.store import open_sqlite

        return open_sqlite(database_url, clock, create=create, memory=memory)
    if scheme in ("postgresql", "postgres"):
        from shiftboss.store.postgres.store import open_postgres

        return open_postgres(database_url, clock=clock, application_name=application_name)
    # The URL may hold a password, so only its first part is repeated.
    shown = f"{scheme}://…" if "://" in database_url else "without a scheme"
    raise StoreError(f"database URL {shown}: write sqlite:///file.db or postgresql://user@host/database.")
