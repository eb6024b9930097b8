"""A real executor process with a claimer that the test plays."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from actor_harness import claim_of, eventually, table_memory
from fake_peers import FakeClaimer
from process_harness import ActorProcess

from shiftboss import control
from shiftboss.actors.messages import CancelAll, CancelAttempt, Finished, Hello, ProgressMade, Recall, Returned, Stopping
from shiftboss.actors.table import Table
from shiftboss.config import Settings
from shiftboss.model import Claim, Outcome

HERE = Path(__file__).parent
ROOM_BYTES = 4 * 1024 * 1024  # for small things; half of a thread's stack


class Running:
    """An executor process with two slots, its table, and the claimer it talks to."""

    def __init__(self, process: ActorProcess, table: Table) -> None:
        self.process, self.table = process, table
        process.board.worker_id = "worker-1"
        process.wait_ready()
        self.claimer = FakeClaimer(process)

    def result(self, type_: str, args: str = "{}") -> Any:
        claim = claim_of(type_, args=args)
        self.claimer.execute(claim)
        ended = self.claimer.outcome(claim)
        assert ended.outcome is Outcome.SUCCESS, ended
        return json.loads(bytes(ended.result))

    def start(self, *claims: Claim) -> None:
        """Send them, and wait until as many as there are slots have started."""
        self.claimer.execute(*claims)
        eventually(lambda: sum(not cell.ended_ns for cell in self.table.started()) == min(2, len(claims)), "started")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    settings = Settings(database_url=f"sqlite:///{tmp_path / 'none.db'}", log_format="json", imports=("handlers_for_tests",))
    table_fd = table_memory(16)
    table = Table(os.dup(table_fd))
    with ActorProcess(
        "executor",
        settings,
        "2",
        table_fd=table_fd,
        env={"PYTHONPATH": os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", "")))},
    ) as process:
        os.close(table_fd)
        made = Running(process, table)
        yield made
        made.claimer.close()


# ---- what user code finds


def test_handlers_find_nothing_of_ours_in_their_environment(running: Running) -> None:
    assert running.result("test:environment") == []


def test_programs_that_handlers_start_can_be_ended_with_term_and_int(running: Running) -> None:
    """Were these ignored here, they would be ignored there, and `terminate()` would do nothing."""
    assert running.result("test:terminate") == -signal.SIGTERM
    assert running.result("test:interrupt") == -signal.SIGINT


def test_signals_for_the_service_do_not_disturb_an_attempt(running: Running) -> None:
    claim = claim_of("test:wait")
    running.start(claim)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGUSR2"):
        running.process.process.send_signal(signal.Signals[name])
        running.process.ping()
    assert not running.claimer.heard.of(Finished)
    running.claimer.ref.tell(CancelAttempt(0, "cancel"))
    assert running.claimer.outcome(claim).outcome is Outcome.CANCELLED


# ---- code that cannot be imported


@pytest.mark.parametrize(
    ("code", "message", "frames"),
    [
        (None, "cannot import 'the_code': ModuleNotFoundError: No module named 'the_code'", 0),
        ("import nothing_of_this_name\n", "cannot import 'the_code': ModuleNotFoundError: No module named", 1),
        ("def fails():\n  raise ValueError('no')\nfails()\n", "cannot import 'the_code': ValueError: no (", 2),
        ("from shiftboss import task\n@task(type='a:b')\ndef b(what: 'Nonsense') -> None: ...\n", "Nonsense", 0),
    ],
)
def test_code_that_cannot_be_imported_is_one_line_with_nothing_of_ours(
    tmp_path: Path, code: str | None, message: str, frames: int
) -> None:
    """What is wrong stands in somebody's own code; our calls that led there are noise."""
    if code is not None:
        (tmp_path / "the_code.py").write_text(code)
    settings = Settings(database_url=f"sqlite:///{tmp_path / 'none.db'}", log_format="json", imports=("the_code",))
    env = {"PYTHONPATH": os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))}
    with ActorProcess("executor", settings, "2", table_fd=table_memory(16), env=env) as process:
        line = process.log.wait(lambda line: line["level"] == "critical", "why it cannot start")
        assert process.wait_exit() == 1
    assert message in line["message"]
    told = line.get("traceback", "")
    assert told.count('File "') == told.count("the_code.py") == frames, told


# ---- what it tells its claimer


def test_hello_names_slots_and_types_and_results_come_back(running: Running) -> None:
    hello = running.claimer.hello()
    assert (hello.slots, list(hello.held)) == (2, [])
    types = {one.type: one for one in hello.types}
    assert types["test:count"].is_async and types["test:count"].timeout_s == 60
    assert types["test:wait"].max_attempts == 3
    assert running.result("test:add", '{"a":2,"b":3}') == 5


def test_a_new_claimer_is_told_what_runs_what_waits_and_what_is_not_stored(running: Running) -> None:
    over, runs = claim_of("test:add", args='{"a":1,"b":1}'), [claim_of("test:wait"), claim_of("test:wait")]
    waits = claim_of("test:add", args='{"a":1,"b":2}')
    running.claimer.execute(over)
    running.claimer.outcome(over)
    running.claimer.execute(*runs, waits, first_cell=1)
    eventually(lambda: sum(not cell.ended_ns for cell in running.table.started()) == 2, "both slots are full")
    running.claimer.close()
    running.claimer = FakeClaimer(running.process, incarnation=2)
    held = {one.cell: one for one in running.claimer.hello().held}
    assert {cell: one.claim for cell, one in held.items()} == {0: over, 1: runs[0], 2: runs[1], 3: waits}
    assert [cell for cell, one in held.items() if one.ended is not None] == [0]
    running.claimer.ref.tell(CancelAttempt(1, "cancel"))
    running.claimer.outcome(runs[0])
    assert running.claimer.outcome(waits).outcome is Outcome.SUCCESS


