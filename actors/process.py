"""The start and the end of a child process: `python -m shiftboss.actors.process ROLE [ARGUMENT…]`.

The main thread reads the control link and passes everything on to the actor; its end (the parent is gone) ends this
process at once. The actor's own end becomes the exit code.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import logging
import os
import queue
import signal
import socket
import sys
import threading
from typing import Any, Final, NoReturn

import pykka

import shiftboss.msgspec_import  # noqa: F401  first of ours: see there
from shiftboss import control
from shiftboss.actors.board import Board
from shiftboss.actors.layout import LISTEN_FD_VARIABLE, SETTINGS_VARIABLE
from shiftboss.actors.messages import Died, Linked
from shiftboss.actors.stacks import all_stacks
from shiftboss.config import SOURCE_VARIABLE, Settings, settings_from_json
from shiftboss.events import Event, emit
from shiftboss.logs import bind_worker, close_logging, configure_logging

EXIT_BUG: Final = 1
# The one that the kernel does not kill with the supervisor: it runs no code of users, and is never stuck in any of theirs.
UNDERTAKER: Final = "heartbeat"
_WITH_USER_CODE: Final = frozenset({"executor", "check"})
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_SS_DISABLE: Final = 2
_ROLES: Final = {
    "claimer": "shiftboss.actors.claimer:Claimer",
    "executor": "shiftboss.actors.executor:Executor",
    "heartbeat": "shiftboss.actors.heartbeat:Heartbeat",
    "leader": "shiftboss.actors.leader:Leader",
    "gateway": "shiftboss.actors.gateway:Gateway",
    "check": "shiftboss.actors.check:Check",
}
# systemctl kill and Ctrl-C signal every process of the service; only the supervisor is meant.
_NOT_FOR_CHILDREN: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR2,
)

log = logging.getLogger("shiftboss.actor")


class Process:
    """What an actor knows of the process it lives in: its name, settings, board, table, and a line to its parent."""

    def __init__(self, role: str, arguments: list[str]) -> None:
        self.role, self.arguments = role, arguments
        self.name = os.environ.pop(control.CHILD_NAME_VARIABLE)
        self.incarnation = int(os.environ.pop(control.INCARNATION_VARIABLE))
        self.parent_pid = int(os.environ.pop(control.PARENT_PID_VARIABLE))
        self.settings: Settings = settings_from_json(control.read_secret(SETTINGS_VARIABLE))
        self.source = control.read_secret(SOURCE_VARIABLE).decode() if SOURCE_VARIABLE in os.environ else ""
        self.listen_fd = _inherited_fd(LISTEN_FD_VARIABLE) if LISTEN_FD_VARIABLE in os.environ else None
        self._control = socket.socket(fileno=_inherited_fd(control.CONTROL_FD_VARIABLE))
        self.board = Board(_inherited_fd(control.BOARD_FD_VARIABLE))
        table_fd = os.environ.pop(control.TABLE_FD_VARIABLE, "")
        self.table_fd = int(table_fd) if table_fd else None
        self._sending = threading.Lock()
        self._line = _identity(self._control.fileno())

    def end_without_line(self) -> None:
        """End when user code has closed the line to the parent (`os.closerange`, a daemon's start): nobody hears us any more,
        and a read that was under way keeps the socket open, so that nobody else would ever notice.
        """
        try:
            if _identity(self._control.fileno()) == self._line:
                return
        except OSError:
            pass
        log.critical("%s: user code has closed the descriptors of this process: nothing it says can be heard", self.name)
        self.end(EXIT_BUG)

    def tell_parent(self, message: control.ToParent) -> None:
        with self._sending:
            try:
                control.send(self._control, message)
            except OSError:
                self._parent_is_gone()

    def run(self, ref: pykka.ActorRef[Any]) -> NoReturn:
        """Pass on what the parent says until it is gone. Only `end` leaves this in another way."""
        while True:
            message, fds = control.receive_in_child(self._control)
            match message:
                case None:
                    self._parent_is_gone()
                case control.Link():
                    ref.tell(Linked(message, fds[0], fds[1] if len(fds) > 1 else None))
                case control.PeerDied():
                    ref.tell(Died(message, fds[0] if fds else None))
                case _:
                    ref.tell(message)

    def _parent_is_gone(self) -> NoReturn:
        """What it had started goes, too. The others are killed by the kernel at this moment, and what user code has started
        in their groups is not: one of us stays to see to that."""
        own = os.getpid()
        for group in self.board.process_groups() if self.role == UNDERTAKER else ():
            if group != own:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)
        os._exit(0)

    def end_if_ours(self, failed: threading.ExceptHookArgs) -> None:
        """A helper thread of ours that dies takes the process with it; a thread of user code only logs."""
        thread = failed.thread.name if failed.thread is not None else ""
        if failed.exc_value is None:
            return
        log.critical("unhandled error in thread %s", thread, exc_info=failed.exc_value)
        if thread.startswith("shiftboss-"):
            self.end(EXIT_BUG)

    def end(self, code: int) -> NoReturn:
        """End this process with `code`, whatever threads user code has left behind."""
        with contextlib.suppress(OSError, ValueError):  # user code may have closed what they write to
            close_logging()
            sys.stdout.flush()
        os._exit(code)


class Actor(pykka.ThreadingActor):
    """One that ends with its process. Its inbox is the queue in C, since somebody's task waits for each of a few messages."""

    use_daemon_thread = True

    @staticmethod
    def _create_actor_inbox() -> queue.SimpleQueue[Any]:  # pykka's way to choose one
        return queue.SimpleQueue()


class ProcessActor(Actor):
    """The main actor of a process. Subclasses implement `receive`; an exception there ends the process (let it crash)."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process = process
        self.settings = process.settings

    def on_start(self) -> None:
        try:
            self.begin()
        except BaseException:  # noqa: BLE001  sys.exit() in user code too: pykka would leave an empty process behind
            self.on_failure(*sys.exc_info())

    def begin(self) -> None:
        """Start to work, in the actor's own thread; an exception ends the process."""

    def on_receive(self, message: Any) -> None:
        """What every role does in the same way; the rest is for `receive`."""
        match message:
            case control.Ping():
                self.process.tell_parent(control.Pong(seq=message.seq))
            case control.Dump():
                self.dump()
                emit(log, logging.INFO, Event.ACTOR_STACKS, "", all_stacks(), actor=self.process.name)
                self.process.tell_parent(control.Dumped())
            case control.Reload():
                self._reload(settings_from_json(message.settings))
            case control.Leave():
                self.leave()
            case _:
                self.receive(message)

    def receive(self, message: Any) -> None:
        """Handle one message.

        Raises:
            NotImplementedError: a subclass forgot it.
            TypeError: it is not for this actor.
        """
        raise NotImplementedError

    def dump(self) -> None:
        """Log what this actor is about, for `Dump`; the stacks follow."""

    def leave(self) -> None:
        """End with 0, between two pieces of work: a successor takes over."""
        self.process.end(0)

    def _reload(self, settings: Settings) -> None:
        old, self.settings = self.settings, settings
        configure_logging(settings.log_format, settings.log_level, actor=self.process.name, background=True)
        self.reloaded(old)
        emit(log, logging.DEBUG, Event.ACTOR_RELOADED, actor=self.process.name)

    def reloaded(self, old: Settings) -> None:
        """`self.settings` are new: take over whatever was made of the `old` ones."""

    def ready(self) -> None:
        """Tell the parent that this actor does its work."""
        self.process.tell_parent(control.Ready())

    def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
        log.critical("%s: unhandled error", self.process.name, exc_info=(exception_type, exception_value, traceback))
        self.process.end(EXIT_BUG)


def _identity(fd: int) -> tuple[int, int]:
    """What makes this open file this one, whatever stands under its number later."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _inherited_fd(variable: str) -> int:
    fd = int(os.environ.pop(variable))
    os.set_inheritable(fd, False)  # the grandchildren of user code must not keep our links open
    return fd


def _die_with(parent_pid: int, role: str) -> None:
    """End with the parent even while stuck in C; the pid is compared because it may have died before the call."""
    if role != UNDERTAKER:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(0)


def _name_process(name: str) -> None:
    """For `top` and the journal's `_COMM`, which know 15 bytes of it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def _set_signals() -> None:
    """Python handlers that do nothing, not SIG_IGN: exec gives the subprocesses of user code the default back."""
    for number in _NOT_FOR_CHILDREN:
        signal.signal(number, lambda _number, _frame: None)
    faulthandler.enable()
    # Not faulthandler.register: it walks the stacks of running threads without the GIL, and sometimes crashes on them.
    signal.signal(signal.SIGUSR1, lambda _number, _frame: faulthandler.dump_traceback(all_threads=True))
    _leave_signal_stack()
    # The parent starts us with these blocked: one that came while Python was starting is kept, and now does nothing.
    # Unblocked altogether, because the mask is inherited: a handler's subprocess could not be terminated.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class _SignalStack(ctypes.Structure):
    _fields_ = [("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def _leave_signal_stack() -> None:
    """Take the main thread off the small signal stack that faulthandler gave it.

    Python's handlers run there too, and a few signals at once overflow it: the process would die of SIGSEGV.
    """
    ctypes.CDLL(None, use_errno=True).sigaltstack(ctypes.byref(_SignalStack(None, _SS_DISABLE, 0)), None)


def main(arguments: list[str]) -> NoReturn:
    """Become the actor that `arguments[0]` names; the rest are its own."""
    role, *rest = arguments
    _die_with(int(os.environ[control.PARENT_PID_VARIABLE]), role)
    _set_signals()
    process = Process(role, rest)
    _name_process(process.name)
    configure_logging(process.settings.log_format, process.settings.log_level, actor=process.name, background=True)
    if role not in _WITH_USER_CODE:
        # What the driver ignores because another error is on its way: we say that one.
        logging.getLogger("psycopg").addFilter(lambda record: not str(record.msg).startswith("error ignored "))
    bind_worker(lambda: process.board.worker_id)
    threading.excepthook = process.end_if_ours
    module, _, name = _ROLES[role].partition(":")
    actor_class: type[ProcessActor] = getattr(importlib.import_module(module), name)
    process.run(actor_class.start(process))


if __name__ == "__main__":
    main(sys.argv[1:])
