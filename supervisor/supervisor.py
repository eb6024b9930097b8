"""The loop: wait for a child, a signal or a timer; decide; act. One thread, no SQL, nothing that blocks."""

from __future__ import annotations

import logging
import random
import selectors
import signal
from collections.abc import Sequence
from typing import Final, assert_never

from shiftboss import control
from shiftboss.clock import Clock, SystemClock
from shiftboss.events import Event, emit
from shiftboss.supervisor import orphans, plan
from shiftboss.supervisor.child import Child, Exit
from shiftboss.supervisor.liveness import Liveness
from shiftboss.supervisor.notify import Notifier
from shiftboss.supervisor.obituary import log_end, peer_died
from shiftboss.supervisor.restart import GroupHistory, RestartBudget
from shiftboss.supervisor.shutdown import Shutdown
from shiftboss.supervisor.signals import SignalQueue
from shiftboss.supervisor.spec import ChildSpec, SupervisorSettings, check_specs
from shiftboss.supervisor.states import ChildEvent, ChildState
from shiftboss.supervisor.status import StatusLine
from shiftboss.supervisor.timers import Timers
from shiftboss.supervisor.tree import Tree

_LATE_S: Final = 1.0  # a loop this late proves nothing about its children
_ORPHANS_S: Final = 2.0


