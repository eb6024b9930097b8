"""What a child inherits: its own sockets, clean signals, a session of its own, and nothing that is meant for the supervisor."""

from __future__ import annotations

import os
import signal

from service_harness import Service, child

from shiftboss.supervisor.signals import HANDLED


def test_a_child_starts_clean() -> None:
    leaked_read, leaked_write = os.pipe()
    os.set_inheritable(leaked_write, True)
    env = {"WATCHDOG_USEC": "9000000", "WATCHDOG_PID": "1", "LISTEN_FDS": "1", "NOTIFY_SOCKET": "/nowhere", "KEPT": "yes"}
    try:
        with Service(child("claimer", "--facts", env={"ADDED": "1"}), env=env) as service:
            facts = service.wait_for(said="facts")
            service.wait_ready()
            assert service.stop() == 0
    finally:
        os.close(leaked_read)
        os.close(leaked_write)
    # Blocked until it has decided what they mean to it: one that comes while its interpreter starts does not end it.
    assert facts["blocked"] == sorted(HANDLED)
    assert set(facts["ignored"]) <= {signal.SIGPIPE, signal.SIGXFSZ}  # by Python itself
    assert facts["leader"]
    assert facts["parent"]
    assert set(facts["fds"]) == {0, 1, 2, *facts["own_fds"]}
    assert {"KEPT", "ADDED"} <= set(facts["environment"])
    assert not [name for name in facts["environment"] if name.startswith(("NOTIFY_", "WATCHDOG_", "LISTEN_"))]


def test_the_board_is_one_memory_for_all() -> None:
    with Service(child("heartbeat", "--facts"), child("claimer", "--facts")) as service:
        service.wait_ready()
        inodes = {
            os.stat(f"/proc/{service.pid(name)}/fd/{service.wait_for(said='facts', child=name)['own_fds'][1]}").st_ino
            for name in ("heartbeat", "claimer")
        }
        assert len(inodes) == 1
        assert service.stop() == 0
