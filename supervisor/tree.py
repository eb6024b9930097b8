"""The children as processes: start, tell, link, kill, reap. Mechanism only; what to do about an end is decided elsewhere."""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import selectors
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count

from shiftboss import control
from shiftboss.clock import Clock
from shiftboss.events import Event, emit
from shiftboss.supervisor import orphans
from shiftboss.supervisor.child import Child, Exit, Process, memory_file, spawn
from shiftboss.supervisor.links import Obituaries, peers_of
from shiftboss.supervisor.spec import ChildSpec, start_groups
from shiftboss.supervisor.states import ChildEvent, ChildState
from shiftboss.supervisor.timers import Timers

ABORT_S = 2.0  # between the dump of a child that hangs and its SIGKILL
LINK_AGAIN_S = 0.5  # after there was no descriptor for a link
LINK_FDS = 6  # of ours, when neither side reads at once: both ends, and copies of them and of two tables


class Tree:
    """All children by name and in start order, the selector that watches them, and what they share."""

    def __init__(self, specs: Sequence[ChildSpec], board_bytes: int, timers: Timers, clock: Clock, log: logging.Logger) -> None:
        self.children = {spec.name: Child(spec) for spec in specs}
        self._group_names = [group[0].group for group in start_groups(specs)]
        self.selector = selectors.DefaultSelector()
        self._incarnations: dict[str, int] = {}  # of children that have been removed
        self._peers = peers_of(specs)
        self._obituaries = Obituaries(self._tell_by_name)
        self.board_fd = memory_file("board", max(board_bytes, control.BOARD_BYTES))
        self._board = mmap.mmap(self.board_fd, control.BOARD_BYTES)
        self._by_pid: dict[int, Child] = {}
        self._timers, self._clock, self._log = timers, clock, log

    @property
    def running(self) -> list[Child]:
        return [child for child in self.children.values() if child.running]

    @property
    def groups(self) -> tuple[tuple[Child, ...], ...]:
        """All children in start order, group by group."""
        groups = (tuple(c for c in self.children.values() if c.spec.group == name) for name in self._group_names)
        return tuple(group for group in groups if group)

    @property
    def rolling(self) -> list[Child]:
        """The children of rolling groups that are wanted: neither on their way in nor on their way out."""
        return [c for c in self.children.values() if c.spec.rolling and not c.held_back and not c.retiring]

    def peers(self, child: Child) -> list[Child]:
        """Those with which it shares a link, or would if both ran."""
        return [self.children[name] for name in self._peers[child.name] if name in self.children]

    # ---- coming and going

    def add(self, spec: ChildSpec, *, held_back: bool = False) -> Child:
        """One more child, not started yet."""
        child = Child(spec, incarnation=self._incarnations.pop(spec.name, 0), held_back=held_back)
        self.children[spec.name] = child
        if spec.group not in self._group_names:
            self._group_names.append(spec.group)
        self._find_peers()
        return child

    def remove(self, child: Child) -> None:
        """Forget a child that has ended for good. Its name may be used again; its incarnations go on counting."""
        del self.children[child.name]
        self._incarnations[child.name] = child.incarnation
        self._find_peers()

    def free_name(self, group: str) -> str:
        """The first of `group-1`, `group-2`, … that no child has."""
        return next(name for number in count(1) if (name := f"{group}-{number}") not in self.children)

    def set_spec(self, child: Child, spec: ChildSpec) -> None:
        """From its next start on."""
        child.spec = spec
        self._find_peers()

    def _find_peers(self) -> None:
        self._peers = peers_of([child.spec for group in self.groups for child in group])

    # ---- start

    def spawn(self, child: Child) -> Exit | None:
        """Start the next incarnation, with the deaths it has to hear of and its links; an `Exit` when it could not be made."""
        child.incarnation += 1
        try:
            process = spawn(child.spec, child.incarnation, self.board_fd)
        except OSError as error:
            child.begin(None, self._clock.monotonic_s())
            child.reason = f"cannot run {child.spec.argv[0]}: {error}"
            return Exit(control.EXIT_OS_ERROR, None)
        child.begin(process, self._clock.monotonic_s())
        self._by_pid[process.pid] = child
        control.write_groups(self._board, list(self._by_pid))
        self.selector.register(process.control, selectors.EVENT_READ, child)
        self.selector.register(process.pidfd, selectors.EVENT_READ, child)
        emit(
            self._log, logging.INFO, Event.ACTOR_STARTING, actor=child.name, incarnation=child.incarnation, actor_pid=process.pid
        )
        if not child.held_back:
            self.introduce(child)
        return None

    def introduce(self, child: Child) -> None:
        """Tell it of the deaths it has to hear of, and link it with its peers."""
        child.held_back = False
        self._obituaries.repeat_to(child.name)
        for peer in self.peers(child):
            if peer.running and not peer.held_back:
                self._connect(child, peer)

    def _connect(self, one: Child, other: Child) -> None:
        """Link them; if no descriptors are left, as soon as there are some: half a link would be taken for the peer's end."""
        try:
            _make_sure_of(LINK_FDS)
        except OSError as error:
            message = f"{one.name} and {other.name} cannot be linked yet: {error}"
            emit(self._log, logging.WARNING, Event.ACTOR_UNLINKED, message, actor=one.name, peer=other.name, reason=str(error))
            again = partial(self._connect_again, one, other, other.incarnation)
            self._timers.set(one.name, f"link {other.name}", LINK_AGAIN_S, again)
            return
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with left, right:  # ours are closed at once: the end of either side must be EOF for the other
            self._tell_link(one, other, left)
            self._tell_link(other, one, right)

    def _connect_again(self, one: Child, other: Child, incarnation: int) -> None:
        """Unless one of them has ended meanwhile: its successor was introduced itself. (The timer is gone with `one`.)"""
        if one.running and other.running and other.incarnation == incarnation:
            self._connect(one, other)

    def _tell_link(self, child: Child, peer: Child, end: socket.socket) -> None:
        if child.process is None or peer.process is None:
            return
        table_fd = peer.process.table_fd
        link = control.Link(peer=peer.name, incarnation=peer.incarnation, has_table=table_fd is not None)
        self.tell(child, link, (end.fileno(),) if table_fd is None else (end.fileno(), table_fd))
        child.process.linked.add(peer.name)

    # ---- messages

    def tell(self, child: Child, message: control.ToChild, fds: tuple[int, ...] = ()) -> None:
        """Send, now or as soon as the child reads; nothing happens when it has no process."""
        if child.process is None:
            return
        try:
            child.process.tell(message, fds)
        except OSError as error:  # it does not read, and there is no descriptor left to keep this for it
            self.kill(child, f"could not be told of {type(message).__name__}: {error}")
        else:
            self._watch(child.process)

    def _tell_by_name(self, name: str, message: control.ToChild, fds: tuple[int, ...]) -> None:
        if name in self.children:
            self.tell(self.children[name], message, fds)

    def flush(self, child: Child) -> None:
        """The child reads again."""
        if child.process is not None:
            child.process.flush()
            self._watch(child.process)

    def _watch(self, process: Process) -> None:
        if process.control not in self.selector.get_map():
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if process.has_unsent else 0)
        key = self.selector.get_key(process.control)
        if key.events != wanted:
            self.selector.modify(process.control, wanted, key.data)

    def receive(self, child: Child) -> Iterator[control.ToParent]:
        """What the child has sent, until there is no more; a child that talks nonsense or hangs up is ended."""
        process = child.process
        while process is not None and process.control in self.selector.get_map():
            try:
                message, fds = control.receive_in_parent(process.control)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # told once, of an end with words of ours unread; its own last words are still there
            except (OSError, ValueError) as error:  # ValueError: not a message of ours
                self._hang_up(child, process, f"control link broken: {error}")
                return
            for fd in fds:
                os.close(fd)  # no message of a child carries any
            if message is None:
                self._hang_up(child, process, "closed its control link")
                return
            yield message

    def _hang_up(self, child: Child, process: Process, why: str) -> None:
        """A child without a control link is usually one that is just ending; one that is not cannot be led any more."""
        self.selector.unregister(process.control)
        self._timers.set(child.name, "hang_up", ABORT_S, lambda: self.kill(child, why))

    def bury(self, child: Child, buried: control.PeerBuried) -> None:
        self._obituaries.bury(child.name, buried)

    # ---- end

    def abort(self, child: Child, reason: str) -> None:
        """End a child that hangs: SIGABRT for the stacks of its threads, then SIGKILL to its group."""
        if child.process is None:
            return
        child.move(ChildEvent.KILL)
        child.reason = child.reason or reason
        child.process.dump_and_end()
        self._timers.set(child.name, "abort", ABORT_S, lambda: self.kill(child, reason))

    def kill(self, child: Child, reason: str) -> None:
        """SIGKILL to the child's process group."""
        if child.process is None:
            return
        child.move(ChildEvent.KILL)
        child.reason = child.reason or reason
        fields = {"actor": child.name, "incarnation": child.incarnation, "reason": child.reason}
        emit(self._log, logging.WARNING, Event.ACTOR_KILLED, f"killing {child.name}: {child.reason}", **fields)
        child.process.kill_group()

    def ended(self) -> Iterator[Child]:
        """The children whose process has ended and is still to be reaped; adopted orphans are reaped on the way."""
        while (pid := orphans.next_ended()) is not None:
            child = self._by_pid.get(pid)
            if child is None:
                orphans.reap(pid, self._log)
            else:
                yield child  # the caller calls `reap`, or would get it again

    def reap(self, child: Child) -> Exit:
        """Take leave of a process that has ended. The child's record still describes it; its peers have not been told."""
        process = child.process
        if process is None:
            raise RuntimeError(f"{child.name} has no process to reap; please report this")
        for watched in (process.control, process.pidfd):
            if watched in self.selector.get_map():
                self.selector.unregister(watched)
        exit_ = process.reap()
        del self._by_pid[process.pid]
        control.write_groups(self._board, list(self._by_pid))
        self._timers.cancel_all(child.name)
        return exit_

    def announce_death(self, child: Child, message: control.PeerDied) -> None:
        """Tell the peers that shared a socket with the ended incarnation, and let go of its process."""
        if child.process is None:
            return
        process, child.process = child.process, None
        if child.down_since_s is None:
            child.down_since_s = self._clock.monotonic_s()
        running = {other.name for other in self.running} - {child.name}
        mourners = {
            name for name in process.linked if name in self.children and self.children[name].state is not ChildState.ENDED
        }
        self._obituaries.announce(message, process.table_fd, mourners, running)
        process.close()

    def end_for_good(self, child: Child) -> None:
        """The child has no process and will not run again."""
        child.move(ChildEvent.END)
        self._timers.cancel_all(child.name)
        self._obituaries.forget(child.name)

    def end_all(self) -> None:
        """Kill whatever still runs; for the end, also the unforeseen."""
        for child in self.children.values():
            if child.process is not None:
                child.process.kill_group()
                if child.process.table_fd is not None:
                    os.close(child.process.table_fd)
                child.process.close()
                child.process = None

    def close(self) -> None:
        """Give back every descriptor."""
        self._obituaries.close()
        self.selector.close()
        self._board.close()
        os.close(self.board_fd)


def _make_sure_of(count: int) -> None:
    """Raises `OSError` when so many descriptors cannot be opened now."""
    with contextlib.ExitStack() as opened:
        for _ in range(count):
            opened.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
