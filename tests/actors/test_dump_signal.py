"""The dump signal shows all stacks and harms nobody."""

from __future__ import annotations

import signal

from process_harness import ActorProcess
from test_process import settings  # noqa: F401

from shiftboss.config import Settings


def test_usr1_shows_the_stacks_of_all_threads_and_harms_nobody(settings: Settings) -> None:
    for _ in range(8):
        with ActorProcess("gateway", settings) as process:
            process.wait_ready()
            for _ in range(10):
                process.process.send_signal(signal.SIGUSR1)
                process.ping()
            process.raw.wait(lambda line: "process.py" in line, "a stack")
