"""How long a task can hide behind the mark of its lane: one that is put back with an old due time, while newer ones go on."""

from __future__ import annotations

import pytest

from shiftboss.actors import lanebook
from shiftboss.actors.lanebook import LaneBook
from shiftboss.model import Claim
from shiftboss.store.base import ClaimAsk, LaneAsk

HIDDEN_AT_MOST_S = 1.5  # a dead worker's task runs elsewhere within worker_timeout and two seconds, backlog or not
RAW = b"{}"


class Clock:
    now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


def claim(due_at: float) -> Claim:
    import msgspec

    return Claim(
        task_id="01a00000-0000-7000-8000-000000000001", fence=1, attempt=1, type="t", queue="default", priority=0,
        args=msgspec.Raw(RAW), max_attempts=1, timeout_s=None, running=True, enqueued_at=due_at, due_at=due_at,
    )  # fmt: skip


def test_under_a_backlog_a_lane_is_read_from_its_beginning_soon_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(lanebook, "time", clock)
    book = LaneBook((), "priority", 1.0)
    ask = ClaimAsk(lanes=[LaneAsk(queue="default", priority=0, limit=1)], limit=1, running=1, types=[])
    assert book.marks() == {}
    hidden_since_s = longest_s = None
    for _ in range(400):  # every claim gets all it asked for, as under a backlog
        clock.now_s += 0.05
        if book.marks():
            hidden_since_s = hidden_since_s or clock.now_s
            longest_s = max(longest_s or 0.0, clock.now_s - hidden_since_s)
        else:
            hidden_since_s = None
        book.learn(ask, [claim(clock.now_s)])
    assert longest_s is not None, "no mark was ever used"
    assert longest_s <= HIDDEN_AT_MOST_S
