"""The write lock: whose turn it is."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from shiftboss.errors import StoreUnavailable
from shiftboss.store.sqlite.lock import WriteLock

_PATIENCE_S = 10.0
_ROUNDS = 20


def _waits(path: Path) -> bool:
    """Whether somebody is next: the kernel lists the lock of whoever is."""
    inode = str(path.stat().st_ino)
    lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    return any("OFDLCK" in line and "->" not in line and f":{inode} " in line for line in lines)


def _wait_until_next(path: Path) -> None:
    until_s = time.monotonic() + _PATIENCE_S
    while not _waits(path):
        assert time.monotonic() < until_s, "nobody ever was next"
        threading.Event().wait(0.001)


def test_who_waits_comes_before_who_has_just_had_it(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    busy, other = WriteLock(path, _PATIENCE_S), WriteLock(path, _PATIENCE_S)
    turns: list[str] = []

    def once() -> None:
        with other.held():
            turns.append("other")

    for _ in range(_ROUNDS):
        busy.take()
        turns.append("busy")
        waiter = threading.Thread(target=once)
        waiter.start()
        _wait_until_next(path)
        busy.leave()
        busy.take()  # at once, while the other one is only just being woken
        turns.append("busy")
        busy.leave()
        waiter.join(_PATIENCE_S)
    busy.close()
    other.close()
    assert turns == ["busy", "other", "busy"] * _ROUNDS


def test_who_gave_up_waiting_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    holder, hasty, third = WriteLock(path, _PATIENCE_S), WriteLock(path, 0.05), WriteLock(path, _PATIENCE_S)
    holder.take()
    for _ in range(2):  # the first one stays next until its thread gets there, the second waits behind it
        with pytest.raises(StoreUnavailable, match="was not free within"):
            hasty.take()
    holder.leave()
    with third.held():
        pass
    with hasty.held():
        pass
    for lock in (holder, hasty, third):
        lock.close()


def test_who_cannot_wait_is_not_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.lock"
    holder, poor, third = WriteLock(path, _PATIENCE_S), WriteLock(path, _PATIENCE_S), WriteLock(path, _PATIENCE_S)
    holder.take()

    def no_thread(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError):
            poor.take()
    assert not _waits(path)
    holder.leave()
    with third.held():
        pass
    for lock in (holder, poor, third):
        lock.close()
