"""Named queries from a `.sql` file: `-- name: finish_tasks` starts one, the next name or the end of the file ends it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

_NAME = re.compile(r"^-- name: ([a-z][a-z0-9_]*)\s*$", re.MULTILINE)


def folder_of(package: str) -> Path:
    """Where the files of a package lie that has been imported. Not `importlib.resources`, which costs every process a
    megabyte for zip archives."""
    return Path(str(sys.modules[package].__file__)).parent


def load_queries(package: str, file: str = "queries.sql") -> Mapping[str, str]:
    """Query name -> SQL text, with its comments.

    Raises:
        ValueError: a name stands twice, or text stands before the first name that is not a comment.
    """
    text = (folder_of(package) / file).read_text(encoding="utf-8")
    parts = _NAME.split(text)
    queries: dict[str, str] = {}
    for name, sql in zip(parts[1::2], parts[2::2], strict=True):
        if name in queries:
            raise ValueError(f"{package}/{file}: query {name} stands twice")
        queries[name] = sql.strip()
    return queries
