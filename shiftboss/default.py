"""The client that `task.enqueue()` uses in this process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from shiftboss.client import Client
from shiftboss.codec import DEFAULT_MAX_ARGS_BYTES

_default: Client | None = None
_lock = threading.Lock()


def default_client() -> Client:
    """The client that `task.enqueue()` uses: as `configure` said, else by the variable `DATABASE_URL`."""
    global _default
    if _default is None:
        with _lock:
            if _default is None:
                _default = Client()
    return _default


def configure(database_url: str | None = None, *, max_args_bytes: int = DEFAULT_MAX_ARGS_BYTES) -> Client:
    """Say which database `task.enqueue()` uses in this process; returns its client.

    The client before is not closed: another thread may be using it.

    Raises:
        StoreError: an unknown kind of URL.
    """
    global _default
    client = Client(database_url, max_args_bytes=max_args_bytes)
    with _lock:
        _default = client
    return client


@contextlib.contextmanager
def using_client(client: Client) -> Iterator[Client]:
    """Make `client` the default inside the block, in all threads: for tests."""
    global _default
    with _lock:
        before, _default = _default, client
    try:
        yield client
    finally:
        with _lock:
            _default = before
