"""A reload: a throw-away child checks the new configuration and code, successors start, and only then anything changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from shiftboss import control
from shiftboss.clock import Clock
from shiftboss.errors import ConfigError
from shiftboss.events import Event, emit
from shiftboss.supervisor.child import Child
from shiftboss.supervisor.operations import Asker, Operation, Operations
from shiftboss.supervisor.rolling import Rolling
from shiftboss.supervisor.spec import Blueprint, ChildSpec
from shiftboss.supervisor.states import ChildState
from shiftboss.supervisor.status import StatusLine
from shiftboss.supervisor.timers import Timers
from shiftboss.supervisor.tree import Tree

_LINGER_S: Final = 2.0  # how long the check may take to end once it has said what it found


class Reloadable(msgspec.Struct, frozen=True):
    """How a service finds out what a reload leads to.

    Attributes:
        settings: those of the start, opaque here.
        check: the throw-away child; answers `control.Checked`.
        applied: told the settings that apply from now on.
        understand: (present settings, those of the check) -> what is to be done; raises `ConfigError` when a restart is needed.
    """

    settings: bytes
    check: ChildSpec
    understand: Callable[[bytes, bytes], Blueprint]
    applied: Callable[[bytes], None]


class LastReload(msgspec.Struct, frozen=True):
    """How the last one ended. `at`: Unix seconds."""

    ok: bool
    text: str
    at: float


class Reloading:
    """One reload at a time, all or nothing.

    Args:
        apply: takes over what a blueprint says beside its children.

    Attributes:
        last: how the last one ended.
    """

    def __init__(
        self,
        tree: Tree,
        timers: Timers,
        clock: Clock,
        log: logging.Logger,
        rolling: Rolling,
        operations: Operations,
        status: StatusLine,
        start: Callable[[Child], None],
        apply: Callable[[Blueprint], None],
        reloadable: Reloadable | None,
    ) -> None:
        self._tree, self._timers, self._clock, self._log = tree, timers, clock, log
        self._rolling, self._operations, self._status = rolling, operations, status
        self._start, self._apply, self._reloadable = start, apply, reloadable
        self._settings = reloadable.settings if reloadable is not None else b""
        self._check: Child | None = None
        self._heard: control.Checked | None = None
        self._awaited: dict[str, int] = {}  # who is replaced, and the incarnation that was told to leave
        self._trouble: list[str] = []
        self._blueprint: Blueprint | None = None
        self._began_s = 0.0
        self.last: LastReload | None = None

    def ask(self, reason: str, asker: Asker) -> None:
        """Reload as soon as nothing else is under way; those who ask before it begins share one."""
        self._operations.ask(Operation(lambda: self._begin(reason), "reload", [asker]))

    def _begin(self, reason: str) -> None:
        self._began_s, self._heard = self._clock.monotonic_s(), None
        emit(self._log, logging.INFO, Event.SERVICE_RELOAD_STARTED, f"reloading: {reason}", reason=reason)
        self._status.reloading()
        if self._reloadable is None:
            self._fail("this service was started without a configuration that could be read again")
            return
        self._operations.progress("checking the configuration and the code")
        self._check = self._tree.add(self._reloadable.check, held_back=True)
        self._start(self._check)

    # ---- the check

    def owns(self, child: Child) -> bool:
        return child is self._check

    def heard(self, child: Child, checked: control.Checked) -> None:
        """The check says what it has found."""
        if not self.owns(child) or self._heard is not None:
            return
        self._heard = checked
        self._timers.cancel(child.name, "start")
        self._timers.set(child.name, "linger", _LINGER_S, lambda: self._end_check(child))

    def _end_check(self, child: Child) -> None:
        child.planned = True
        self._tree.kill(child, "its work is done")

    def check_ended(self, child: Child, how: str) -> None:
        """The check's process is gone, so what it has said is all there is."""
        self._check = None
        self._tree.end_for_good(child)
        self._tree.remove(child)
        heard, self._heard = self._heard, None
        if heard is None:
            limit = (
                f" (not done within start_timeout, {child.spec.start_timeout_s:g} s)" if child.reason == "start_timeout" else ""
            )
            self._fail(f"the check of the new configuration ended {how}{limit}; see its own last log lines")
        elif heard.error:
            self._fail(heard.error)
        else:
            self._launch(heard.settings)

    # ---- successors

    def _launch(self, settings: bytes) -> None:
        assert self._reloadable is not None
        try:
            self._blueprint = self._reloadable.understand(self._settings, settings)
        except ConfigError as error:
            self._fail(str(error))
            return
        specs = [spec for spec in self._blueprint.specs if spec.rolling]
        self._operations.progress(f"starting {len(specs)} new executors beside the old ones")
        self._rolling.launch(specs, self._launched)

    def _launched(self, successors: Sequence[Child], why: str | None) -> None:
        if why is not None or self._blueprint is None:
            self._fail(why or "", code=1)
            return
        olds = [child for child in self._tree.rolling if child not in successors]
        self._rolling.put_into_service(successors)
        assert self._reloadable is not None
        self._settings = self._blueprint.settings
        self._reloadable.applied(self._settings)
        self._tell_the_others(self._blueprint)
        for old in olds:
            self._rolling.retire(old, "reload", self._blueprint.supervisor)
        self._apply(self._blueprint)  # may start what waits: by now the new ones only
        self._finish_if_settled()

    def _tell_the_others(self, blueprint: Blueprint) -> None:
        """New settings to those that take them while they run; the others leave and are started again with them."""
        self._awaited, self._trouble = {}, []
        for spec in blueprint.specs:
            child = self._tree.children.get(spec.name)
            if spec.rolling or child is None:
                continue
            self._tree.set_spec(child, spec)
            if spec.name not in blueprint.replace:
                self._tree.tell(child, control.Reload(settings=blueprint.settings))
            elif child.running and child.state is not ChildState.KILLING:
                self._replace(child)

    def _replace(self, child: Child) -> None:
        emit(self._log, logging.INFO, Event.ACTOR_REPLACED, actor=child.name, reason="reload")
        self._awaited[child.name] = child.incarnation
        child.planned = True
        self._tree.tell(child, control.Leave())
        self._timers.set(child.name, "leave", child.spec.shutdown_s, lambda: self._tree.kill(child, "reload"))

    def ready(self, child: Child) -> None:
        """A child is ready, perhaps the successor of one that was replaced."""
        if self._awaited.get(child.name, child.incarnation) != child.incarnation:
            del self._awaited[child.name]
            self._finish_if_settled()

    def boot_failed(self, child: Child, how: str) -> None:
        """A child has ended before it was ready, perhaps one that was replaced."""
        if child.name in self._awaited:
            del self._awaited[child.name]
            self._trouble.append(f"{child.name} ended {how} before it was ready with its new settings, and is tried again")
            self._finish_if_settled()

    # ---- the end

    def _finish_if_settled(self) -> None:
        if self._awaited or self._blueprint is None:
            return
        blueprint, self._blueprint = self._blueprint, None
        if self._trouble:
            self._conclude(False, "; ".join([*self._trouble, "all else works by the new configuration"]), code=None)
            return
        changes = list(blueprint.changes)
        text = "; ".join(changes) if changes else "no setting changed; the code was loaded anew"
        duration_s = round(self._clock.monotonic_s() - self._began_s, 3)
        emit(self._log, logging.INFO, Event.SERVICE_RELOAD_FINISHED, f"reloaded: {text}", changes=changes, duration_s=duration_s)
        self._end(True, text, None)

    def _fail(self, why: str, code: int | None = control.EXIT_CONFIG) -> None:
        self._conclude(False, f"nothing was changed: {why}", code)

    def _conclude(self, ok: bool, text: str, code: int | None) -> None:
        duration_s = round(self._clock.monotonic_s() - self._began_s, 3)
        emit(self._log, logging.ERROR, Event.SERVICE_RELOAD_FAILED, f"reload failed: {text}", reason=text, duration_s=duration_s)
        self._end(ok, text, code)

    def _end(self, ok: bool, text: str, code: int | None) -> None:
        self._blueprint = None
        self.last = LastReload(ok, text, time.time())
        self._status.reloaded()
        self._operations.finish(ok, text, code=code)

    def abort(self) -> None:
        """The service stops: the check has nothing left to find out."""
        if self._check is not None and self._check.running:
            self._tree.kill(self._check, "stop")
        self._awaited.clear()
        self._blueprint = None
