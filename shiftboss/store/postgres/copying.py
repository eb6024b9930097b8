"""Many new tasks by COPY: half the work of the statement that asks of each row whether it is there already.

COPY knows no "unless it is there", so it is for batches that hold no unique key, and all of a batch is undone when one row
is refused or has been stored before: the caller then takes the other way, which tells which.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from shiftboss.errors import StoreError, StoreUnavailable
from shiftboss.model import NewTask
from shiftboss.store.postgres.arrays import UuidArray, may_be_no_text, uuid_array
from shiftboss.store.postgres.enqueue import past_params
from shiftboss.store.postgres.link import BoundedConnection, Link, bounds, run
from shiftboss.store.postgres.sqltext import queries

# Below it the round trips of a COPY cost more than it saves.
MIN_ROWS: Final = 64

_CHUNK_ROWS: Final = 500  # the server stores one chunk while the next one is made
_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END: Final = b"\xff\xff"
_COLUMNS: Final = struct.pack("!h", 12)
_LENGTH: Final = struct.Struct("!i")
_NULL: Final = _LENGTH.pack(-1)
_SMALLINT: Final = struct.Struct("!ih")
_INTEGER: Final = struct.Struct("!ii")
_DOUBLE: Final = struct.Struct("!id")
_MOMENT: Final = struct.Struct("!iq")
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_UUID_BYTES: Final = 20  # with its length


def copy_tasks(link: Link, tasks: Sequence[NewTask], now: datetime | None) -> bool:
    """Store all of the tasks, or none of them (`False`), in a transaction of its own; wakes sleeping claimers.

    Whether one of them has ended before is asked after the rows are written and before the commit. Until then their ids are
    taken, so an earlier sending of the same batch that is still under way has either come first, and is seen in `tasks` or in
    the history, or waits for us and then finds them.

    Args:
        now: replaces the database's clock, in tests.

    Raises:
        StoreUnavailable: the outcome is unknown.
    """
    if len(tasks) < MIN_ROWS or any(task.unique_key is not None for task in tasks):
        return False
    ids = uuid_array([task.id for task in tasks])
    if ids is None or any(may_be_no_text(bytes(json)) for task in tasks for json in (task.args, task.meta) if json is not None):
        return False
    try:
        with link.connected() as connection:
            return connection.info.encoding == "utf-8" and _copy(connection, tasks, ids, now)
    except StoreUnavailable:
        raise
    except (StoreError, struct.error, ValueError, OverflowError):  # the other way says what is wrong, and with which row
        return False


def _copy(connection: BoundedConnection, tasks: Sequence[NewTask], ids: UuidArray, now: datetime | None) -> bool:
    connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    if not (connection.bounded and connection.pinned):
        bounds(connection, pinned=True)
    began: datetime = run(connection, "now", {"now": now}).fetchall()[0][0]
    with connection.cursor() as cursor, cursor.copy(queries()["copy_tasks"]) as copy:
        for chunk in _chunks(tasks, ids, began):
            copy.write(chunk)
    if _any_ended(connection, tasks, now):
        connection.execute("ROLLBACK")
        return False
    if any(_is_due(task, began) for task in tasks):
        run(connection, "ring", {})
    committed = connection.execute("COMMIT")
    if committed.statusmessage != "COMMIT":
        raise StoreUnavailable("PostgreSQL rolled the transaction back instead of committing it")
    return True


def _any_ended(connection: BoundedConnection, tasks: Sequence[NewTask], now: datetime | None) -> bool:
    """Ids made one after the other stand side by side, so one look at the index nearly always answers for all of them."""
    past = past_params(tasks, now)
    ((may_be,),) = run(connection, "any_ended_between", past).fetchall()
    if not may_be:
        return False
    among = {"ids": msgspec.json.encode([task.id for task in tasks]).decode(), **past}
    return bool(run(connection, "ended_meanwhile", among).fetchall())


def _is_due(task: NewTask, began: datetime) -> bool:
    return not task.delay_s and (task.run_at is None or task.run_at <= began)


def _chunks(tasks: Sequence[NewTask], ids: UuidArray, began: datetime) -> Iterator[bytes]:
    """The file that COPY reads, in its binary form."""
    yield _SIGNATURE
    rests: dict[tuple[object, ...], bytes] = {}
    body, stamp, pack_length = ids.body, _moment(began), _LENGTH.pack
    for first in range(0, len(tasks), _CHUNK_ROWS):
        pieces: list[bytes] = []
        for at, task in enumerate(tasks[first : first + _CHUNK_ROWS], first):
            kind = (
                task.type, task.queue, task.priority, task.max_attempts, task.timeout_s, task.delay_s, task.run_at, task.tags,
                None if task.meta is None else bytes(task.meta),
            )  # fmt: skip
            rest = rests.get(kind)
            if rest is None:
                rest = rests[kind] = _rest(task, began) + stamp + stamp
            args = bytes(task.args)
            pieces += (_COLUMNS, body[_UUID_BYTES * at : _UUID_BYTES * (at + 1)], pack_length(len(args)), args, rest)
        yield b"".join(pieces)
    yield _END


def _rest(task: NewTask, began: datetime) -> bytes:
    """All columns that tasks of one kind share, each with its length."""
    return b"".join(
        (
            _text(task.type),
            _text(task.queue),
            _SMALLINT.pack(2, task.priority),
            _NULL if task.max_attempts is None else _INTEGER.pack(4, task.max_attempts),
            _NULL if task.timeout_s is None else _DOUBLE.pack(8, task.timeout_s),
            _bytes(msgspec.json.encode(task.tags)) if task.tags else _NULL,
            _NULL if task.meta is None else _bytes(bytes(task.meta)),
            _moment(_run_at(task, began)),
        )
    )


def _run_at(task: NewTask, began: datetime) -> datetime:
    return began + timedelta(seconds=task.delay_s) if task.delay_s is not None else task.run_at or began


def _text(text: str) -> bytes:
    return _bytes(text.encode())


def _bytes(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value


def _moment(moment: datetime) -> bytes:
    return _MOMENT.pack(8, (moment - _EPOCH) // _MICROSECOND)
