"""What a worker costs that has nothing to do, and how long it takes to come and to go."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from bench import proc
from bench.service import Service, Settings, wait_until
from bench.stats import Spread, middle, spread
from bench.target import NewTarget, Target

_SETTLE_S: Final = 4.0
_MSGSPEC: Final = "shiftboss.msgspec_import"  # msgspec alone, as our processes load it
_PACKAGES: Final = {
    "supervisor": (_MSGSPEC,),
    "executor": ("pykka", _MSGSPEC),
    "gateway": ("pykka", _MSGSPEC),
}


class Idle(msgspec.Struct, frozen=True, kw_only=True):
    """CPU as a share of one core, memory as proportional set size, by role, of the median run; statements a second where they
    are counted. `bare_pss_kib`: of as many interpreters that have only imported what each of ours is made of. `ready_s`: from
    exec to ready; `stop_s`: from SIGTERM to the end."""

    seconds: float
    cpu_share: dict[str, float]
    pss_kib: dict[str, int]
    service_cpu_share: Spread
    service_pss_kib: Spread
    ready_s: Spread
    stop_s: Spread
    bare_pss_kib: Spread | None = None
    statements_per_second: Spread | None = None


class _Run(msgspec.Struct, frozen=True, kw_only=True):
    cpu_share: dict[str, float]
    pss_kib: dict[str, int]
    statements_per_second: float | None
    bare_pss_kib: float = 0.0
    ready_s: float = 0.0
    stop_s: float = 0.0

    @property
    def service_cpu_share(self) -> float:
        return sum(share for role, share in self.cpu_share.items() if role in self.pss_kib)


def measure(new_target: NewTarget, seconds: float, runs: int, settings: Settings | None = None) -> Idle:
    """A service on an empty database, some seconds after its start."""
    done = [_run_fresh(new_target, seconds, settings) for _ in range(runs)]
    memory = [float(sum(run.pss_kib.values())) for run in done]
    one = done[middle(memory)]
    statements = [run.statements_per_second for run in done if run.statements_per_second is not None]
    return Idle(
        seconds=seconds,
        cpu_share=one.cpu_share,
        pss_kib=one.pss_kib,
        service_cpu_share=spread([run.service_cpu_share for run in done]),
        service_pss_kib=spread(memory),
        ready_s=spread([run.ready_s for run in done]),
        stop_s=spread([run.stop_s for run in done]),
        bare_pss_kib=spread([run.bare_pss_kib for run in done]),
        statements_per_second=_spread_or_none(statements),
    )


def _spread_or_none(values: Sequence[float]) -> Spread | None:
    return spread(values) if values else None


def _run_fresh(new_target: NewTarget, seconds: float, settings: Settings | None) -> _Run:
    target = new_target()
    try:
        target.count_statements()
        with Service(target.url, target.folder, settings) as service:
            wait_until(time.monotonic() + _SETTLE_S)
            ours = service.processes()
            run = _watch(target, ours, seconds)
        bare_kib = _bare_pss_kib(ours.values(), "sqlite3" if target.url.startswith("sqlite") else "psycopg")
        return msgspec.structs.replace(run, bare_pss_kib=bare_kib, ready_s=service.ready_s, stop_s=service.stop_s)
    finally:
        target.close()


def _watch(target: Target, ours: dict[int, str], seconds: float) -> _Run:
    processes = ours | target.server_processes()
    statements, began_s, before = target.statements(), time.monotonic(), proc.cpu_by_role(processes)
    wait_until(began_s + seconds)
    took_s, after = time.monotonic() - began_s, proc.cpu_by_role(processes)
    sent = target.statements()
    return _Run(
        cpu_share={role: (after[role] - before[role]) / took_s for role in before},
        pss_kib=proc.pss_by_role(ours),
        statements_per_second=None if sent is None or statements is None else (sent - statements) / took_s,
    )


def _bare_pss_kib(roles: Iterable[str], driver: str) -> float:
    """One interpreter for each process of the service, with the packages of its role and nothing of ours."""
    done, some = "import sys; print(flush=True); sys.stdin.read()", []
    try:
        for role in roles:
            packages = _PACKAGES.get(role, ("pykka", _MSGSPEC, driver))
            code = f"import {', '.join(packages)}; {done}"
            some.append(subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        for one in some:
            assert one.stdout is not None
            one.stdout.readline()
        return float(sum(proc.pss_kib(one.pid) for one in some))
    finally:
        for one in some:
            one.kill()
            one.communicate()
