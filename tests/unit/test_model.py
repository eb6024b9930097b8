"""Ids and the table of transitions."""

from __future__ import annotations

import time
from uuid import RFC_4122, UUID

from shiftboss.model import ENDED_STATES, LEASED_STATES, TASK_TRANSITIONS, TaskEvent, TaskState, new_task_id


def test_ids_are_uuids_of_version_7_that_carry_their_time() -> None:
    before = time.time_ns() // 1_000_000
    ids = [UUID(new_task_id()) for _ in range(1_000)]
    after = time.time_ns() // 1_000_000
    assert all(one.version == 7 and one.variant == RFC_4122 for one in ids)
    assert all(before <= one.int >> 80 <= after for one in ids)
    assert len(set(ids)) == 1_000


def test_ids_made_one_after_the_other_sort_in_that_order() -> None:
    def apart() -> str:
        made, now_ns = new_task_id(), time.time_ns()
        while time.time_ns() - now_ns < 1_000:
            continue
        return made

    ids = [apart() for _ in range(1_000)]
    assert ids == sorted(ids)


def test_every_state_can_be_reached_and_left_and_every_event_is_used() -> None:
    reached = {state for states in TASK_TRANSITIONS.values() for state in states}
    assert reached == {*TaskState, None}
    assert {state for state, _event in TASK_TRANSITIONS} == {*TaskState, None}
    assert {event for _state, event in TASK_TRANSITIONS} == set(TaskEvent)
    assert LEASED_STATES | ENDED_STATES | {TaskState.PENDING} == set(TaskState)


def test_a_completed_task_is_never_revived() -> None:
    assert [event for state, event in TASK_TRANSITIONS if state is TaskState.COMPLETED] == [TaskEvent.PRUNE]
