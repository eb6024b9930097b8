"""One open SQLite file: connections, transactions under the write lock, errors in our words."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from shiftboss.errors import ShiftbossError, StoreCorrupt, StoreError, StoreUnavailable
from shiftboss.store.sqlite import files
from shiftboss.store.sqlite.errors import DATA_ERRORS, translate
from shiftboss.store.sqlite.lock import WriteLock
from shiftboss.store.sqlite.statements import SQL

LOCK_WAIT_S: Final = 10.0
_OLDEST_SQLITE: Final = (3, 37, 0)


class Database:
    """A file and our connection to it, which is made when first needed and made anew after a failure."""

    def __init__(self, path: Path, lock_wait_s: float = LOCK_WAIT_S, memory: files.Memory | None = None) -> None:
        self.path = path
        self._name = str(path)
        self._memory = memory
        self._lock = WriteLock(files.beside(path, ".lock"), lock_wait_s)
        self._connection: sqlite3.Connection | None = None
        self._identity: files.Identity | None = None
        self._closed = False

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One write transaction, alone on this file: committed at the end of the block, rolled back when it raises.

        Raises:
            StoreUnavailable: locked, read-only, full or failing disk; the outcome is unknown if it came from the commit.
            StoreCorrupt: the file is damaged, deleted or replaced.
            RowRefused: a value or a constraint; nothing was stored.
        """
        with self._translated(), self._lock.held():
            connection = self._connected()
            connection.execute(SQL["begin_write"])
            try:
                yield connection
                connection.execute(SQL["commit"])
            except BaseException:
                self._roll_back(connection)
                raise

    def write_one(self, statement: str, values: Callable[[], tuple[object, ...]]) -> int:
        """One statement alone on this file, which is its own transaction; how many rows it wrote. Without the contexts of
        `write`, which cost a single enqueue a tenth of its time.

        Args:
            values: asked once it is our turn, for whoever takes the time.

        Raises:
            As for `write`.
        """
        try:
            self._lock.take()
            try:
                return self._connected().execute(statement, values()).rowcount
            finally:
                self._lock.leave()
        except (sqlite3.Error, *DATA_ERRORS) as error:
            if isinstance(error, ShiftbossError):
                raise
            raise self._settled(error) from error

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One snapshot for all statements of the block; waits for nobody."""
        with self._translated():
            connection = self._connected()
            connection.execute(SQL["begin_read"])
            try:
                yield connection
            finally:
                self._roll_back(connection)

    def quick_check(self) -> list[str]:
        """What SQLite finds wrong with the file, at most 20 lines; empty when it is sound. Reads all of it."""
        with self._translated():
            lines = [str(line) for (line,) in self._connected().execute(SQL["quick_check"])]
        return [] if lines == ["ok"] else lines

    def close(self) -> None:
        """Close for good; a second call does nothing."""
        self._closed = True
        self._disconnect()
        self._lock.close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, *DATA_ERRORS) as error:
            if isinstance(error, ShiftbossError):
                raise
            raise self._settled(error) from error

    def _settled(self, error: Exception) -> ShiftbossError:
        """What to raise for it; after one that leaves the connection in doubt it is closed."""
        ours = translate(error, self.path)
        if isinstance(ours, StoreUnavailable | StoreCorrupt):
            self._disconnect()
        return ours

    def _connected(self) -> sqlite3.Connection:
        if self._closed:
            raise StoreError(f"the store on {self.path} is closed; open it again.")
        if self._identity is not None:
            files.check_identity(self._name, self._identity)
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        files.check_present(self.path)
        expected = self._identity or self._remembered()
        if expected is not None:
            files.check_identity(self._name, expected)
        # Never made by SQLite: where the file has just been moved away, an empty one must not take its place.
        address = f"{self.path.as_uri()}?mode=rw"
        connection = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False, cached_statements=256)
        try:
            if expected is not None:
                files.check_identity(self._name, expected)  # still: nothing has been read of it yet
            for statement in SQL["open_connection"].splitlines():
                connection.execute(statement)
            self._identity = expected or self._remember()
        except BaseException:
            connection.close()
            raise
        return connection

    def _remembered(self) -> files.Identity | None:
        known = self._memory.database_file if self._memory is not None else None
        return files.Identity(*known) if known is not None else None

    def _remember(self) -> files.Identity | None:
        identity = files.identify(self.path)
        if self._memory is not None and identity is not None:
            self._memory.database_file = identity
        return identity

    def open(self) -> None:
        """Make the file if there is none, and switch it to WAL. Safe when many processes do so at once.

        Raises:
            StoreError: SQLite is too old, or the file is on a network file system.
            StoreUnavailable, StoreCorrupt: as for `write`.
        """
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise StoreError(
                f"SQLite {sqlite3.sqlite_version} is too old: 3.37 or newer is needed; use a newer Python or libsqlite3."
            )
        if not self.path.parent.is_dir():
            raise StoreUnavailable(f"folder {self.path.parent} does not exist: make it, or name another database file.")
        files.refuse_network_disk(self.path.parent)
        files.create_private(self.path)
        with self._translated():
            connection = self._connected()
            # A file is switched once; under the lock, since the switch itself does not wait for other programs.
            if self._journal_mode(connection) != "wal":
                with self._lock.held():
                    connection.execute(SQL["set_journal_mode"])

    @staticmethod
    def _journal_mode(connection: sqlite3.Connection) -> str:
        (mode,) = connection.execute(SQL["get_journal_mode"]).fetchone()
        return str(mode)

    @staticmethod
    def _roll_back(connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            # Whatever made the block fail is the better error, and closing the connection rolls back as well.
            with contextlib.suppress(sqlite3.Error):
                connection.execute(SQL["rollback"])

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


@contextlib.contextmanager
def savepoint(connection: sqlite3.Connection) -> Iterator[None]:
    """What the block wrote stays only if it does not raise; the transaction round it goes on either way."""
    connection.execute(SQL["savepoint"])
    try:
        yield
    except BaseException:
        connection.execute(SQL["rollback_to_savepoint"])
        raise
    finally:
        connection.execute(SQL["release_savepoint"])
