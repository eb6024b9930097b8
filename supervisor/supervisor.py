"""The loop: wait for a child, a signal, a command or a timer; decide; act. One thread, no SQL, nothing that blocks."""

from __future__ import annotations

import logging
import random
import selectors
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, assert_never

from msgspec.structs import replace

from shiftboss import control
from shiftboss.clock import Clock, SystemClock
from shiftboss.events import Event, emit
from shiftboss.supervisor import orphans, plan
from shiftboss.supervisor.child import Child, Exit
from shiftboss.supervisor.commands import CommandServer
from shiftboss.supervisor.doors import Doors
from shiftboss.supervisor.dumping import Dumping
from shiftboss.supervisor.liveness import Liveness
from shiftboss.supervisor.notify import Notifier
from shiftboss.supervisor.obituary import how_it_ended, log_end, peer_died
from shiftboss.supervisor.operations import Operations
from shiftboss.supervisor.probing import Probing
from shiftboss.supervisor.quiet import Quiet
from shiftboss.supervisor.reloading import Reloadable, Reloading
from shiftboss.supervisor.replacing import Replacing
from shiftboss.supervisor.report import Reporter
from shiftboss.supervisor.restart import GroupHistory, RestartBudget
from shiftboss.supervisor.rolling import Rolling
from shiftboss.supervisor.shutdown import Shutdown
from shiftboss.supervisor.signals import SignalQueue
from shiftboss.supervisor.spec import Blueprint, ChildSpec, SupervisorSettings, check_specs
from shiftboss.supervisor.states import ChildEvent, ChildState
from shiftboss.supervisor.status import StatusLine
from shiftboss.supervisor.timers import Timers
from shiftboss.supervisor.tree import Tree

_LATE_S: Final = 1.0  # a loop this late proves nothing about its children
_BROKEN: Final = 1  # Python's own exit code after an exception that nobody catches
_ORPHANS_S: Final = 2.0
_FLUSH_LOG_S: Final = 1.0
_LAST_WORDS_S: Final = 0.5  # for programs that wait for the end


