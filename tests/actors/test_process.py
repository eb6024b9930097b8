"""How a child process starts and ends, whatever is done to it."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from actor_harness import PATIENCE_S, eventually, is_running
from msgspec.structs import replace
from process_harness import ActorProcess

from shiftboss import control
from shiftboss.actors.process import Actor
from shiftboss.config import Settings, settings_to_json

HERE = Path(__file__).parent
HARMLESS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGUSR2", "SIGPIPE")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(database_url=f"sqlite:///{tmp_path / 'tasks.db'}", log_format="json", metrics_port=0)


@pytest.fixture
def gateway(settings: Settings) -> Iterator[ActorProcess]:
    """Any actor would do; this one needs no others."""
    with ActorProcess("gateway", settings) as process:
        process.wait_ready()
        yield process


def test_it_ends_when_its_parent_hangs_up(gateway: ActorProcess) -> None:
    gateway.hang_up()
    assert gateway.wait_exit() == 0


def test_it_answers_pings_in_its_own_loop(gateway: ActorProcess) -> None:
    for seq in (1, 2, 3):
        gateway.tell(control.Ping(seq=seq))
    assert gateway.said.wait_type(control.Pong, count=3) == control.Pong(seq=3)


def test_signals_for_the_service_do_nothing_to_a_child(gateway: ActorProcess) -> None:
    for name in HARMLESS:
        gateway.process.send_signal(signal.Signals[name])
        gateway.ping()
    assert gateway.process.poll() is None
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    assert "T (stopped)" not in status


def test_stop_ends_it_with_zero(gateway: ActorProcess) -> None:
    gateway.tell(control.Stop(drain_s=0, grace_s=0))
    assert gateway.wait_exit() == 0


def test_leave_ends_it_with_zero_after_what_it_was_told_before(gateway: ActorProcess) -> None:
    gateway.tell(control.Ping(seq=1))
    gateway.tell(control.Leave())
    assert gateway.wait_exit() == 0
    assert gateway.said.of(control.Pong) == [control.Pong(seq=1)]


def test_new_settings_are_taken_live(gateway: ActorProcess, settings: Settings) -> None:
    gateway.tell(control.Reload(settings=settings_to_json(replace(settings, log_level="debug"))))
    gateway.wait_log("actor.reloaded", actor="gateway")
    gateway.tell(control.Reload(settings=settings_to_json(settings)))
    gateway.ping()
    assert len([line for line in gateway.log.things if line["event"] == "actor.reloaded"]) == 1, "debug is off again"


def test_a_message_that_is_for_somebody_else_ends_it(gateway: ActorProcess) -> None:
    gateway.tell(control.PeerRetiring(peer="executor-1", incarnation=1, drain_s=0, grace_s=0))
    assert gateway.wait_exit() == 1


def test_signals_from_the_very_start_on_do_nothing_to_a_child_that_was_started_with_them_blocked(settings: Settings) -> None:
    """The whole group is signalled while Python starts; what is then started here has no signal blocked."""
    blocked = {signal.Signals[name] for name in HARMLESS}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        process = ActorProcess("gateway", settings)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    with process:
        while not process.said.of(control.Ready):
            for number in blocked:
                process.process.send_signal(number)
            assert process.process.poll() is None, process.transcript()
            threading.Event().wait(0.002)
        status = Path(f"/proc/{process.process.pid}/status").read_text()
        assert "SigBlk:\t0000000000000000" in status, status


def test_an_actor_that_fails_ends_its_process_with_the_reason_in_the_log(settings: Settings, tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import sys
        from shiftboss.actors import gateway, process
        def receive(self, message):
            raise RuntimeError("a bug of ours")
        gateway.Gateway.receive = receive
        process.main(sys.argv[1:])
    """)
    script = tmp_path / "failing.py"
    script.write_text(code)
    with ActorProcess("gateway", settings, command=(str(script),)) as process:
        process.wait_ready()
        process.tell(control.Drain())
        assert process.wait_exit() == 1
        line = process.log.wait(lambda line: line["level"] == "critical", "critical")
        assert "a bug of ours" in line["traceback"]


def test_a_helper_thread_of_ours_that_fails_ends_the_process_and_one_of_user_code_does_not(
    settings: Settings, tmp_path: Path
) -> None:
    script = tmp_path / "threads.py"
    script.write_text(
        textwrap.dedent("""
        import sys, threading
        from shiftboss.actors import gateway, process
        def fail():
            raise RuntimeError(threading.current_thread().name)
        def receive(self, message):
            name = "users" if isinstance(message, process.control.Drain) else "shiftboss-helper"
            threading.Thread(target=fail, name=name).start()
        gateway.Gateway.receive = receive
        process.main(sys.argv[1:])
    """)
    )
    with ActorProcess("gateway", settings, command=(str(script),)) as process:
        process.wait_ready()
        process.tell(control.Drain())
        process.log.wait(lambda line: "RuntimeError: users" in line.get("traceback", ""), "the user's thread is logged")
        process.ping()
        process.tell(control.Resume())
        assert process.wait_exit() == 1


def test_the_driver_does_not_say_what_it_ignores_beside_an_error_that_we_say(settings: Settings, tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(
        textwrap.dedent("""
        import logging, sys
        from shiftboss.actors import gateway, process
        def receive(self, message):
            logging.getLogger("psycopg").warning("error ignored terminating a pipeline")
            logging.getLogger("psycopg").warning("something else")
        gateway.Gateway.receive = receive
        process.main(sys.argv[1:])
    """)
    )
    with ActorProcess("gateway", settings, command=(str(script),)) as process:
        process.wait_ready()
        process.tell(control.Drain())
        process.log.wait(lambda line: line["message"] == "something else", "the other warning")
        assert not [line for line in process.log.things if "ignored" in line["message"]]


def test_a_role_that_cannot_be_imported_ends_the_process(settings: Settings) -> None:
    with ActorProcess("nonsense", settings) as process:
        assert process.wait_exit() != 0
        assert "nonsense" in process.transcript()


def test_it_dies_with_a_parent_that_is_killed_while_its_links_stay_open(settings: Settings, tmp_path: Path) -> None:
    """Another process still holds the other end of the control link, so only the kernel can tell the child."""
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, subprocess, sys
        sys.path.insert(0, {str(HERE)!r})
        from process_harness import ActorProcess
        from shiftboss.config import Settings, settings_to_json
        actor = ActorProcess("gateway", Settings(database_url={settings.database_url!r}, metrics_port=0))
        actor.wait_ready()
        holder = subprocess.Popen(["sleep", "60"], pass_fds=[actor.control.fileno()], stdout=subprocess.DEVNULL)
        print(actor.process.pid, holder.pid, flush=True)
        sys.stdin.read()
    """)
    )
    with subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        actor_pid, holder_pid = map(int, parent.stdout.readline().split())
        try:
            parent.kill()
            parent.wait(PATIENCE_S)
            eventually(lambda: not is_running(actor_pid), "the child is gone")
        finally:
            os.kill(holder_pid, signal.SIGKILL)


def test_a_child_whose_parent_was_gone_before_it_looked_ends_at_once(settings: Settings) -> None:
    with ActorProcess("gateway", settings, env={control.PARENT_PID_VARIABLE: "1"}) as process:
        assert process.wait_exit() == 0
        assert not process.said.of(control.Ready)


def test_an_actor_has_the_inbox_that_we_chose() -> None:
    """By a name that is pykka's own to change, which nothing else would notice."""

    class Silent(Actor):
        pass

    ref = Silent.start()
    assert isinstance(ref.actor_inbox, queue.SimpleQueue)
    ref.stop()
