"""Successors first: new children start beside the old ones, and only when all are ready do the old ones go.

A successor is linked to nobody before its whole batch is ready, so a batch that fails has touched nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from shiftboss import control
from shiftboss.clock import Clock
from shiftboss.events import Event, emit
from shiftboss.supervisor.child import Child
from shiftboss.supervisor.plan import DRAIN_ALLOWANCE_S, StopPlan
from shiftboss.supervisor.spec import ChildSpec, SupervisorSettings
from shiftboss.supervisor.states import ChildEvent, ChildState
from shiftboss.supervisor.timers import Timers
from shiftboss.supervisor.tree import Tree

RETIRE_REASON: Final = "retired"

Launched = Callable[[Sequence[Child], str | None], None]
"""Told once: with the successors, ready and waiting to be put into service, or with why there are none."""


class _Launch(msgspec.Struct, eq=False):
    """A batch of successors."""

    done: Launched
    children: list[Child] = msgspec.field(default_factory=list)


class _Retirement(msgspec.Struct, eq=False):
    """An old child on its way out, and the peers that still have something of theirs with it."""

    plan: StopPlan
    holders: set[str]
    gone: Callable[[], None] | None


class Rolling:
    """Starts successors and retires their predecessors.

    Args:
        start: starts a child that is idle.
    """

    def __init__(self, tree: Tree, timers: Timers, clock: Clock, log: logging.Logger, start: Callable[[Child], None]) -> None:
        self._tree, self._timers, self._clock, self._log, self._start = tree, timers, clock, log, start
        self._launch: _Launch | None = None
        self._retirements: dict[str, _Retirement] = {}

    # ---- in

    def launch(self, specs: Sequence[ChildSpec], done: Launched) -> None:
        """Start one successor for each spec, under names that are free. One batch at a time."""
        if self._launch is not None:
            raise RuntimeError("a batch of successors is being started already; please report this")
        launch = self._launch = _Launch(done)
        for spec in specs:
            if self._launch is not launch:
                break  # one could not be made at all
            child = self._tree.add(replace(spec, name=self._tree.free_name(spec.group)), held_back=True)
            launch.children.append(child)
            self._start(child)
        if self._launch is launch:
            self._finish_if_ready(launch)  # also one of no child at all

    def ready(self, child: Child) -> None:
        """A child has said Ready."""
        if self._launch is not None and child in self._launch.children:
            self._finish_if_ready(self._launch)

    def _finish_if_ready(self, launch: _Launch) -> None:
        if all(child.ready for child in launch.children):
            self._launch = None
            launch.done(launch.children, None)

    def put_into_service(self, children: Sequence[Child]) -> None:
        """Link successors that are ready with their peers."""
        for child in children:
            self._tree.introduce(child)

    def _abandon(self, launch: _Launch, why: str) -> None:
        self._launch = None
        for child in launch.children:
            if child.running:
                self._dismiss(child)
            elif child.name in self._tree.children:
                self._forget(child)
        launch.done((), why)

    # ---- out

    def retire(self, child: Child, why: str, settings: SupervisorSettings, gone: Callable[[], None] | None = None) -> None:
        """Let it finish what it runs within the shutdown timeout, then cancel that within the grace, then end it.

        Args:
            gone: called when its process is no more.
        """
        emit(self._log, logging.INFO, Event.ACTOR_RETIRING, actor=child.name, incarnation=child.incarnation, reason=why)
        child.retiring = True
        plan = StopPlan(self._clock.monotonic_s() + settings.shutdown_timeout_s, settings.cancel_grace_s)
        holders = {peer.name for peer in self._tree.peers(child) if peer.state is not ChildState.ENDED}
        self._retirements[child.name] = _Retirement(plan, holders, gone)
        if not child.running:
            self._forget(child)
        elif child.state is ChildState.KILLING:
            pass  # its end is near
        elif not holders or not child.ready:
            self._dismiss(child)
        else:
            patience_s = settings.shutdown_timeout_s + settings.cancel_grace_s + DRAIN_ALLOWANCE_S
            self._timers.set(child.name, "retire", patience_s, lambda: self._kill(child))
            for name in sorted(holders):
                self._tell(self._tree.children[name], child, plan)

    def introduced(self, peer: Child) -> None:
        """A child runs that may hold work at one that retires, and does not know that it does."""
        for name, retirement in self._retirements.items():
            child = self._tree.children[name]
            if peer.name in retirement.holders and child.running:
                self._tell(peer, child, retirement.plan)

    def _tell(self, peer: Child, child: Child, plan: StopPlan) -> None:
        now_s = self._clock.monotonic_s()
        message = control.PeerRetiring(
            peer=child.name, incarnation=child.incarnation, drain_s=plan.drain_left_s(now_s), grace_s=plan.grace_left_s(now_s)
        )
        self._tree.tell(peer, message)

    def released(self, peer: Child, message: control.PeerReleased) -> None:
        """A peer has nothing more with a child that retires."""
        child, retirement = self._tree.children.get(message.peer), self._retirements.get(message.peer)
        if child is None or retirement is None or child.incarnation != message.incarnation:
            return
        retirement.holders.discard(peer.name)
        if not retirement.holders and child.ready:
            self._dismiss(child)

    def _dismiss(self, child: Child) -> None:
        child.retiring = child.planned = True
        self._timers.cancel(child.name, "retire")
        child.move(ChildEvent.STOP)
        self._tree.tell(child, control.Stop(drain_s=0.0, grace_s=0.0))
        self._timers.set(child.name, "stop", child.spec.shutdown_s, lambda: self._kill(child))

    def _kill(self, child: Child) -> None:
        child.planned = True
        self._tree.kill(child, RETIRE_REASON)

    # ---- ends

    def owns(self, child: Child) -> bool:
        """Whether an end of this child is dealt with here."""
        return child.retiring or child.held_back

    def ended(self, child: Child, how: str) -> None:
        """The end of one that was on its way in or out; it is forgotten.

        Args:
            how: for people.
        """
        launch = self._launch
        self._forget(child)
        if launch is not None and child in launch.children:
            self._abandon(launch, f"{child.name} ended {how} before it was in service; see its own last log lines")

    def _forget(self, child: Child) -> None:
        self._tree.end_for_good(child)
        self._tree.remove(child)
        retirement = self._retirements.pop(child.name, None)
        if retirement is not None and retirement.gone is not None:
            retirement.gone()

    @property
    def retiring(self) -> int:
        """How many old children still finish what they run."""
        return len(self._retirements)