class Supervisor:
    """Keeps the children of `specs` running until a signal asks it to stop, or it has to give up.

    Raises:
        ConfigError: the specs contradict each other.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        settings: SupervisorSettings,
        *,
        clock: Clock | None = None,
        notify: Notifier | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        check_specs(specs)
        self._settings = settings
        self._clock = clock or SystemClock()
        self._notify = notify or Notifier()
        self._log = log or logging.getLogger("shiftboss.supervisor")
        self._timers = Timers(self._clock)
        self._tree = Tree(specs, settings.board_bytes, self._timers, self._clock, self._log)
        self._liveness = Liveness(self._tree, self._timers, settings, self._clock, self._log)
        self._status = StatusLine(self._tree, self._timers, settings, self._clock, self._notify)
        self._shutdown = Shutdown(self._tree, self._timers, settings, self._clock, self._log, self._status, self._start)
        budget = RestartBudget(settings.max_restarts, settings.restart_period_s)
        self._histories = {spec.group: GroupHistory(budget) for spec in specs}
        self._service_ready = False
        self._interrupts = 0
        self._repeated_term = False

    def run(self) -> int:
        """Start everything, keep it running, stop it. Call it once, from the main thread.

        Returns:
            The exit code: 0 after a stop that was asked for, 70 when it gave up, 130 after a third SIGINT,
            64, 75 or 78 when a critical child ended with it before the service was ready.
        """
        started_s = self._clock.monotonic_s()
        with SignalQueue() as signals:
            try:
                self._begin(signals)
                while not self._shutdown.finished:
                    self._turn(signals)
            finally:
                self._tree.close()
                orphans.kill_remaining(_ORPHANS_S, self._clock, self._log)
        exit_code = self._shutdown.exit_code or 0
        uptime_s = round(self._clock.monotonic_s() - started_s, 3)
        emit(
            self._log,
            logging.INFO,
            Event.SERVICE_STOPPED,
            f"stopped, exit code {exit_code}",
            exit_code=exit_code,
            uptime_s=uptime_s,
        )
        self._notify.status("stopped")
        return exit_code

    def _begin(self, signals: SignalQueue) -> None:
        orphans.adopt_orphans()
        self._tree.selector.register(signals, selectors.EVENT_READ, None)
        emit(self._log, logging.INFO, Event.SERVICE_STARTING, "starting", actors=len(self._tree.children))
        self._status.begin()
        self._start_next()

    # ---- one turn of the loop

    def _turn(self, signals: SignalQueue) -> None:
        due_s = self._timers.next_s()
        timeout_s = None if due_s is None else max(0.0, due_s - self._clock.monotonic_s())
        for key, mask in self._tree.selector.select(timeout_s):
            if isinstance(key.data, Child):
                self._serve(key.data, mask)
            else:
                self._obey(signals.read())
        for child in self._tree.ended():
            self._receive(child)  # its last words, before it is buried
            self._ended(child, self._tree.reap(child))
        if due_s is not None and self._clock.monotonic_s() - due_s > _LATE_S:
            self._liveness.forgive()
        self._timers.run_due()

    def _serve(self, child: Child, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._tree.flush(child)
        if mask & selectors.EVENT_READ:
            self._receive(child)

    def _receive(self, child: Child) -> None:
        for message in self._tree.receive(child):
            self._hear(child, message)

    def _hear(self, child: Child, message: control.ToParent) -> None:
        match message:
            case control.Ready():
                self._ready(child)
            case control.Pong():
                self._liveness.answered(child, message)
            case control.Report(status=status):
                child.status = status
                self._status.changed()
            case control.Replace():
                self._replace(child, message)
            case control.PeerBuried():
                self._tree.bury(child, message)
            case _:
                assert_never(message)

    # ---- start

    def _start_next(self) -> None:
        """Start groups in order, each when those before it are ready; what is not critical holds up nobody."""
        for group in self._tree.groups:
            for child in group:
                if child.state is ChildState.IDLE:
                    self._start(child)
            if self._shutdown.begun or not all(map(_is_settled, group)):
                return
        if not self._service_ready:
            self._service_ready = True
            emit(self._log, logging.INFO, Event.SERVICE_READY, "ready", actors=len(self._tree.running))
            self._status.ready()

    def _start(self, child: Child) -> None:
        failed = self._tree.spawn(child)
        if failed is None:
            self._liveness.started(child)
        else:
            self._ended(child, failed)

    def _ready(self, child: Child) -> None:
        if child.ready_s is not None:
            return
        child.become_ready(self._clock.monotonic_s())
        self._histories[child.spec.group] = self._histories[child.spec.group].record_ready()
        took_s = round(child.ready_s - child.started_s, 3) if child.ready_s is not None else 0.0
        fields = {"actor": child.name, "incarnation": child.incarnation, "duration_s": took_s}
        emit(self._log, logging.INFO, Event.ACTOR_READY, f"{child.name} is ready", **fields)
        self._liveness.ready(child)
        self._status.changed()
        if not self._shutdown.begun:
            self._start_next()

    # ---- ends

    def _ended(self, child: Child, exit_: Exit) -> None:
        """The present incarnation has ended: tell the log and the peers, then decide."""
        now_s = self._clock.monotonic_s()
        if child.ready_s is not None and now_s - child.ready_s >= self._settings.restart_reset_s:
            child.streak = 0
        ended = plan.Ended(
            exit_code=exit_.exit_code, was_ready=child.ready_s is not None, planned=child.planned, streak=child.streak
        )
        message = peer_died(child, exit_, now_s)
        log_end(self._log, child, message)
        self._tree.announce_death(child, message)
        if not child.planned:
            child.streak += 1
        if self._shutdown.begun:
            self._shutdown.after_end(child, ended)
        else:
            self._decide(child, ended, now_s)
        self._status.changed()

    def _decide(self, child: Child, ended: plan.Ended, now_s: float) -> None:
        action, self._histories[child.spec.group] = plan.after_end(
            child.spec,
            ended,
            self._histories[child.spec.group],
            self._settings,
            now_s=now_s,
            service_ready=self._service_ready,
            chance=random.random(),
        )
        match action:
            case plan.RestartAfter(delay_s) | plan.StayDown(delay_s):
                self._schedule(child, delay_s)
            case plan.Leave():
                self._tree.end_for_good(child)
                self._start_next()
            case plan.GiveUp(exit_code, why):
                child.move(ChildEvent.DELAY)
                emit(self._log, logging.CRITICAL, Event.SUPERVISOR_INTENSITY_EXCEEDED, f"giving up: {why}", actor=child.name)
                self._shutdown.begin(exit_code, why, drain=False)
            case _:
                assert_never(action)

    def _schedule(self, child: Child, delay_s: float) -> None:
        child.move(ChildEvent.DELAY)
        fields = {"actor": child.name, "delay_s": round(delay_s, 3)}
        emit(self._log, logging.INFO, Event.ACTOR_RESTART_SCHEDULED, f"{child.name} restarts in {delay_s:.1f} s", **fields)
        self._timers.set(child.name, "restart", delay_s, lambda: self._start(child))

    def _replace(self, child: Child, request: control.Replace) -> None:
        peer = self._tree.children.get(request.peer)
        if peer is None or peer.process is None or peer.incarnation != request.incarnation:
            return  # it has ended meanwhile, which is what was wanted
        if child.name not in peer.process.linked:
            message = f"{child.name} asked to replace {peer.name}, with which it shares no link: refused"
            emit(self._log, logging.WARNING, Event.ACTOR_STATE, message, actor=child.name)
            return
        peer.planned, peer.reason = True, request.reason
        self._tree.kill(peer, request.reason)

    # ---- signals

    def _obey(self, received: list[signal.Signals]) -> None:
        for number in received:
            if number is signal.SIGCHLD or number is signal.SIGPIPE:
                continue  # each turn reaps; a write to a closed pipe is an error of its own
            emit(self._log, logging.INFO, Event.SIGNAL_RECEIVED, f"received {number.name}", signal=number.name)
            match number:
                case signal.SIGTERM:
                    self._on_term()
                case signal.SIGINT:
                    self._on_int()
                case signal.SIGQUIT:
                    self._stop_now(number.name)
                case signal.SIGUSR1:
                    self._dump()
                case _:
                    message = f"{number.name} means nothing to this version: ignored"
                    emit(self._log, logging.WARNING, Event.SIGNAL_IGNORED, message, signal=number.name)

    def _on_term(self) -> None:
        if not self._shutdown.begun:
            self._shutdown.begin(0, "SIGTERM", drain=True)
        elif not self._repeated_term:
            self._repeated_term = True
            message = "already stopping, a further SIGTERM changes nothing: SIGQUIT stops without waiting for running work"
            emit(self._log, logging.INFO, Event.SIGNAL_IGNORED, message, signal="SIGTERM")

    def _on_int(self) -> None:
        self._interrupts += 1
        if self._interrupts == 1 and not self._shutdown.begun:
            self._shutdown.begin(0, "SIGINT", drain=True)
        elif self._interrupts == 2:
            self._stop_now("second SIGINT")
        elif self._interrupts >= 3:
            self._shutdown.kill_all()

    def _stop_now(self, why: str) -> None:
        if self._shutdown.begun:
            self._shutdown.hurry()
        else:
            self._shutdown.begin(0, why, drain=False)

    def _dump(self) -> None:
        for child in self._tree.children.values():
            fields = {"actor": child.name, "state": child.state, "incarnation": child.incarnation, "status": child.status}
            pid = child.process.pid if child.process is not None else None
            emit(self._log, logging.INFO, Event.ACTOR_STATE, f"{child.name}: {child.state}", actor_pid=pid, **fields)
            self._tree.tell(child, control.Dump())


def _is_settled(child: Child) -> bool:
    """Nothing has to wait for it at start."""
    return child.ready or child.state is ChildState.ENDED or not child.spec.critical
