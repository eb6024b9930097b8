"""The chaos harness' mutants still fit the code: what they would break is there. `python -m tests.chaos.mutants` breaks it."""

from __future__ import annotations

import pytest

from tests.chaos.mutants import MUTANTS, ROOT, Edit

EDITS = [pytest.param(edit, id=f"{name} ({database}, {edit.file})")
         for name, by_database in MUTANTS.items() for database, edits in by_database.items() for edit in edits]  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_what_a_mutant_breaks_is_there(edit: Edit) -> None:
    assert edit.old in (ROOT / edit.file).read_text(encoding="utf-8"), "write the mutant anew"
    assert edit.old != edit.new
