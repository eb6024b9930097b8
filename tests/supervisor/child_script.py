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
    parser.add_argument("--grandchild", choices=["group", "escaped", "holding"])  # the last also holds the control link
    parser.add_argument("--strangers", action="store_true")  # leaves behind processes that end with 3, 4 and 70
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--bury-from", type=int, default=1)  # incarnations from this one answer PeerBuried
    parser.add_argument("--replace")  # ask for the replacement of this peer's first incarnation
    parser.add_argument("--meddle")  # the same, at once and without a link
    parser.add_argument("--facts", action="store_true")
    parser.add_argument("--only", default=NAME)  # --boot and --end are meant for the child of this name alone
    parser.add_argument("--end-until", type=int, default=10**9)  # --end is meant for incarnations up to this one
    parser.add_argument("--release", default="0")  # SECONDS until it answers PeerRetiring, or never
    parser.add_argument("--release-from", type=int, default=1)  # incarnations from this one answer it
    parser.add_argument("--drained")  # SECONDS until it answers Drain; else never
    parser.add_argument("--tired", action="append", default=[])  # once for each time that it is given with its own name
    parser.add_argument("--leave", default="obey")  # obey, ignore
    parser.add_argument("--no-dump", action="store_true")  # does not answer Dump
    parser.add_argument("--check", type=Path)  # a throw-away child, which does as this file says
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
            ["sleep", "3600"],
            start_new_session=options.grandchild != "group",
            pass_fds=[PARENT.fileno()] if options.grandchild == "holding" else [],
            stderr=subprocess.DEVNULL,
        )
        say("grandchild", pid=grandchild.pid)
    if options.strangers:
        for code in (3, 4, 70):
            if os.fork() == 0:
                if os.fork() == 0:  # its parent ends at once, so it is adopted
                    os.setsid()
                    wait(0.2)
                    os._exit(code)
                os._exit(0)
            os.wait()
    if options.table:
        with mmap.mmap(int(os.environ[control.TABLE_FD_VARIABLE]), 0) as table:
            text = f"{NAME} {INCARNATION}".encode()
            table[: len(text)] = text
    wait(options.ready_after)
    if options.boot_from <= INCARNATION <= options.boot_until and options.only == NAME:
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


def after(seconds: str, message: control.ToParent) -> None:
    """Tell the parent, at once or later; a parent that is gone hears nothing."""

    def tell() -> None:
        with contextlib.suppress(OSError):
            control.send(PARENT, message)

    if float(seconds) == 0:
        tell()
    else:
        threading.Timer(float(seconds), tell).start()


def on_peer_retiring(message: control.PeerRetiring, options: argparse.Namespace) -> None:
    times = {"drain_s": message.drain_s, "grace_s": message.grace_s}
    say("peer_retiring", peer=message.peer, peer_incarnation=message.incarnation, **times)
    if options.release != "never" and options.release_from <= INCARNATION:
        after(options.release, control.PeerReleased(peer=message.peer, incarnation=message.incarnation))


def on_reload(message: control.Reload) -> None:
    say("reload", version=json.loads(message.settings)["version"])


def check(file: Path) -> None:
    """What a check does is the first word of `check` in the file; its settings are the whole file."""
    settings = file.read_bytes()
    what, _, more = json.loads(settings)["check"].partition(":")
    say("check", how=what)
    match what:
        case "ok" | "slow":
            wait(float(more or 0))
            control.send(PARENT, control.Checked(settings=settings))
        case "lingering":
            control.send(PARENT, control.Checked(settings=settings))
            wait(FOR_EVER)
        case "twice":
            control.send(PARENT, control.Checked(settings=settings))
            control.send(PARENT, control.Checked(error="on second thoughts"))
        case "error":
            control.send(PARENT, control.Checked(error=more))
        case "hang":
            wait(FOR_EVER)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(int(more))
    os._exit(0)


def own_signals() -> None:
    """As the actors do: what is meant for the service does nothing here, whether it came before or comes now."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    ours = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
    for number in (*ours, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def main() -> None:
    options = arguments()
    if options.facts:
        facts()
    own_signals()
    if options.check:
        check(options.check)
    boot(options)
    control.send(PARENT, control.Ready())
    for _ in range(options.tired.count(NAME) if INCARNATION == 1 else 0):
        control.send(PARENT, control.Tired(reason="worn out"))
    if options.meddle:
        control.send(PARENT, control.Replace(peer=options.meddle, incarnation=1, reason="meddling"))
    if options.nonsense:
        PARENT.send(b"\xc1nonsense")
    if options.hang_up:
        PARENT.shutdown(socket.SHUT_RDWR)
        PARENT.close()
        wait(FOR_EVER)
    if options.end is not None and options.end_until >= INCARNATION and options.only == NAME:
        os._exit(options.end)
    listen(options)


def on_operation(message: control.ToChild, options: argparse.Namespace) -> None:
    match message:
        case control.PeerRetiring():
            on_peer_retiring(message, options)
        case control.Drain(why=why, seq=seq):
            say("drain", why=why)
            if options.drained:
                after(options.drained, control.Drained(seq=seq))
        case control.Resume():
            say("resume")
        case control.Reload():
            on_reload(message)
        case control.Leave():
            say("leave")
            if options.leave == "obey":
                os._exit(0)
        case control.Dump():
            say("dump")
            if not options.no_dump:
                control.send(PARENT, control.Dumped())


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
            case _:
                on_operation(message, options)


if __name__ == "__main__":
    main()
