"""`python -m tests.chaos.mutants`: breaks copies of Shiftboss on purpose, and looks whether the harness finds each out.

A harness that has never failed proves nothing. Each mutant is a copy of this repository with one guard removed; the harness of
that copy runs on it, in rounds, until something is violated. Exit code 1 when one survives as many faults as the gate has.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
COPIED: Final = ("shiftboss", "actors", "supervisor", "tests", "pyproject.toml")
VIOLATED: Final = 1

_EXCHANGE: Final = "shiftboss/store/sqlite/exchange.py"
_SUCCESSES: Final = "shiftboss/store/sqlite/successes.py"
_LITE: Final = "shiftboss/store/sqlite/queries.sql"
_PG: Final = "shiftboss/store/postgres/queries.sql"


class Edit(NamedTuple):
    """What to replace, everywhere in the file."""

    file: str
    old: str
    new: str


_LITE_FENCE: Final = (
    Edit(_EXCHANGE, "if row is not None and row.fence == ended.fence:", "if row is not None:"),
    Edit(_SUCCESSES, " if self._ended[place].fence == fence]", "]"),
)
_LITE_STATUS: Final = Edit(
    _LITE,
    "CROSS JOIN tasks AS t ON t.id = i.value\nWHERE t.status IN ('claimed', 'running')",
    "CROSS JOIN tasks AS t ON t.id = i.value",
)
_PG_ID: Final = "WHERE t.id BETWEEN given.id AND given.id"
_PG_COMPLETE: Final = f"{_PG_ID} AND t.fence = given.fence AND t.status || '' IN ('claimed', 'running')"
_PG_END: Final = "WHERE t.fence = given.fence AND t.status || '' IN ('claimed', 'running')"
_BY_STATUS: Final = "t.status || '' IN ('claimed', 'running')"

MUTANTS: Final[Mapping[str, Mapping[str, Sequence[Edit]]]] = {
    "finish guarded by status only": {
        "sqlite": _LITE_FENCE,
        "postgres": [
            Edit(_PG, _PG_COMPLETE, f"{_PG_ID} AND {_BY_STATUS}"),
            Edit(_PG, _PG_END, f"WHERE {_BY_STATUS}"),
        ],
    },
    "finish guarded by id only": {
        "sqlite": [*_LITE_FENCE, _LITE_STATUS],
        "postgres": [Edit(_PG, _PG_COMPLETE, _PG_ID), Edit(_PG, _PG_END, "WHERE true")],
    },
    "recover without looking at the worker's row": {
        "sqlite": [
            Edit(
                _LITE,
                "AND (t.worker_id IS NULL OR NOT EXISTS (SELECT 1 FROM workers AS w WHERE w.id = t.worker_id))\nORDER",
                "\nORDER",
            )
        ],
        "postgres": [
            Edit(
                _PG,
                "ON {in_range}\n  WHERE NOT EXISTS (SELECT 1 FROM workers w WHERE w.id = r.worker_id)\n)",
                "ON {in_range}\n)",
            )
        ],
    },
}


def make(edits: Sequence[Edit], folder: Path) -> None:
    """A broken copy of this repository.

    Raises:
        ValueError: what was to be broken is not there any more; the mutant has to follow the code.
    """
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    for edit in edits:
        file = folder / edit.file
        text = file.read_text()
        if edit.old not in text:
            raise ValueError(f"{edit.file} does not have {edit.old!r}: write the mutant anew")
        file.write_text(text.replace(edit.old, edit.new))


def caught(edits: Sequence[Edit], database: str, faults: int, tasks: int) -> tuple[bool, str]:
    """Whether the harness sees that this copy is broken, and the end of what it says."""
    with tempfile.TemporaryDirectory(prefix="sbmutant", dir="/tmp") as name:
        folder = Path(name)
        make(edits, folder)
        rounds = ["--round", str(max(1, faults // 4)), "--at-least", "1", "--folder", str(folder / "rounds")]
        size = ["--database", database, "--faults", str(faults), "--tasks", str(tasks)]
        done = subprocess.run(
            [sys.executable, "-m", "tests.chaos.run", *size, *rounds], cwd=folder, capture_output=True, text=True, check=False
        )
    said = [line for line in done.stdout.splitlines() if line.startswith(("VIOLATED", "seed")) or "violations" in line]
    return done.returncode == VIOLATED and any(line.startswith("VIOLATED") for line in said), "\n".join(said[:6]) + done.stderr[
        -500:
    ]


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: every mutant is caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.mutants", description=__doc__)
    parser.add_argument("--database", choices=["sqlite", "postgres"], action="append")
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--tasks", type=int, default=25_000)
    parser.add_argument("mutant", nargs="*", help="names; default: all")
    options = parser.parse_args(arguments)
    survivors = 0
    for name in options.mutant or MUTANTS:
        for database in options.database or ("sqlite", "postgres"):
            is_caught, said = caught(MUTANTS[name][database], database, options.faults, options.tasks)
            survivors += not is_caught
            print(f"{'caught' if is_caught else 'SURVIVED'}: {name}, {database}\n{said}", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
