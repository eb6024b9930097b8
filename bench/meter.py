"""What some work has cost: CPU by process, write-ahead log and transactions, between two moments."""

from __future__ import annotations

import os
import time
from typing import Final

import msgspec

from bench import proc
from bench.target import Counted, Target

_BENCH: Final = "bench"


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """CPU seconds by role, and what the server counted. `others_cores`: what other programs kept busy meanwhile, in cores."""

    seconds: float
    others_cores: float
    cpu_s: dict[str, float]
    wal_bytes: int | None = None
    commits: int | None = None

    @property
    def service_cpu_s(self) -> float:
        return sum(used_s for role, used_s in self.cpu_s.items() if not _is_server(role))

    @property
    def server_cpu_s(self) -> float:
        """All backends and the server's own processes; 0 for SQLite, which works inside the claimer."""
        return sum(used_s for role, used_s in self.cpu_s.items() if _is_server(role))


class Meter:
    """Starts when it is made. `processes`: pid -> role of the service; the server's come from the target."""

    def __init__(self, target: Target, processes: dict[int, str]) -> None:
        self._target = target
        self._ours = processes
        self._processes = processes | target.server_processes() | {os.getpid(): _BENCH}
        self._counted: Counted | None = target.counted()
        self._machine_s, self._began_s = proc.machine_cpu_s(), time.monotonic()
        self._before = proc.cpu_by_role(self._processes)

    def stop(self) -> Cost:
        """What was used since then. Backends that came later count from their start; the bench's own session is left out."""
        late = {pid: role for pid, role in self._target.server_processes().items() if pid not in self._processes}
        after = proc.cpu_by_role(self._processes | late)
        machine_s, took_s = proc.machine_cpu_s() - self._machine_s, time.monotonic() - self._began_s
        used_s = {role: after[role] - self._before.get(role, 0.0) for role in after}
        others_cores = max(0.0, machine_s - sum(used_s.values())) / took_s
        del used_s[_BENCH]
        counted = self._target.counted()
        return Cost(
            seconds=took_s,
            others_cores=others_cores,
            cpu_s={role: one_s for role, one_s in used_s.items() if role != proc.BENCH_SESSION},
            wal_bytes=None if counted is None or self._counted is None else counted.wal_bytes - self._counted.wal_bytes,
            commits=None if counted is None or self._counted is None else counted.commits - self._counted.commits,
        )


def _is_server(role: str) -> bool:
    return role in proc.SERVER_ROLES or role.startswith(proc.SESSION)
