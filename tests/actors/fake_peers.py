"""The other end of a claimer's or an executor's link, played by a test."""

from __future__ import annotations

import os
import socket
from typing import Any

from actor_harness import table_memory
from process_harness import ActorProcess, Heard

from shiftboss import control
from shiftboss.actors.link import PeerRef
from shiftboss.actors.messages import (
    Execute,
    Finished,
    Held,
    Hello,
    Recall,
    Returned,
    ToClaimer,
    ToExecutor,
)
from shiftboss.actors.table import Table
from shiftboss.model import Claim, Ended, Outcome, TypeInfo

TYPE = "mail:send"


class FakeExecutor:
    """An executor that does only what the test says. `cells`: what it was sent, by claim order."""

    def __init__(
        self, claimer: ActorProcess, name: str = "executor-1", incarnation: int = 1, cells: int = 64, linked: bool = True
    ) -> None:
        self.claimer, self.name, self.incarnation = claimer, name, incarnation
        self.table_fd = table_memory(cells)
        self.table = Table(os.dup(self.table_fd))
        self.heard = Heard()
        self.ended = Heard()
        ours, theirs = socket.socketpair()
        with theirs:
            link = control.Link(peer=name, incarnation=incarnation, has_table=True)
            if linked:
                claimer.tell(link, theirs.fileno(), self.table_fd)
        self.ref: PeerRef[ToExecutor] = PeerRef(ours, ToExecutor, self.heard.add, lambda: self.ended.add("end"))

    def hello(self, slots: int = 1, types: tuple[TypeInfo, ...] = (TypeInfo(type=TYPE),), held: tuple[Held, ...] = ()) -> None:
        self.ref.tell(Hello(slots, types, held))

    # ---- what it was sent

    def claims(self) -> dict[str, tuple[int, Claim]]:
        """Task id -> (cell, claim) of all that was ever sent here, the last word for each."""
        return {
            claim.task_id: (cell, claim)
            for message in self.heard.of(Execute)
            for cell, claim in zip(message.cells, message.claims, strict=True)
        }

    def wait_for(self, task_id: str, timeout_s: float = 30.0) -> tuple[int, Claim]:
        """The cell and the claim of a task, as soon as it is sent here."""

        def has_it(message: Any) -> bool:
            return isinstance(message, Execute) and any(claim.task_id == task_id for claim in message.claims)

        self.heard.wait(has_it, f"{self.name} is sent {task_id}", timeout_s=timeout_s)
        return self.claims()[task_id]

    def stored(self) -> list[int]:
        return [cell for message in self.heard.of(Execute) for cell in message.stored]

    # ---- what it does

    def start(self, task_id: str) -> Claim:
        """Run a task it was sent, as far as anyone can see."""
        cell, claim = self.wait_for(task_id)
        self.table.start(cell, claim.task_id, claim.fence)
        return claim

    def finish(self, task_id: str, outcome: Outcome = Outcome.SUCCESS, **fields: Any) -> None:
        cell, claim = self.wait_for(task_id)
        self.table.end(cell)
        self.ref.tell(Finished([cell], [ended(claim, outcome, **fields)]))

    def give_back(self, count: int = 1) -> None:
        """Obey the `count`-th recall: nothing that was recalled has started."""
        recall = self.heard.wait_type(Recall, count=count)
        started = {cell.task_id for cell in self.table.started()}
        latest = {cell: task_id for task_id, (cell, _claim) in self.claims().items()}  # a cell is used again and again
        cells = [cell for cell, task_id in latest.items() if task_id not in started]
        self.ref.tell(Returned([cell for cell in cells if recall.cells is None or cell in recall.cells]))

    def hang_up(self) -> None:
        self.ref.close()

    def die(self, **how: Any) -> None:
        """Its process is gone: the link ends, and the supervisor says so."""
        self.hang_up()
        self.tell_death(**how)

    def tell_death(self, **how: Any) -> None:
        given = {"exit_code": None, "signal": "SIGKILL", "uptime_s": 1.5, "peak_rss_kib": 2048} | how
        death = control.PeerDied(peer=self.name, incarnation=self.incarnation, has_table=True, **given)
        self.claimer.tell(death, self.table_fd)

    def close(self) -> None:
        self.ref.close()
        os.close(self.table_fd)
        self.table.close()


def ended(claim: Claim, outcome: Outcome = Outcome.SUCCESS, **fields: Any) -> Ended:
    return Ended(task_id=claim.task_id, fence=claim.fence, outcome=outcome, **fields)


class FakeClaimer:
    """A claimer that does only what the test says."""

    def __init__(self, executor: ActorProcess, incarnation: int = 1) -> None:
        self.heard = Heard()
        self.ended = Heard()
        ours, theirs = socket.socketpair()
        with theirs:
            executor.tell(control.Link(peer="claimer", incarnation=incarnation), theirs.fileno())
        self.ref: PeerRef[ToClaimer] = PeerRef(ours, ToClaimer, self.heard.add, lambda: self.ended.add("end"))

    def hello(self) -> Hello:
        return self.heard.wait_type(Hello)

    def execute(self, *claims: Claim, first_cell: int = 0, stored: tuple[int, ...] = ()) -> None:
        self.ref.tell(Execute(stored, list(range(first_cell, first_cell + len(claims))), claims))

    def outcome(self, claim: Claim) -> Ended:
        """How an attempt ended, as soon as it is told."""

        def has_it(message: Any) -> bool:
            return isinstance(message, Finished) and any(one.task_id == claim.task_id for one in message.ended)

        message: Finished = self.heard.wait(has_it, f"the end of {claim.type}")
        return next(one for one in message.ended if one.task_id == claim.task_id)

    def close(self) -> None:
        self.ref.close()
