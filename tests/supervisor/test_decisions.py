"""The pure parts of operations: the queue of them, who wants quiet, and when a pool is paused. No process."""

from __future__ import annotations

import logging
import mmap
from datetime import UTC, datetime

import pytest

from shiftboss import control
from shiftboss.commands import ServiceStatus
from shiftboss.supervisor import ChildSpec, SupervisorSettings
from shiftboss.supervisor.operations import Nobody, Operation, Operations
from shiftboss.supervisor.plan import Action, Ended, GiveUp, Pause, RestartAfter, after_end
from shiftboss.supervisor.quiet import OPERATOR, POOL, Quiet
from shiftboss.supervisor.restart import GroupHistory, RestartBudget
from shiftboss.supervisor.timers import Timers
from shiftboss.supervisor.tree import Tree


class Waiting:
    """An asker that remembers what it was told."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.answers: list[tuple[bool, str, int | None]] = []

    def progress(self, text: str) -> None:
        self.heard.append(text)

    def done(self, ok: bool, text: str, *, code: int | None = None, data: ServiceStatus | None = None) -> None:
        self.answers.append((ok, text, code))


class StillClock:
    """Stands still."""

    def monotonic_s(self) -> float:
        return 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(0, UTC)


def test_a_spec_does_not_show_its_secrets() -> None:
    spec = ChildSpec(name="one", argv=("true",), secrets={"SHIFTBOSS_SETTINGS": "s3cret"})
    assert repr(spec).startswith("ChildSpec(name='one', argv=('true',)") and "s3cret" not in repr(spec)
    assert spec.group == "one"


# ---- the queue


class Queue:
    """Operations that note when they begin, and may be held up."""

    def __init__(self) -> None:
        self.may_run = True
        self.begun: list[str] = []
        self.operations = Operations(lambda: self.may_run)

    def ask(self, name: str, key: str = "") -> Waiting:
        asker = Waiting()
        self.operations.ask(Operation(lambda: self.begun.append(name), key, [asker]))
        return asker


def test_operations_run_one_after_another_in_the_order_of_their_asking() -> None:
    queue = Queue()
    first, second = queue.ask("first"), queue.ask("second")
    assert queue.begun == ["first"]
    queue.operations.progress("half-way")
    queue.operations.finish(True, "done", code=None)
    assert queue.begun == ["first", "second"]
    queue.operations.finish(False, "no", code=78)
    assert (first.heard, first.answers) == (["half-way"], [(True, "done", None)])
    assert (second.heard, second.answers) == ([], [(False, "no", 78)])


def test_those_that_wait_with_the_same_key_are_one_but_not_with_the_one_that_runs() -> None:
    queue = Queue()
    running, waiting, late = queue.ask("1", "reload"), queue.ask("2", "reload"), queue.ask("3", "reload")
    queue.operations.finish(True, "first")
    assert queue.begun == ["1", "2"]
    assert running.answers == [(True, "first", None)]
    queue.operations.finish(True, "second")
    assert queue.begun == ["1", "2"]
    assert waiting.answers == late.answers == [(True, "second", None)]


def test_operations_without_a_key_are_never_one() -> None:
    queue = Queue()
    for name in ("1", "2", "3"):
        queue.ask(name)
    for _ in range(3):
        queue.operations.finish(True, "")
    assert queue.begun == ["1", "2", "3"]


def test_nothing_begins_before_it_may() -> None:
    queue = Queue()
    queue.may_run = False
    queue.ask("early")
    assert queue.begun == []
    queue.may_run = True
    queue.operations.proceed()
    assert queue.begun == ["early"]


def test_an_operation_that_ends_while_it_begins_lets_the_next_one_begin() -> None:
    operations, begun = Operations(lambda: True), list[int]()

    def run(number: int) -> None:
        begun.append(number)
        operations.finish(False, "at once")

    for number in range(3):
        operations.ask(Operation(lambda number=number: run(number), "", [Nobody()]))  # type: ignore[misc]
    assert begun == [0, 1, 2]


def test_abort_answers_all_of_them_and_begins_none() -> None:
    queue = Queue()
    askers = [queue.ask("1"), queue.ask("2"), queue.ask("3")]
    queue.may_run = False
    queue.operations.abort("stopping")
    assert [asker.answers for asker in askers] == [[(False, "stopping", None)]] * 3
    queue.operations.finish(True, "too late")
    assert queue.begun == ["1"]
    assert [len(asker.answers) for asker in askers] == [1, 1, 1]


def test_released_askers_are_the_callers_and_the_next_waits_for_its_word() -> None:
    queue = Queue()
    first, _ = queue.ask("1"), queue.ask("2")
    assert queue.operations.release() == [first]
    assert queue.begun == ["1"]
    queue.operations.proceed()
    assert queue.begun == ["1", "2"]
    queue.operations.finish(True, "")
    assert first.answers == []


# ---- quiet


class Told(Tree):
    """A tree without processes that notes what is said to whom."""

    def __init__(self) -> None:
        clock = StillClock()
        specs = [ChildSpec(name="heartbeat", argv=("true",)), ChildSpec(name="claimer", argv=("true",), drains=True)]
        super().__init__(specs, 8, Timers(clock), clock, logging.getLogger("test"))
        self.said: list[tuple[str, str]] = []
        self.seq = 0  # of the last Drain
        for child in self.children.values():
            child.begin(None, 0.0)
            child.become_ready(0.0)
        self.claimer, self.heartbeat = self.children["claimer"], self.children["heartbeat"]

    def tell(self, child: object, message: control.ToChild, fds: tuple[int, ...] = ()) -> None:
        self.said.append((child.name, type(message).__name__))  # type: ignore[attr-defined]
        if isinstance(message, control.Drain):
            self.seq = message.seq


@pytest.fixture
def tree() -> Told:
    made = Told()
    made.close()
    return made


@pytest.fixture
def quiet(tree: Told) -> Quiet:
    return Quiet(tree, logging.getLogger("test"), lambda: None)


def test_quiet_lasts_as_long_as_anybody_wants_it(tree: Told, quiet: Quiet) -> None:
    assert not quiet
    quiet.want(OPERATOR, "command")
    quiet.want(POOL, "it crashes")
    quiet.want(OPERATOR, "again")
    told = [("heartbeat", "Drain"), ("claimer", "Drain"), ("heartbeat", "Drain")]
    assert tree.said == told, "the draining child once, the others of every new reason"
    assert quiet.why == "command; it crashes"
    quiet.release(OPERATOR, "command")
    assert quiet
    assert quiet.why == "it crashes"
    assert tree.said == [*told, ("heartbeat", "Drain")]
    quiet.release(POOL, "it runs")
    assert not quiet
    assert tree.said[4:] == [("heartbeat", "Resume"), ("claimer", "Resume")]
    quiet.release(POOL, "it runs")
    assert len(tree.said) == 6


def test_only_the_draining_child_says_that_nothing_runs(tree: Told, quiet: Quiet) -> None:
    asker = Waiting()
    quiet.heard_drained(tree.claimer, tree.seq)
    assert not quiet.drained, "nobody had asked"
    quiet.want(OPERATOR, "command")
    quiet.when_drained(asker)
    quiet.heard_drained(tree.heartbeat, tree.seq)
    assert asker.answers == []
    quiet.heard_drained(tree.claimer, tree.seq)
    assert [ok for ok, _, _ in asker.answers] == [True]
    late = Waiting()
    quiet.when_drained(late)
    assert [ok for ok, _, _ in late.answers] == [True]


def test_a_late_answer_to_an_earlier_drain_is_none_to_the_next(tree: Told, quiet: Quiet) -> None:
    quiet.want(OPERATOR, "command")
    earlier = tree.seq
    quiet.release(OPERATOR, "command")
    quiet.want(OPERATOR, "command")
    quiet.heard_drained(tree.claimer, earlier)
    assert not quiet.drained
    quiet.heard_drained(tree.claimer, tree.seq)
    assert quiet.drained


def test_the_groups_of_all_children_stand_where_every_child_can_read_them(tree: Told) -> None:
    with mmap.mmap(-1, control.BOARD_BYTES) as memory:
        assert control.read_groups(memory) == []
        control.write_groups(memory, range(1000, 2000))
        assert control.read_groups(memory) == list(range(1000, 1500))
        control.write_groups(memory, [7])
        assert control.read_groups(memory) == [7]


def test_a_claimer_that_starts_again_has_everything_to_say_again(tree: Told, quiet: Quiet) -> None:
    quiet.introduced(tree.claimer)
    assert tree.said == []
    quiet.want(OPERATOR, "command")
    quiet.heard_drained(tree.claimer, tree.seq)
    quiet.introduced(tree.heartbeat)
    assert quiet.drained
    quiet.introduced(tree.claimer)
    assert not quiet.drained
    assert tree.said[2:] == [("heartbeat", "Drain"), ("claimer", "Drain")]


# ---- a pool that keeps crashing


SETTINGS = SupervisorSettings(restart_period_s=60.0)
WORN = GroupHistory(RestartBudget(intensity=2, period_s=60.0, restarts=(0.0, 1.0)), ever_ready=True)
CRASHED = Ended(exit_code=None, was_ready=True)


def decide(
    history: GroupHistory, ended: Ended = CRASHED, *, now_s: float = 2.0, ready: bool = True, rolling: bool = True
) -> Action:
    spec = ChildSpec(name="executor-1", group="executor", argv=("true",), rolling=rolling)
    return after_end(spec, ended, history, SETTINGS, now_s=now_s, service_ready=ready, chance=0.5)[0]


def test_a_rolling_group_past_its_budget_is_paused_where_others_give_up() -> None:
    assert decide(WORN) == Pause(3)
    assert isinstance(decide(WORN, rolling=False), GiveUp)
    assert decide(WORN, Ended(exit_code=1, was_ready=False)) == Pause(3)
    assert isinstance(decide(WORN, now_s=60.5), RestartAfter), "the first crash is forgotten"


def test_a_planned_end_pauses_nothing() -> None:
    assert decide(WORN, Ended(exit_code=0, was_ready=True, planned=True)) == RestartAfter(0.0)


def test_a_group_that_never_was_ready_is_not_paused_but_ends_the_service() -> None:
    never = GroupHistory(RestartBudget(intensity=20, period_s=60.0), boot_failures=2)
    assert isinstance(decide(never, Ended(exit_code=1, was_ready=False), ready=False), GiveUp)


def test_before_the_service_was_ready_there_is_nothing_to_keep_up() -> None:
    assert isinstance(decide(WORN, ready=False), GiveUp)
