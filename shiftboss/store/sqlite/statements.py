"""The statements of queries.sql, loaded once."""

from __future__ import annotations

from typing import Final

from shiftboss.store.queries import load_queries

SQL: Final = load_queries("shiftboss.store.sqlite")
