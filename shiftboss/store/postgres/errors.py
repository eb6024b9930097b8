"""From psycopg's errors to ours: what may pass by itself, what needs a person, and what one row is to blame for."""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg import errors as pg

from shiftboss.errors import SchemaError, StoreError, StoreUnavailable

# Not OperationalError by class, but the same to us: a standby after a failover, a server told to be read-only.
_READ_ONLY: Final = ("25006",)
_MISSING: Final = ("42P01", "42703", "3F000")  # undefined table, column, schema
# A pooler in transaction mode handed us another server connection, which does not know our prepared statement.
_POOLED: Final = ("26000", "42P05", "08P01")

MIGRATE: Final = "run: shiftboss db migrate"


def is_unavailable(error: psycopg.Error) -> bool:
    """Whether the connection should be thrown away and the call may work later."""
    # What libpq itself has to say (it has lost track of what the server sends, say) has no state, and no class of its own.
    from_libpq = type(error) is psycopg.DatabaseError and error.sqlstate is None
    known = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return known or from_libpq or error.sqlstate in _READ_ONLY


def is_pooler_trouble(error: psycopg.Error) -> bool:
    """Whether prepared statements do not work here: something between us and the server shares connections."""
    return error.sqlstate in _POOLED


def is_data_error(error: BaseException) -> bool:
    """Whether the values of some row are to blame, so that the other rows of a batch deserve another try."""
    if isinstance(error, UnicodeEncodeError):
        return True
    data = isinstance(error, psycopg.DataError | psycopg.IntegrityError | pg.RaiseException)
    return data and not is_unavailable(error)  # type: ignore[arg-type]


def one_line(text: str) -> str:
    """What libpq says over several lines, as a clause each; a line that it says of every address stands there once."""
    said = ""
    for line in dict.fromkeys(text.splitlines()):
        clause = " ".join(line.split()).removeprefix("- ")
        goes_on = said.endswith(":") or (line[:1].isspace() and clause[:1].islower())
        said += f"{' ' if goes_on else '; '}{clause}" if said and clause else clause
    return said


def translated(error: psycopg.Error, where: str) -> StoreError:
    """The error to raise instead; `where` names the server without its password."""
    text = one_line(error.diag.message_primary or str(error)) or type(error).__name__
    if error.sqlstate in _READ_ONLY:
        return StoreUnavailable(
            f"PostgreSQL at {where} is read-only (a standby, or a failover is under way): {text}. "
            "With several hosts in DATABASE_URL the writable one is looked for."
        )
    if isinstance(error, pg.LockNotAvailable):
        return StoreUnavailable(
            f"PostgreSQL at {where}: waited too long for a lock that another session holds ({text}); "
            "look for open transactions in pg_stat_activity."
        )
    if isinstance(error, pg.QueryCanceled):
        return StoreUnavailable(f"PostgreSQL at {where}: a statement ran into its deadline ({text}).")
    if is_unavailable(error) or is_pooler_trouble(error):
        return StoreUnavailable(f"PostgreSQL at {where} cannot be used now: {text}")
    if isinstance(error, pg.InsufficientPrivilege):
        return StoreError(
            f"PostgreSQL at {where}: {text}. This role has not the right to do that: use one that has, or let the owner of the "
            "tables run `shiftboss db roles`"
        )
    if error.sqlstate in _MISSING:
        return SchemaError(f"the schema of PostgreSQL at {where} is missing or of another version ({text}); {MIGRATE}")
    return StoreError(f"PostgreSQL at {where} refused: {text} (SQLSTATE {error.sqlstate})")
