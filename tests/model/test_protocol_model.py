"""The task protocol keeps its properties in every interleaving, and every broken variant of its rules loses one of them."""

from __future__ import annotations

import os

import pytest

from tests.model.explore import explore
from tests.model.protocol import BROKEN, Bounds, Protocol

EVERYDAY = [Bounds(claims=2, late=1)]
THOROUGH = [
    Bounds(claims=3, late=1),
    Bounds(claims=2, late=2),
    Bounds(claims=2, late=1, attempts=1, cancel=True, retries=1),
]
LONG = [
    Bounds(claims=3, late=2),
    Bounds(claims=4, late=1),
    Bounds(claims=3, late=1, cancel=True, retries=1),
]
IS_LONG = os.environ.get("SHIFTBOSS_MODEL") == "long"
CHOSEN = [
    *EVERYDAY,
    *(pytest.param(bounds, marks=() if IS_LONG else pytest.mark.slow) for bounds in THOROUGH),
    *(LONG if IS_LONG else ()),
]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("bounds", CHOSEN, ids=str)
def test_no_interleaving_of_two_workers_breaks_a_property(bounds: Bounds) -> None:
    found = explore(Protocol(bounds))
    print(f"{bounds}: {found.states:,} states, {found.steps:,} steps")
    assert found.broken is None, f"{found.broken}\n  " + "\n  ".join(found.trace)
    assert found.states > 9_000  # a model that cannot move keeps every property


@pytest.mark.parametrize("variant", BROKEN)
def test_a_broken_rule_is_caught(variant: str) -> None:
    properties, bounds = BROKEN[variant]
    found = explore(Protocol(bounds, variant))
    print(f"{variant}: {found.broken} after {found.states:,} states: " + " > ".join(found.trace))
    assert found.broken is not None, f"{variant!r} breaks nothing within {bounds}"
    assert found.broken.startswith(properties)
