"""The SQLite store: one machine, no server. Imports no psycopg."""

from shiftboss.store.sqlite.bells import ring
from shiftboss.store.sqlite.enqueue import enqueue_in
from shiftboss.store.sqlite.store import SqliteStore, open_sqlite

__all__ = ["SqliteStore", "enqueue_in", "open_sqlite", "ring"]
