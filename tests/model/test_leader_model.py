"""The leader's term keeps its properties in every interleaving, and every broken variant of its rules loses one of them."""

from __future__ import annotations

import pytest

from tests.model.explore import explore
from tests.model.leader import BROKEN, Leadership


def test_no_interleaving_of_two_workers_breaks_a_property_of_the_lead() -> None:
    found = explore(Leadership())
    print(f"{found.states:,} states, {found.steps:,} steps")
    assert found.broken is None, f"{found.broken}\n  " + "\n  ".join(found.trace)
    assert found.states > 1_000  # a model that cannot move keeps every property


@pytest.mark.parametrize("variant", BROKEN)
def test_a_broken_rule_of_the_lead_is_caught(variant: str) -> None:
    found = explore(Leadership(variant))
    print(f"{variant}: {found.broken} after {found.states:,} states: " + " > ".join(found.trace))
    assert found.broken is not None, f"{variant!r} breaks nothing"
    assert found.broken.startswith(BROKEN[variant])