class Supervisor:
    """Keeps the children of `specs` running until it is asked to stop, or has to give up.

    Args:
        reloadable: how a reload finds out what to do; None: it cannot be reloaded.
        control_path: where the control socket is to be; None: there is none.
        flush_log: sends lines that the log has not taken yet, without blocking; False: some still wait.

    Raises:
        ConfigError: the specs contradict each other.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        settings: SupervisorSettings,
        *,
        reloadable: Reloadable | None = None,
        control_path: Path | None = None,
        flush_log: Callable[[], bool] = lambda: True,
        clock: Clock | None = None,
        notify: Notifier | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        check_specs(specs)
        self._settings, self._flush_log = settings, flush_log
        self._clock = clock = clock or SystemClock()
        self._log = log = log or logging.getLogger("shiftboss.supervisor")
        self._notify = notify or Notifier()
        self._timers = timers = Timers(clock)
        self._tree = tree = Tree(specs, settings.board_bytes, timers, clock, log)
        self._liveness = Liveness(tree, timers, settings, clock, log)
        self._quiet = Quiet(tree, log, lambda: self._status.changed())
        self._status = StatusLine(tree, timers, settings, clock, self._notify, self._quiet)
        self._shutdown = Shutdown(tree, timers, settings, clock, log, self._status, self._start)
        self._probing = Probing(tree, timers, settings, log, self._quiet, self._start, self._forgive)
        self._rolling = Rolling(tree, timers, clock, log, self._start)
        self._operations = Operations(lambda: self._service_ready and not self._shutdown.begun)
        self._reloading = Reloading(
            tree,
            timers,
            clock,
            log,
            self._rolling,
            self._operations,
            self._status,
            self._start,
            self._apply,
            reloadable,
        )
        self._replacing = Replacing(tree, timers, settings, log, self._rolling, self._operations, self._status.changed)
        self._dumping = Dumping(tree, timers, log)
        reporter = Reporter(tree, clock, self._status, self._reloading)
        self._doors = Doors(
            log, self._shutdown, self._quiet, self._reloading, self._replacing, self._dumping, reporter, self._stop
        )
        self._commands = CommandServer(control_path, tree.selector, timers, clock, log)
        self._histories = {spec.group: self._new_history() for spec in specs}
        self._service_ready = False

    def _new_history(self) -> GroupHistory:
        return GroupHistory(RestartBudget(self._settings.max_restarts, self._settings.restart_period_s))

    @property
    def board_fd(self) -> int:
        """Of the shared memory that all children write to."""
        return self._tree.board_fd

    def run(self) -> int:
        """Start everything, keep it running, stop it. Call it once, from the main thread.

        Returns:
            The exit code: 0 after a stop that was asked for, 70 when it gave up, 130 after a third SIGINT,
            64, 75 or 78 when a critical child ended with it before the service was ready. What else goes wrong in
            here is raised, once all processes are gone and whoever waits for the end has been told.
        """
        started_s = self._clock.monotonic_s()
        with SignalQueue() as signals:
            try:
                self._begin(signals)
                while not self._shutdown.finished:
                    self._turn(signals)
            finally:
                self._tree.end_all()
                orphans.kill_remaining(_ORPHANS_S, self._clock, self._log)
                exit_code = (self._shutdown.exit_code or 0) if self._shutdown.finished else _BROKEN
                for asker in self._doors.waiting_for_the_end:
                    asker.done(exit_code == 0, f"stopped, exit code {exit_code}")
                self._commands.close(_LAST_WORDS_S)
                self._tree.close()
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
        orphans.name_process("shiftboss")
        orphans.adopt_orphans()
        self._tree.selector.register(signals, selectors.EVENT_READ, None)
        emit(self._log, logging.INFO, Event.SERVICE_STARTING, "starting", actors=len(self._tree.children))
        self._warn_of_wrapper()
        self._commands.open()
        self._status.begin()
        self._start_next()

    def _warn_of_wrapper(self) -> None:
        wrapper = self._notify.wrapper_pid
        if wrapper is not None:
            message = (
                f"systemd has started process {wrapper}, which started this one: it will refuse to hear from us that the service "
                "is ready, and end it at TimeoutStartSec. Name shiftboss in ExecStart=, or `exec` it in the wrapper"
            )
            emit(self._log, logging.WARNING, Event.SERVICE_WRAPPED, message, wrapper_pid=wrapper)

    # ---- one turn of the loop

    def _turn(self, signals: SignalQueue) -> None:
        due_s = self._timers.next_s()
        timeout_s = None if due_s is None else max(0.0, due_s - self._clock.monotonic_s())
        for key, mask in self._tree.selector.select(timeout_s):
            if isinstance(key.data, Child):
                self._serve(key.data, mask)
            elif key.data is None:
                for number in signals.read():
                    self._doors.signalled(number)
            else:
                for conversation, command in self._commands.serve(key.data, mask):
                    self._doors.asked(command, conversation)
        for child in self._tree.ended():
            self._receive(child)  # its last words, before it is buried
            self._ended(child, self._tree.reap(child))
        if due_s is not None and self._clock.monotonic_s() - due_s > _LATE_S:
            self._liveness.forgive()
        self._timers.run_due()
        if not self._flush_log():
            self._timers.set("", "log", _FLUSH_LOG_S, lambda: None)  # a turn that tries again

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
                self._hear_of_operation(child, message)

    def _hear_of_operation(
        self,
        child: Child,
        message: control.PeerReleased | control.Drained | control.Tired | control.Dumped | control.Checked,
    ) -> None:
        match message:
            case control.PeerReleased():
                self._rolling.released(child, message)
            case control.Drained(seq=seq):
                self._quiet.heard_drained(child, seq)
            case control.Tired(reason=reason):
                self._replacing.tired(child, reason)
            case control.Dumped():
                self._dumping.heard(child)
            case control.Checked():
                self._reloading.heard(child, message)
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
            self._operations.proceed()

    def _start(self, child: Child) -> None:
        failed = self._tree.spawn(child)
        if failed is not None:
            self._ended(child, failed)
            return
        self._liveness.started(child)
        self._quiet.introduced(child)
        self._rolling.introduced(child)

    def _ready(self, child: Child) -> None:
        if child.ready_s is not None:
            return
        child.become_ready(self._clock.monotonic_s())
        took_s = round(child.ready_s - child.started_s, 3) if child.ready_s is not None else 0.0
        fields = {"actor": child.name, "incarnation": child.incarnation, "duration_s": took_s}
        emit(self._log, logging.INFO, Event.ACTOR_READY, f"{child.name} is ready", **fields)
        self._liveness.ready(child)
        self._status.changed()
        if self._shutdown.begun:
            return
        if not self._reloading.owns(child):
            self._histories[child.spec.group] = self._histories[child.spec.group].record_ready()
        self._probing.ready(child)
        self._rolling.ready(child)
        self._reloading.ready(child)
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
        child.last_end = how_it_ended(message)
        self._dumping.ended(child)
        if not child.planned:
            child.streak += 1
            child.restarts += 1
        if self._shutdown.begun:
            self._shutdown.after_end(child, ended)
        elif self._reloading.owns(child):
            self._reloading.check_ended(child, child.last_end)
        elif self._rolling.owns(child):
            self._rolling.ended(child, child.last_end)
        else:
            self._decide(child, ended, now_s)
            if not ended.was_ready and not ended.planned:
                self._reloading.boot_failed(child, child.last_end)
        self._status.changed()

    def _decide(self, child: Child, ended: plan.Ended, now_s: float) -> None:
        if self._probing.covers(child) and not ended.planned:
            child.move(ChildEvent.DELAY)  # it waits for its turn to be probed
            return
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
            case plan.Pause(restarts):
                child.move(ChildEvent.DELAY)
                self._probing.pause(child, restarts)
            case plan.GiveUp(exit_code, why):
                child.move(ChildEvent.DELAY)
                emit(self._log, logging.CRITICAL, Event.SUPERVISOR_INTENSITY_EXCEEDED, f"giving up: {why}", actor=child.name)
                self._take_down(exit_code, why, drain=False)
            case _:
                assert_never(action)

    def _schedule(self, child: Child, delay_s: float) -> None:
        child.move(ChildEvent.DELAY)
        fields = {"actor": child.name, "delay_s": round(delay_s, 3)}
        emit(self._log, logging.INFO, Event.ACTOR_RESTART_SCHEDULED, f"{child.name} restarts in {delay_s:.1f} s", **fields)
        self._timers.set(child.name, "restart", delay_s, lambda: self._start(child))

    def _forgive(self, group: str) -> None:
        """The group has shown that it can run again."""
        self._histories[group] = replace(self._new_history(), ever_ready=True)

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

    # ---- what operations lead to

    def _stop(self, why: str, drain: bool) -> None:
        self._take_down(0, why, drain=drain)

    def _take_down(self, exit_code: int, why: str, *, drain: bool) -> None:
        self._operations.abort("the service is stopping")
        self._replacing.abort("the service is stopping")
        self._probing.abort()
        self._quiet.stop()
        self._reloading.abort()
        self._shutdown.begin(exit_code, why, drain=drain)

    def _apply(self, blueprint: Blueprint) -> None:
        """A reload has succeeded: its settings of the supervision apply from now on."""
        self._settings = settings = blueprint.supervisor
        for part in (self._liveness, self._status, self._shutdown, self._probing, self._replacing):
            part.settings = settings
        for group, history in self._histories.items():
            budget = replace(history.budget, intensity=settings.max_restarts, period_s=settings.restart_period_s)
            self._histories[group] = replace(history, budget=budget)
        self._probing.resume("reload")  # the code that kept crashing is gone


def _is_settled(child: Child) -> bool:
    """Nothing has to wait for it at start."""
    return child.ready or child.state is ChildState.ENDED or not child.spec.critical
