"""The mutants still fit the code: their texts are found, and what they make of Python is Python."""

from __future__ import annotations

import pytest

from tests.model.mutants import MUTANTS, Mutant, texts


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.name} ({mutant.backend})")
def test_a_mutant_fits_the_code(mutant: Mutant) -> None:
    for file, text in texts(mutant).items():
        if file.endswith(".py"):
            compile(text, file, "exec")