def test_outcomes_that_are_stored_are_forgotten(running: Running) -> None:
    claim, other = claim_of("test:add", args='{"a":1,"b":1}'), claim_of("test:add", args='{"a":1,"b":2}')
    running.claimer.execute(claim)
    running.claimer.outcome(claim)
    running.claimer.execute(other, first_cell=1, stored=(0,))
    running.claimer.outcome(other)
    running.claimer.close()
    running.claimer = FakeClaimer(running.process, incarnation=2)
    assert [one.cell for one in running.claimer.hello().held] == [1]


def test_outcomes_of_the_time_without_a_claimer_are_told_to_the_next(running: Running) -> None:
    claim = claim_of("test:wait")
    running.start(claim)
    running.claimer.ref.tell(CancelAttempt(0, "cancel"))
    running.claimer.close()
    eventually(lambda: all(cell.ended_ns for cell in running.table.started()), "it has ended")
    running.claimer = FakeClaimer(running.process, incarnation=2)
    running.claimer.hello()

    def told() -> bool:
        held = [one for one in running.claimer.hello().held if one.ended is not None]
        return bool(held or running.claimer.heard.of(Finished))

    eventually(told, "the outcome is told")


def test_a_recall_brings_back_what_has_not_started_and_nothing_else(running: Running) -> None:
    runs, waits = [claim_of("test:wait") for _ in range(2)], [claim_of("test:wait") for _ in range(3)]
    running.start(*runs, *waits)
    running.claimer.ref.tell(Recall([0, 2]))
    assert running.claimer.heard.wait_type(Returned) == Returned([2])
    running.claimer.ref.tell(Recall(None))
    assert running.claimer.heard.wait_type(Returned, count=2) == Returned([3, 4])


def test_cancel_all_returns_what_waits_and_stops_what_runs(running: Running) -> None:
    runs, waits = [claim_of("test:wait") for _ in range(2)], claim_of("test:wait")
    running.start(*runs, waits)
    running.claimer.ref.tell(CancelAll("stop"))
    assert running.claimer.heard.wait_type(Returned) == Returned([2])
    for claim in runs:
        running.claimer.outcome(claim)


def test_stopping_reaches_what_runs(running: Running) -> None:
    claim = claim_of("test:wait")
    running.start(claim)
    running.claimer.ref.tell(Stopping())
    assert "asked to stop" in str(running.claimer.outcome(claim).error)


def test_the_latest_progress_is_told_in_batches(running: Running) -> None:
    claim = claim_of("test:count", args='{"to":1000}')
    running.claimer.execute(claim)
    running.claimer.outcome(claim)
    told = running.claimer.heard.wait_type(ProgressMade)
    assert [one.task_id for one in told.progress] == [claim.task_id]
    assert len(running.claimer.heard.of(ProgressMade)) == 1


def test_at_a_limit_on_memory_for_threads_nobody_is_charged_and_a_successor_is_asked_for(running: Running) -> None:
    """As when a neighbour in its process, or a limit on the service, leaves no room for another thread's stack."""
    pid, first, others = running.process.process.pid, claim_of("test:wait"), [claim_of("test:wait") for _ in range(3)]
    running.start(first)
    used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.prlimit(pid, resource.RLIMIT_AS, (used + ROOM_BYTES, resource.RLIM_INFINITY))
    running.claimer.execute(*others, first_cell=1)
    running.process.wait_log("executor.short_of_threads")
    assert running.process.said.wait_type(control.Tired).reason == "short of threads"
    assert [cell.task_id for cell in running.table.started()] == [first.task_id], "what has no thread has not begun"
    running.claimer.ref.tell(Recall([3]))
    assert running.claimer.heard.wait_type(Returned) == Returned([3]), "a retirement takes it elsewhere"
    resource.prlimit(pid, resource.RLIMIT_AS, limits)
    eventually(lambda: len(list(running.table.started())) == 2, "it starts as soon as there is a thread")
    running.claimer.ref.tell(CancelAll("stop"))
    for claim in (first, others[0]):
        assert "asked to stop" in str(running.claimer.outcome(claim).error)


def test_a_new_claimer_is_heard_as_soon_as_there_is_a_thread_for_it(running: Running, tmp_path: Path) -> None:
    claim, until = claim_of("test:wait"), tmp_path / "threads"
    running.start(claim)
    refusal = claim_of("test:refuse_threads", args=json.dumps({"name": "shiftboss-link-reader", "until": str(until)}))
    running.claimer.execute(refusal, first_cell=1)
    running.claimer.outcome(refusal)
    running.claimer.close()
    running.claimer = FakeClaimer(running.process, incarnation=2)
    running.process.wait_log("executor.short_of_threads")
    assert not running.claimer.heard.of(Hello)
    until.touch()
    held = {held.claim.task_id: held.ended for held in running.claimer.hello().held}
    assert held.keys() == {claim.task_id, refusal.task_id} and held[claim.task_id] is None, "it runs on"


def test_stop_ends_it_at_once_with_zero(running: Running) -> None:
    running.start(claim_of("test:wait"))
    running.process.tell(control.Stop(drain_s=0.0, grace_s=0.0))
    assert running.process.wait_exit() == 0


def test_it_ends_with_its_parent_also_in_the_middle_of_an_attempt(running: Running) -> None:
    running.start(claim_of("test:wait"))
    running.process.hang_up()
    assert running.process.wait_exit() == 0
