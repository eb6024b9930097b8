"""Put prepared tasks into a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shiftboss.bound import Prepared
from shiftboss.store.base import Store


def enqueue(store: Store, prepared: Sequence[Prepared[Any]]) -> list[str]:
    """Store them in batches; returns their ids."""
    ids: list[str] = []
    for start in range(0, len(prepared), 5_000):
        ids += [one.id for one in store.enqueue([item.new for item in prepared[start : start + 5_000]])]
    return ids
