"""A child for the supervisor's tests: speaks the control protocol, misbehaves as its arguments say, tells what it hears.

Every line on stderr is one JSON object. Only the standard library and shiftboss.control.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib.util
import json
import mmap
import os
import select
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shiftboss import control
else:  # by its path: hundreds of these children start in the tests, and the package's own imports are not their business
    spec = importlib.util.spec_from_file_location("control", Path(__file__).parents[2] / "shiftboss" / "control.py")
    control = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(control)

NAME = os.environ[control.CHILD_NAME_VARIABLE]
INCARNATION = int(os.environ[control.INCARNATION_VARIABLE])
PARENT = socket.socket(fileno=int(os.environ[control.CONTROL_FD_VARIABLE]))
FOR_EVER = 3600.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--boot", default="ok")  # ok, hang, exit:CODE
    parser.add_argument(
        "--boot-until", type=int, default=10**9
    )  # incarnations up to this one boot as --boot says, later ones well
    parser.add_argument("--boot-from", type=int, default=1)
    parser.add_argument("--ready-after", type=float, default=0.0)
    parser.add_argument("--stop", default="obey")  # obey, ignore, drain:SECONDS (cut off by a Stop with less), crash-first
    parser.add_argument("--mute", action="store_true")  # answers no ping
    parser.add_argument("--hang-up", action="store_true")  # closes its control link when ready, and lives on
    parser.add_argument("--nonsense", action="store_true")  # sends what is no message
    parser.add_argument("--end", type=int)  # ends with this code as soon as it is ready
    parser.add_argument("--grandchild", choices=["group", "escaped"])
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--bury-from", type=int, default=1)  # incarnations from this one answer PeerBuried
    parser.add_argument("--replace")  # ask for the replacement of this peer's first incarnation
    parser.add_argument("--meddle")  # the same, at once and without a link
    parser.add_argument("--facts", action="store_true")
    return parser.parse_args()


def say(what: str, **fields: object) -> None:
    line = json.dumps({"child": NAME, "incarnation": INCARNATION, "said": what, **fields}) + "\n"
    os.write(2, line.encode())


def wait(seconds: float) -> None:
    select.select([], [], [], seconds)


def facts() -> None:
    say(
        "facts",
        blocked=sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        ignored=[n for n in signal.valid_signals() if n not in (9, 19) and signal.getsignal(n) == signal.SIG_IGN],
        fds=sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")),
        own_fds=[int(os.environ[v]) for v in (control.CONTROL_FD_VARIABLE, control.BOARD_FD_VARIABLE)],
        leader=os.getpid() == os.getpgrp() == os.getsid(0),
        parent=int(os.environ[control.PARENT_PID_VARIABLE]) == os.getppid(),
        environment=sorted(os.environ),
    )


def boot(options: argparse.Namespace) -> None:
    if options.grandchild:
        import subprocess  # by few only, and it takes its time

        grandchild = subprocess.Popen(
            ["sleep", "3600"], start_new_session=options.grandchild == "escaped", stderr=subprocess.DEVNULL
        )
        say("grandchild", pid=grandchild.pid)
    if options.table:
        with mmap.mmap(int(os.environ[control.TABLE_FD_VARIABLE]), 0) as table:
            text = f"{NAME} {INCARNATION}".encode()
            table[: len(text)] = text
    wait(options.ready_after)
    if options.boot_from <= INCARNATION <= options.boot_until:
        if options.boot == "hang":
            wait(FOR_EVER)
        if options.boot.startswith("exit:"):
            os._exit(int(options.boot[5:]))


def greet(peer: control.Link, end: socket.socket) -> None:
    """Send a hello over a new link, and tell what comes back until the peer ends."""
    with contextlib.suppress(ConnectionError), end, end.makefile() as lines:
        end.sendall(f"{NAME} {INCARNATION}\n".encode())
        for line in lines:
            say("hello", peer=peer.peer, peer_incarnation=peer.incarnation, text=line.strip())
    say("link_end", peer=peer.peer, peer_incarnation=peer.incarnation)


def on_link(message: control.Link, fds: list[int], options: argparse.Namespace) -> None:
    threading.Thread(target=greet, args=(message, socket.socket(fileno=fds[0])), daemon=True).start()
    table = read_table(fds[1]) if message.has_table else None
    say("link", peer=message.peer, peer_incarnation=message.incarnation, table=table)
    if options.replace == message.peer and message.incarnation == 1:
        control.send(PARENT, control.Replace(peer=message.peer, incarnation=1, reason="timeout"))


def on_peer_died(message: control.PeerDied, fds: list[int], options: argparse.Namespace) -> None:
    table = read_table(fds[0]) if message.has_table else None
    say(
        "peer_died",
        **{name: getattr(message, name) for name in message.__struct_fields__ if name != "incarnation"},
        peer_incarnation=message.incarnation,
        table=table,
    )
    if options.bury_from <= INCARNATION:
        control.send(PARENT, control.PeerBuried(peer=message.peer, incarnation=message.incarnation))


def read_table(fd: int) -> str:
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as table:
        text = bytes(table).rstrip(b"\0").decode()
    os.close(fd)
    return text


def on_stop(message: control.Stop, options: argparse.Namespace) -> None:
    say("stop", drain_s=message.drain_s, grace_s=message.grace_s)
    match options.stop.partition(":"):
        case ("obey", _, _):
            os._exit(0)
        case ("crash-first", _, _):
            os._exit(9 if INCARNATION == 1 else 0)
        case ("drain", _, seconds):
            threading.Timer(min(float(seconds), message.drain_s), os._exit, (0,)).start()
        case _:
            pass


def main() -> None:
    options = arguments()
    if options.facts:
        facts()
    faulthandler.enable()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    boot(options)
    control.send(PARENT, control.Ready())
    if options.meddle:
        control.send(PARENT, control.Replace(peer=options.meddle, incarnation=1, reason="meddling"))
    if options.nonsense:
        PARENT.send(b"\xc1nonsense")
    if options.hang_up:
        PARENT.shutdown(socket.SHUT_RDWR)
        PARENT.close()
        wait(FOR_EVER)
    if options.end is not None:
        os._exit(options.end)
    listen(options)


def listen(options: argparse.Namespace) -> None:
    while True:
        message, fds = control.receive_in_child(PARENT)
        match message:
            case None:
                os._exit(0)
            case control.Ping() if options.mute:
                say("ping")
            case control.Ping(seq=seq):
                control.send(PARENT, control.Pong(seq=seq))
            case control.Link():
                on_link(message, fds, options)
            case control.PeerDied():
                on_peer_died(message, fds, options)
            case control.Stop():
                on_stop(message, options)
            case control.Drain():
                say("drain")
            case control.Dump():
                say("dump")


if __name__ == "__main__":
    main()
