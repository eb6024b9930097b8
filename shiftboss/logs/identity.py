"""The id of the worker that this process belongs to, for its lines: known only once the worker is registered."""

from __future__ import annotations

from collections.abc import Callable


def _unknown() -> str:
    return ""


_ask: Callable[[], str] = _unknown


def bind_worker(ask: Callable[[], str]) -> None:
    """From now on every line carries what `ask()` returns as the worker's id. Called for each line, so it must be quick;
    empty: not known yet."""
    global _ask
    _ask = ask


def worker_id() -> str:
    """The worker's id; empty while it is not known."""
    return _ask()
