"""Processes that are left when everything else has stopped, also when the supervisor can open nothing. Real processes."""

from __future__ import annotations

import subprocess

import pytest
from service_harness import PYTHON, PYTHON_PATH

ORPHANS = 60
SCRIPT = """
import logging, os, resource, sys, time
from shiftboss.clock import SystemClock
from shiftboss.supervisor import orphans

orphans.adopt_orphans()
reader, writer = os.pipe()
if (parent := os.fork()) == 0:  # ends at once; its children become ours
    for _ in range({orphans}):
        if os.fork() == 0:
            os.write(writer, b".")
            time.sleep(60)
            os._exit(0)
    os._exit(0)
os.waitpid(parent, 0)
while os.read(reader, 1) and (started := globals().get("started", 0) + 1) < {orphans}:
    pass
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
open_now = max(map(int, os.listdir("/proc/self/fd")))  # and the listing's own, which is closed again
resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + {spare}, limits[1]))
began_s = time.monotonic()
killed = orphans.kill_remaining({within_s}, SystemClock(), logging.getLogger("test"))
took_s = time.monotonic() - began_s
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
print(killed, took_s, orphans.kill_remaining(5.0, SystemClock(), logging.getLogger("test")))
"""


def killed_with(spare: int, within_s: float) -> tuple[int, float, int]:
    """How many a process killed that may open `spare` files more, in how many seconds, and how many without that limit."""
    script = SCRIPT.format(orphans=ORPHANS, spare=spare, within_s=within_s)
    done = subprocess.run(
        [*PYTHON, "-c", script], env={"PYTHONPATH": PYTHON_PATH}, capture_output=True, text=True, timeout=60.0, check=False
    )
    assert done.returncode == 0, done.stderr
    first, took_s, then = done.stdout.split()
    return int(first), float(took_s), int(then)


@pytest.mark.parametrize("spare", [1, 2, 1_000])
def test_more_orphans_than_may_be_opened_are_all_killed(spare: int) -> None:
    killed, took_s, left = killed_with(spare, 20.0)
    assert (killed, left) == (ORPHANS, 0)
    assert took_s < 10.0


def test_without_any_descriptor_the_look_for_orphans_ends_in_time() -> None:
    killed, took_s, left = killed_with(0, 0.5)
    assert (killed, left) == (0, ORPHANS)
    assert 0.5 <= took_s < 5.0
