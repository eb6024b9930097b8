"""Storing new tasks, over our own connection or the caller's: one statement, one JSON parameter, for thousands of rows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, TypeAlias

import msgspec

from shiftboss.errors import StoreUnavailable
from shiftboss.model import Enqueued, NewTask
from shiftboss.store.postgres.arrays import may_be_no_text
from shiftboss.store.postgres.sqltext import named_queries, psycopg_sql

__all__ = ["Execute", "ExecuteAsync", "aenqueue_in", "enqueue_in", "psycopg_sql"]

# (SQL with :name parameters, parameters) -> the rows, none for a statement without a result. For psycopg see `psycopg_sql`.
Execute: TypeAlias = Callable[[str, dict[str, Any]], Sequence[Any]]
ExecuteAsync: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[Sequence[Any]]]
_Statement: TypeAlias = tuple[str, dict[str, Any]]
Step: TypeAlias = Sequence[_Statement]  # one after the other; none needs the answer of another, so they can be sent at once
_Plan: TypeAlias = Generator[Step, Sequence[Sequence[Any]], list[Enqueued]]

# An existing task that ends between our two statements frees its key; this often in a row is no coincidence.
_MAX_ROUNDS: Final = 20
_CLOCKS_APART_S: Final = 86_400.0
_SAVEPOINT: Final = "shiftboss_enqueue"
BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"
_NO_TRANSACTION: Final = "25P01"


class _Row(msgspec.Struct, omit_defaults=True):
    id: str
    type: str
    queue: str
    priority: int
    args: msgspec.Raw
    max_attempts: int | None = None
    timeout_s: float | None = None
    delay_s: float | None = None
    run_at: datetime | None = None
    unique_key: str | None = None
    tags: tuple[str, ...] | None = None
    meta: msgspec.Raw | None = None
    at: datetime | None = None


def plan_enqueue(
    tasks: Sequence[NewTask], now: datetime | None = None, *, fresh: bool = False, refused: bool = False, outside: bool = True
) -> _Plan:
    """What to execute, step by step: yields statements, is sent the rows of each, returns what became of each task.

    Args:
        now: replaces the database's clock, in tests.
        fresh: see `Store.enqueue`.
        refused: the first statement has been executed, and none of the tasks was stored.
        outside: there is no transaction: one is begun where it is needed. Else all happens after the savepoint `_SAVEPOINT`.
    """
    done: dict[str, Enqueued] = {}
    left = {task.id: task for task in tasks}
    for _ in range(_MAX_ROUNDS):
        if not left:
            return _in_order(tasks, done)
        stored = [] if refused else (yield from _store(left, now, fresh, outside))
        refused = False
        if stored is None:
            if not outside:  # what the rounds before have stored is undone, too
                done, left = {}, {task.id: task for task in tasks}
            continue
        for task_id in stored:
            done[task_id] = Enqueued(id=task_id)
            left.pop(task_id, None)
        if left:
            (found,) = yield [(named_queries()["find_existing"], {"rows": rows_json(left.values(), now)})]
            for task_id, existing_id in found:
                if existing_id is not None:
                    done[task_id] = Enqueued(id=existing_id, existing=True)
                    left.pop(task_id, None)
    raise StoreUnavailable(f"unique key {next(iter(left.values())).unique_key!r} kept changing hands while enqueueing: try again")


def _store(
    left: Mapping[str, NewTask], now: datetime | None, fresh: bool, outside: bool
) -> Generator[Step, Sequence[Sequence[Any]], list[str] | None]:
    """Insert what is not there: the ids that were stored. `None`: nothing, because one of them ended at that moment.

    A row whose delete is not committed yet is waited for, and gone then; but the statement that waits has looked into the
    history before. So that is asked again, by a statement that begins when the rows are in, and before anybody can see them.
    Who made the ids for this call need not ask.
    """
    insert = _insert(left, now, fresh)
    if fresh:
        (rows,) = yield [insert]
        return [row[0] for row in rows]
    ids = {"ids": msgspec.json.encode(list(left)).decode(), **past_params(left.values(), now)}
    begin: Step = [(BEGIN, {})] if outside else []
    *_, rows, ended = yield [*begin, insert, (named_queries()["ended_meanwhile"], ids)]
    stored = [row[0] for row in rows]
    if not {row[0] for row in ended}.isdisjoint(stored):
        yield [("ROLLBACK" if outside else f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}", {})]
        return None
    if outside:
        yield [("COMMIT", {})]
    return stored


def _insert(left: Mapping[str, NewTask], now: datetime | None, fresh: bool) -> _Statement:
    if (task := alone(list(left.values()), fresh)) is not None:
        return named_queries()["enqueue_one"], one_params(task, now)
    return named_queries()["enqueue"], {"rows": rows_json(left.values(), now), **past_params(left.values(), now)}


def alone(tasks: Sequence[NewTask], fresh: bool) -> NewTask | None:
    """The one task that `enqueue_one` is for."""
    if not fresh or len(tasks) != 1 or may_be_no_text(bytes(tasks[0].args)) or may_be_no_text(bytes(tasks[0].meta or b"")):
        return None
    return tasks[0]


def one_params(task: NewTask, now: datetime | None) -> dict[str, str | None]:
    """The parameters of `enqueue_one`."""
    return {
        "id": task.id,
        "type": task.type,
        "queue": task.queue,
        "priority": str(task.priority),
        "args": _json_text(task.args),
        "max_attempts": None if task.max_attempts is None else str(task.max_attempts),
        "timeout_s": None if task.timeout_s is None else repr(task.timeout_s),
        "unique_key": task.unique_key,
        "tags": msgspec.json.encode(task.tags).decode() if task.tags else None,
        "meta": None if task.meta is None else _json_text(task.meta),
        "delay_s": None if task.delay_s is None else repr(task.delay_s),
        "run_at": None if task.run_at is None else task.run_at.isoformat(),
        "now": None if now is None else now.isoformat(),
    }


def _json_text(json: msgspec.Raw) -> str:
    return bytes(json).decode()


def past_params(tasks: Iterable[NewTask], now: datetime | None) -> dict[str, object]:
    """Where to look for those of these tasks that have ended: between which ids, and since when, in Unix seconds. That is when
    the oldest was made, less a day for clocks; for any other UUID than one of version 7, some moment."""
    ids = [task.id for task in tasks]
    oldest = min(ids)
    made_s = int(oldest[:8] + oldest[9:13], 16) / 1e3
    return {"first": oldest, "last": max(ids), "since": made_s - _CLOCKS_APART_S, "now": now}


def _in_order(tasks: Sequence[NewTask], done: dict[str, Enqueued]) -> list[Enqueued]:
    """The answers; the same id a second time in a batch is there already."""
    told: set[str] = set()
    answers = []
    for task in tasks:
        answer = done[task.id]
        answers.append(Enqueued(id=answer.id, existing=True) if task.id in told else answer)
        told.add(task.id)
    return answers


def rows_json(tasks: Iterable[NewTask], now: datetime | None) -> str:
    """The parameter `:rows`. Ids in canonical form, so that what comes back is found again."""
    return msgspec.json.encode([_row(task, now) for task in tasks]).decode()


def _row(task: NewTask, now: datetime | None) -> _Row:
    return _Row(
        id=task.id,
        type=task.type,
        queue=task.queue,
        priority=task.priority,
        args=task.args,
        max_attempts=task.max_attempts,
        timeout_s=task.timeout_s,
        delay_s=task.delay_s,
        run_at=task.run_at,
        unique_key=task.unique_key,
        tags=task.tags or None,
        meta=task.meta,
        at=now,
    )


def enqueue_in(
    execute: Execute,
    tasks: Sequence[NewTask],
    *,
    in_transaction: bool | None = None,
    now: datetime | None = None,
    fresh: bool = False,
) -> list[Enqueued]:
    """Store tasks through the caller's connection; they become visible with the caller's commit.

    Never commits or rolls back more than a savepoint of its own: on an error the caller's transaction is as it was.

    Args:
        execute: runs SQL with `:name` parameters and returns its rows. For psycopg translate with `psycopg_sql`.
        in_transaction: whether the connection is in a transaction, or begins one with its next statement;
            `None`: found out by trying.
        fresh: see `Store.enqueue`.

    Raises:
        StoreUnavailable: a unique key kept changing hands. The driver's own errors pass through.
    """
    if not _savepoint(execute, in_transaction):
        try:
            return _follow(plan_enqueue(tasks, now, fresh=fresh), execute)
        except BaseException:
            if not fresh:
                with suppress(Exception):  # the connection may be gone
                    execute("ROLLBACK", {})
            raise
    try:
        enqueued = _follow(plan_enqueue(tasks, now, fresh=fresh, outside=False), execute)
    except BaseException:
        execute(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}", {})
        execute(f"RELEASE SAVEPOINT {_SAVEPOINT}", {})
        raise
    execute(f"RELEASE SAVEPOINT {_SAVEPOINT}", {})
    return enqueued


def _savepoint(execute: Execute, in_transaction: bool | None) -> bool:
    if in_transaction is False:
        return False
    try:
        execute(f"SAVEPOINT {_SAVEPOINT}", {})
    except Exception as error:
        if in_transaction is None and _sqlstate(error) == _NO_TRANSACTION:
            return False
        raise
    return True


def _follow(plan: _Plan, execute: Execute) -> list[Enqueued]:
    try:
        step = next(plan)
        while True:
            step = plan.send([execute(*statement) for statement in step])
    except StopIteration as end:
        enqueued: list[Enqueued] = end.value
        return enqueued


async def aenqueue_in(
    execute: ExecuteAsync,
    tasks: Sequence[NewTask],
    *,
    in_transaction: bool | None = None,
    now: datetime | None = None,
    fresh: bool = False,
) -> list[Enqueued]:
    """`enqueue_in` for an async connection."""
    if not await _asavepoint(execute, in_transaction):
        try:
            return await _afollow(plan_enqueue(tasks, now, fresh=fresh), execute)
        except BaseException:
            if not fresh:
                with suppress(Exception):
                    await execute("ROLLBACK", {})
            raise
    try:
        enqueued = await _afollow(plan_enqueue(tasks, now, fresh=fresh, outside=False), execute)
    except BaseException:
        await execute(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}", {})
        await execute(f"RELEASE SAVEPOINT {_SAVEPOINT}", {})
        raise
    await execute(f"RELEASE SAVEPOINT {_SAVEPOINT}", {})
    return enqueued


async def _asavepoint(execute: ExecuteAsync, in_transaction: bool | None) -> bool:
    if in_transaction is False:
        return False
    try:
        await execute(f"SAVEPOINT {_SAVEPOINT}", {})
    except Exception as error:
        if in_transaction is None and _sqlstate(error) == _NO_TRANSACTION:
            return False
        raise
    return True


async def _afollow(plan: _Plan, execute: ExecuteAsync) -> list[Enqueued]:
    try:
        step = next(plan)
        while True:
            step = plan.send([await execute(*statement) for statement in step])
    except StopIteration as end:
        enqueued: list[Enqueued] = end.value
        return enqueued


def _sqlstate(error: BaseException) -> str | None:
    """From the errors of psycopg, asyncpg, psycopg2 and pg8000, or from SQLAlchemy's wrapper round them."""
    for candidate in (error, getattr(error, "orig", None), getattr(error, "__cause__", None)):
        state = getattr(candidate, "sqlstate", None) or getattr(candidate, "pgcode", None)
        if isinstance(state, str):
            return state
        fields = candidate.args[0] if isinstance(candidate, BaseException) and candidate.args else None
        if isinstance(fields, dict) and isinstance(fields.get("C"), str):
            return str(fields["C"])
    return None
