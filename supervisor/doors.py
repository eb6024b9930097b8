"""Signals and commands: two doors to the same operations."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from typing import Final, assert_never

from shiftboss import commands
from shiftboss.events import Event, emit
from shiftboss.supervisor.dumping import Dumping
from shiftboss.supervisor.operations import Asker, Nobody
from shiftboss.supervisor.quiet import OPERATOR, Quiet
from shiftboss.supervisor.reloading import Reloading
from shiftboss.supervisor.replacing import Replacing
from shiftboss.supervisor.report import Reporter
from shiftboss.supervisor.shutdown import Shutdown

_STOPPING: Final = "the service is stopping"


class Doors:
    """Turns what comes in into operations.

    Args:
        stop: begins the stop of the service, with the reason and whether running work may finish.
    """

    def __init__(
        self,
        log: logging.Logger,
        shutdown: Shutdown,
        quiet: Quiet,
        reloading: Reloading,
        replacing: Replacing,
        dumping: Dumping,
        reporter: Reporter,
        stop: Callable[[str, bool], None],
    ) -> None:
        self._log, self._shutdown, self._quiet = log, shutdown, quiet
        self._reloading, self._replacing, self._dumping, self._reporter = reloading, replacing, dumping, reporter
        self._stop = stop
        self._interrupts = 0
        self._repeated_term = False
        self.waiting_for_the_end: list[Asker] = []

    # ---- signals

    def signalled(self, number: signal.Signals) -> None:
        """Obey a signal."""
        if number in (signal.SIGCHLD, signal.SIGPIPE):
            return  # each turn reaps; a write to a closed pipe is an error of its own
        emit(self._log, logging.INFO, Event.SIGNAL_RECEIVED, f"received {number.name}", signal=number.name)
        match number:
            case signal.SIGTERM:
                self._on_term()
            case signal.SIGINT:
                self._on_int()
            case signal.SIGQUIT:
                self._stop_now(number.name)
            case signal.SIGUSR1:
                self._dumping.begin(Nobody())
            case _ if self._shutdown.begun:
                self._ignore(number, "the service is stopping already")
            case _:
                self._change(number)

    def _change(self, number: signal.Signals) -> None:
        match number:
            case signal.SIGHUP:
                self._reloading.ask(number.name, Nobody())
            case signal.SIGTSTP:
                self._quiet.want(OPERATOR, f"drained by {number.name}")
            case signal.SIGUSR2:
                self._replacing.restart(Nobody())
            case signal.SIGTTIN:
                self._replacing.scale_by(1)
            case signal.SIGTTOU:
                self._replacing.scale_by(-1)
            case _:
                self._ignore(number, "it means nothing here")

    def _ignore(self, number: signal.Signals, why: str) -> None:
        emit(self._log, logging.WARNING, Event.SIGNAL_IGNORED, f"{number.name} ignored: {why}", signal=number.name)

    def _on_term(self) -> None:
        if not self._shutdown.begun:
            self._stop("SIGTERM", True)
        elif not self._repeated_term:
            self._repeated_term = True
            message = "already stopping, a further SIGTERM changes nothing: SIGQUIT stops without waiting for running work"
            emit(self._log, logging.INFO, Event.SIGNAL_IGNORED, message, signal="SIGTERM")

    def _on_int(self) -> None:
        self._interrupts += 1
        if self._interrupts == 1 and not self._shutdown.begun:
            self._stop("SIGINT", True)
        elif self._interrupts == 2:
            self._stop_now("second SIGINT")
        elif self._interrupts >= 3:
            self._shutdown.kill_all()

    def _stop_now(self, why: str) -> None:
        if self._shutdown.begun:
            self._shutdown.hurry()
        else:
            self._stop(why, False)

    # ---- commands

    def asked(self, command: commands.AnyCommand, asker: Asker) -> None:
        """Obey a command; `asker` is told of its effect, now or later."""
        match command:
            case commands.Status():
                asker.done(True, self._reporter.status().phase, data=self._reporter.status())
            case commands.Dump():
                self._dumping.begin(asker)
            case commands.Stop(now=now):
                self._stop_for(asker, now)
            case _ if self._shutdown.begun:
                asker.done(False, _STOPPING)
            case commands.Drain(wait=wait):
                self._drain(asker, wait)
            case commands.Resume():
                self._resume(asker)
            case commands.Reload():
                self._reloading.ask("command", asker)
            case commands.Restart():
                self._replacing.restart(asker)
            case commands.Scale(executors=executors):
                self._replacing.scale(executors, asker)
            case _:
                assert_never(command)

    def _stop_for(self, asker: Asker, now: bool) -> None:
        self.waiting_for_the_end.append(asker)
        if now:
            self._stop_now("command")
        elif not self._shutdown.begun:
            self._stop("command", True)

    def _drain(self, asker: Asker, wait: bool) -> None:
        self._quiet.want(OPERATOR, "drained by a command")
        if wait:
            asker.progress("claiming nothing more; waiting for what runs")
            self._quiet.when_drained(asker)
        else:
            asker.done(True, "claiming nothing more")

    def _resume(self, asker: Asker) -> None:
        if not self._quiet.wanted_by(OPERATOR):
            asker.done(True, f"not resumed: {self._quiet.why}" if self._quiet else "was not drained: claiming goes on")
            return
        self._quiet.release(OPERATOR, "command")
        asker.done(True, f"still claiming nothing: {self._quiet.why}" if self._quiet else "claiming again")
