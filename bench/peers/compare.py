"""The same load on several queues, in turns: jobs are stored first, then the workers start.

The time runs from the first job's run, which writes a mark, to the moment when the queue's own tables have nothing unfinished:
so a queue that writes its outcomes late is not faster for it. How fast jobs ran, without that, is told beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Self

import msgspec

from bench import marks, proc
from bench.peers.install import PeerMissing, command_of, said
from bench.peers.known import Known
from bench.peers.stores import NewStore, Store, new_stores
from bench.service import stop_with_parent, wait_until
from bench.stats import Latency, Spread, latency, ratio, spread

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
_LOOK_EVERY_S: Final = 0.003
_SLOW_LOOK: Final = 0.2  # of the whole time; a few percent unless the machine is very busy
_VERB_LONGEST_S: Final = 300.0
_BOOT_LONGEST_S: Final = 60.0
_STOP_LONGEST_S: Final = 30.0
_SETTLE_S: Final = 3.0
_INHERITED: Final = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Several runs. `ran_per_second`: to the last job's run, `Peer.per_second`: to its commit. CPU in microseconds a job."""

    ran_per_second: Spread
    enqueued_per_second: Spread
    worker_cpu_us: Spread
    server_cpu_us: Spread


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """One queue. `absent`: why it was not run, else empty. `ours_by_theirs`: rates, run by run."""

    name: str
    version: str
    store: str
    configuration: str
    jobs: int
    absent: str = ""
    per_second: Spread | None = None
    ours_by_theirs: Spread | None = None
    result: Result | None = None
    pickup: Latency | None = None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from the first run of a job to the last, and to the last commit; CPU seconds between."""

    enqueue_s: float
    ran_s: float
    seconds: float
    worker_cpu_s: float
    server_cpu_s: float


def measure(knowns: Sequence[Known], jobs: int, runs: int, pickups: int, cache: Path, longest_s: float) -> list[Peer]:
    """All of them once, then all again, each with its share of `jobs`. One that is missing or fails is told as absent: why."""
    absent: dict[int, str] = {}
    done: dict[int, list[Run]] = {place: [] for place in range(len(knowns))}
    waits: dict[int, Latency] = {}
    with new_stores() as new_store:
        for number in range(runs):
            for place, known in enumerate(knowns):
                if place in absent:
                    continue
                try:
                    command = command_of(known, cache)
                    done[place].append(drain(known, command, new_store, known.jobs(jobs), longest_s))
                    if number == 0 and pickups:
                        waits[place] = pick_up(known, command, new_store, pickups)
                except (PeerMissing, PeerFailed) as error:
                    absent[place] = str(error)
    return compared(knowns, jobs, done, waits, absent)


def compared(
    knowns: Sequence[Known], jobs: int, done: dict[int, list[Run]], waits: dict[int, Latency], absent: dict[int, str]
) -> list[Peer]:
    """Each beside ours by default: on SQLite beside ours there, else beside ours on PostgreSQL. Pure.

    `jobs`: of an ordinary one; each had its share.
    """
    rates = {place: [knowns[place].jobs(jobs) / run.seconds for run in runs] for place, runs in done.items()}
    by_default = [place for place, known in enumerate(knowns) if not known.packages and not known.options and place not in absent]
    ours = {knowns[place].store: rates[place] for place in by_default}
    peers = []
    for place, known in enumerate(knowns):
        beside = ours.get("sqlite" if known.store == "sqlite" else "postgres")
        here = place not in absent
        peers.append(
            Peer(
                name=known.name,
                version=known.version,
                store=known.store,
                configuration=known.configuration,
                jobs=known.jobs(jobs),
                absent=absent.get(place, ""),
                per_second=spread(rates[place]) if here else None,
                ours_by_theirs=ratio(beside, rates[place]) if here and beside else None,
                result=_result(known.jobs(jobs), done[place]) if here else None,
                pickup=waits.get(place) if here else None,
            )
        )
    return peers


def _result(jobs: int, runs: Sequence[Run]) -> Result:
    return Result(
        ran_per_second=spread([jobs / run.ran_s for run in runs]),
        enqueued_per_second=spread([jobs / run.enqueue_s for run in runs]),
        worker_cpu_us=spread([run.worker_cpu_s / jobs * 1e6 for run in runs]),
        server_cpu_us=spread([run.server_cpu_s / jobs * 1e6 for run in runs]),
    )


def drain(known: Known, command: Sequence[str], new_store: NewStore, jobs: int, longest_s: float) -> Run:
    """Store all, start the workers, watch.

    Raises:
        PeerFailed: it stopped, took too long, or did not run every job exactly once.
    """
    with _fresh(known, new_store) as (store, environment, file):
        _verb(command, environment, "setup")
        enqueue_s = seconds_of(_verb(command, environment, "enqueue", str(jobs)))
        store.settle()
        with _Workers(known, command, environment, store.folder) as workers:
            deadline_s = time.monotonic() + _BOOT_LONGEST_S
            workers.wait_while(lambda: not marks.count(file), deadline_s)
            began_s, cpu_s, server_s = time.monotonic(), workers.cpu_s(), store.cpu_s()
            deadline_s = began_s + longest_s
            workers.wait_while(lambda: marks.count(file) < jobs, deadline_s)
            ran_s = time.monotonic() - began_s
            workers.wait_while(lambda: store.unfinished(jobs), deadline_s)
            seconds = time.monotonic() - began_s
            look_s = _timed(lambda: store.unfinished(jobs))
            cpu_s, server_s = workers.cpu_s() - cpu_s, store.cpu_s() - server_s
        try:
            marks.check(marks.read(file), jobs)
        except AssertionError as wrong:
            raise PeerFailed(str(wrong)) from None
    if look_s > _SLOW_LOOK * seconds:  # then the end is told late: a flaw of ours, not of the queue
        raise PeerFailed(f"asking whether it is done takes {look_s:.2f} s of {seconds:.2f}")
    return Run(enqueue_s=enqueue_s, ran_s=ran_s, seconds=seconds, worker_cpu_s=cpu_s, server_cpu_s=server_s)


def pick_up(known: Known, command: Sequence[str], new_store: NewStore, count: int) -> Latency:
    """From the call that stores a job to the job's run, on an idle worker, one every 50 ms.

    Raises:
        PeerFailed: as for `drain`.
    """
    with _fresh(known, new_store) as (store, environment, file):
        _verb(command, environment, "setup")
        with _Workers(known, command, environment, store.folder) as workers:
            wait_until(time.monotonic() + _SETTLE_S)
            _verb(command, environment, "pace", str(count), "0.05")
            workers.wait_while(lambda: marks.count(file) < count, time.monotonic() + _BOOT_LONGEST_S)
        return latency([mark.waited_ns / 1e9 for mark in marks.read(file)])


class PeerFailed(Exception):
    """It was there and did not do what it should; the message says what."""


class _Workers:
    """The worker processes for the time of a block. Ended with SIGTERM, and with SIGKILL when that does nothing."""

    def __init__(self, known: Known, command: Sequence[str], environment: dict[str, str], folder: Path) -> None:
        self._log = folder / "workers.log"
        with self._log.open("ab") as log:
            self._processes = [
                subprocess.Popen(
                    [*command, "work"],
                    cwd=_ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=stop_with_parent,
                )
                for _ in range(known.workers)
            ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + _STOP_LONGEST_S
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline_s - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the session is its own: whatever of it is left
            process.wait()

    def wait_while(self, what: Callable[[], bool], deadline_s: float) -> None:
        """Look every few milliseconds.

        Raises:
            PeerFailed: a worker has ended, or the deadline has passed.
        """
        while what():
            if any(process.poll() is not None for process in self._processes):
                raise PeerFailed(f"a worker ended: {said(self._log.read_text(errors='replace'))}")
            if time.monotonic() > deadline_s:
                raise PeerFailed(f"not done in time: {said(self._log.read_text(errors='replace'))}")
            wait_until(time.monotonic() + _LOOK_EVERY_S)

    def cpu_s(self) -> float:
        """Of all processes of all workers, those that have ended included."""
        return sum(proc.cpu_s(pid, with_reaped=True) for process in self._processes for pid in proc.tree(process.pid))


@contextlib.contextmanager
def _fresh(known: Known, new_store: NewStore) -> Iterator[tuple[Store, dict[str, str], Path]]:
    """A store, the environment of the adapter, and the file of marks."""
    store = new_store(known)
    try:
        file = store.folder / "marks"
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environment |= {"PYTHONPATH": str(_ROOT), "PYTHONDONTWRITEBYTECODE": "1", marks.VARIABLE: str(file)}
        environment |= {"BENCH_URL": store.url, "BENCH_OPTIONS": json.dumps(known.options)}
        yield store, environment, file
    finally:
        store.close()


def _verb(command: Sequence[str], environment: dict[str, str], *words: str) -> str:
    try:
        done = subprocess.run(
            [*command, *words], cwd=_ROOT, env=environment, capture_output=True, text=True, check=False, timeout=_VERB_LONGEST_S
        )
    except subprocess.TimeoutExpired:
        raise PeerFailed(f"{words[0]}: no end after {_VERB_LONGEST_S:g} s") from None
    if done.returncode:
        raise PeerFailed(f"{words[0]} ended with {done.returncode}: {said(done.stderr)}")
    return done.stdout


def _timed(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    call()
    return time.perf_counter() - began_s


def seconds_of(output: str) -> float:
    """What `enqueue` says: the last line is JSON with `seconds`; others may have printed before it.

    Raises:
        PeerFailed: it is not.
    """
    try:
        return float(json.loads(output.splitlines()[-1])["seconds"])
    except (IndexError, KeyError, TypeError, ValueError):
        raise PeerFailed(f"enqueue said nothing of its time: {output[-200:]!r}") from None
