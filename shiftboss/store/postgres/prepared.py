"""The shortest way to the server for a statement that runs all the time: what a cursor does for any statement is left out.

A cursor looks up how to write each parameter and how to read each column, which costs as much as sending the row. Here all
parameters are text, and so are the columns that are read here, under one name that the server knows the statement by.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from psycopg import errors, generators, pq

from shiftboss.store.postgres.link import BoundedConnection, Link
from shiftboss.store.postgres.sqltext import named_queries, numbered_sql, queries

TextRow = tuple[str | None, ...]


def run_prepared(link: Link, query: str, params: Mapping[str, str | None]) -> list[TextRow]:
    """The rows of one pinned query of text parameters, in a transaction of its own.

    The ordinary way the first few times, behind a pooler, and for whatever has to be refused.
    """
    values = encoded(query, params)
    if values is not None:
        with link.connected() as connection:
            if _is_prepared(connection, query):
                result = execute(connection, query, values, pq.Format.TEXT)
                if result is not None:
                    return _rows(result)
    return [tuple(row) for row in link.alone(queries()[query], params, pinned=True, prepare=False).fetchall()]


def _is_prepared(connection: BoundedConnection, query: str) -> bool:
    if query in connection.prepared:
        return True
    # Pinned: the ordinary way has been taken before.
    if not can_prepare(connection):
        return False
    uses = connection.uses.get(query, 0) + 1
    connection.uses[query] = uses
    if uses < (connection.prepare_threshold or 0):
        return False
    prepare(connection, query)
    return True


def can_prepare(connection: BoundedConnection) -> bool:
    """Whether the session keeps deadlines, plans and statements, which it does not behind a pooler."""
    keeps = connection.bounded and connection.pinned and connection.prepare_threshold is not None
    return keeps and connection.info.encoding == "utf-8"


def prepare(connection: BoundedConnection, query: str) -> None:
    """Have the server know the query by `prepared_name`."""
    if query not in connection.prepared:
        connection.execute(f"PREPARE {prepared_name(query).decode()} AS {_numbered(query)[0]}", prepare=False)
        connection.prepared.add(query)


def execute(
    connection: BoundedConnection, query: str, values: list[bytes | None], result_format: pq.Format
) -> pq.abc.PGresult | None:
    """`None`: the server does not know the statement any more, and has done nothing. Raises as psycopg does."""
    connection.pgconn.send_query_prepared(prepared_name(query), values, result_format=result_format)
    results: list[pq.abc.PGresult] = connection.wait(generators.execute(connection.pgconn))
    for result in results:  # the last may be an error of the commit
        if result.status != pq.ExecStatus.TUPLES_OK:
            error = errors.error_from_result(result, encoding="utf-8")
            if isinstance(error, errors.InvalidSqlStatementName):  # psycopg has all forgotten after a rollback
                connection.prepared.discard(query)
                return None
            raise error
    return results[0]


def _rows(result: pq.abc.PGresult) -> list[TextRow]:
    columns = range(result.nfields)
    return [tuple([_text(result, row, column) for column in columns]) for row in range(result.ntuples)]


def _text(result: pq.abc.PGresult, row: int, column: int) -> str | None:
    value = result.get_value(row, column)
    return None if value is None else value.decode()


def encoded(query: str, params: Mapping[str, str | None]) -> list[bytes | None] | None:
    """In the order of that query; `None` when one of them is no text to PostgreSQL: libpq would cut it off at a NUL without a
    word."""
    names = _numbered(query)[1]
    try:
        values = [None if (text := params[name]) is None else text.encode() for name in names]
    except UnicodeEncodeError:
        return None
    return None if b"\0" in b"".join(filter(None, values)) else values


def prepared_name(query: str) -> bytes:
    return f"shiftboss_{query}".encode()


@cache
def _numbered(query: str) -> tuple[str, tuple[str, ...]]:
    return numbered_sql(named_queries()[query])
