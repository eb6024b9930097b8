"""I11: what a round leaves behind that it should not: processes, sockets, transactions, descriptors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.acceptance.worker import is_running
from tests.chaos import rows
from tests.chaos.ledger import FOLDER_VARIABLE

if TYPE_CHECKING:
    from tests.chaos.service import Service
    from tests.chaos.world import World

SPARE_DESCRIPTORS: Final = 8  # between two looks at a supervisor: a command or a reload may be under way


def descriptors(pid: int) -> int:
    """How many a process has open; 0 when it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def of_supervisor(service: Service, at_first: int) -> Iterator[str]:
    """Descriptors that the supervisor has gathered since it was ready."""
    now = descriptors(service.present().process.pid)
    if now > at_first + SPARE_DESCRIPTORS:
        yield f"the supervisor of {service.name} has {now} descriptors open, and had {at_first} when it was ready"


def of_world(world: World) -> Iterator[str]:
    """After every service has stopped, while the database is still there."""
    mark = f"{FOLDER_VARIABLE}={world.folder}/".encode()
    for pid in _processes():
        if is_running(pid) and mark in _environment(pid):
            yield f"process {pid} is still there: {_command(pid)}"
    for service in world.services.values():
        socket = service.logs[-1].with_suffix(".control")
        if socket.exists():
            yield f"{socket} is still there, and its service has stopped"
    if world.facts.database == "postgres":
        with rows.reading(world.direct_url) as run:
            for (text,) in run("open_transactions"):
                yield f"a connection is still open: {text}"


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "gone"
