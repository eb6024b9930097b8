"""What a worker costs that has nothing to do."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from bench import proc
from bench.service import Service, wait_until
from bench.target import NewTarget, Target

_SETTLE_S: Final = 4.0


class Idle(msgspec.Struct, frozen=True, kw_only=True):
    """CPU as a share of one core, memory as proportional set size, by role; transactions a second where they are counted."""

    seconds: float
    cpu_share: dict[str, float]
    pss_kib: dict[str, int]
    transactions_per_second: float | None

    @property
    def service_cpu_share(self) -> float:
        return sum(share for role, share in self.cpu_share.items() if role in self.pss_kib)


def measure(new_target: NewTarget, seconds: float) -> Idle:
    """A service on an empty database, some seconds after its start."""
    target = new_target()
    try:
        with Service(target.url, target.folder) as service:
            wait_until(time.monotonic() + _SETTLE_S)
            return _watch(target, service.processes(), seconds)
    finally:
        target.close()


def _watch(target: Target, ours: dict[int, str], seconds: float) -> Idle:
    processes = ours | target.server_processes()
    transactions, began_s, before = target.transactions(), time.monotonic(), proc.cpu_by_role(processes)
    wait_until(began_s + seconds)
    took_s, after = time.monotonic() - began_s, proc.cpu_by_role(processes)
    ended = target.transactions()
    pss: dict[str, int] = {}
    for pid, role in ours.items():
        pss[role] = pss.get(role, 0) + proc.pss_kib(pid)
    return Idle(
        seconds=took_s,
        cpu_share={role: (after[role] - before[role]) / took_s for role in before},
        pss_kib=pss,
        transactions_per_second=None if ended is None or transactions is None else (ended - transactions) / took_s,
    )
