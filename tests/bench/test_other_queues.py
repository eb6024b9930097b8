"""The comparison with other queues: who ran, what is made of their times, and that no queue is left out without a word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import marks
from bench.peers import compare
from bench.peers.compare import PeerFailed, Run, compared, seconds_of
from bench.peers.install import PeerMissing, command_of, find_python, said
from bench.peers.known import OURS, PEERS, Known
from bench.peers.stores import reply_number
from shiftboss.store.queries import load_queries

ADAPTERS = Path(compare.__file__).parent / "adapters"


def run(seconds: float) -> Run:
    return Run(enqueue_s=2.0, ran_s=seconds / 2, seconds=seconds, worker_cpu_s=0.5, server_cpu_s=0.25)


def known(name: str) -> Known:
    return next(one for one in (*OURS, *PEERS) if one.name == name)


def test_peers_stand_beside_ours_on_the_same_kind_of_store() -> None:
    queues = [*OURS, known("PgQueuer"), known("Huey"), known("Celery")]
    done = {
        0: [run(1.0), run(2.0)],
        1: [run(4.0), run(4.0)],
        2: [run(0.5), run(1.0)],  # ours without a history stands beside ours by default, too
        3: [run(2.0), run(2.0)],
        4: [run(8.0), run(2.0)],
        5: [run(4.0), run(4.0)],
    }
    peers = compared(queues, 1000, done, {}, {})
    ratios = [peer.ours_by_theirs.runs for peer in peers if peer.ours_by_theirs]
    assert ratios == [(1.0, 1.0), (1.0, 1.0), (0.5, 0.5), (2.0, 1.0), (2.0, 0.5), (20.0, 10.0)]
    assert [peer.jobs for peer in peers] == [5000, 5000, 5000, 5000, 5000, 1000]  # the fast ones had more
    pgqueuer = peers[3]
    assert pgqueuer.per_second is not None
    assert pgqueuer.per_second.runs == (2500.0, 2500.0)
    assert pgqueuer.result is not None
    assert pgqueuer.result.ran_per_second.median == 5000.0
    assert pgqueuer.result.enqueued_per_second.median == 2500.0
    assert (pgqueuer.result.worker_cpu_us.median, pgqueuer.result.server_cpu_us.median) == (100.0, 50.0)


def test_one_that_is_absent_is_told_with_its_reason() -> None:
    queues = [OURS[0], known("Dramatiq")]
    ours, dramatiq = compared(queues, 1000, {0: [run(1.0)], 1: []}, {}, {1: "no redis-server on this machine"})
    assert ours.absent == ""
    assert (dramatiq.absent, dramatiq.per_second, dramatiq.result) == ("no redis-server on this machine", None, None)


def test_a_queue_that_fails_in_the_middle_is_absent_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[object] = []

    def fail(one: Known, _command: object, _new_store: object, jobs: int, _longest_s: float) -> Run:
        given.append(jobs)
        if one.store == "redis":
            raise PeerFailed("a worker ended: boom")
        return run(1.0)

    monkeypatch.setattr(compare, "drain", fail)
    monkeypatch.setattr(compare, "command_of", lambda *_others: [])
    ours, celery = compare.measure([OURS[1], known("Celery")], 10, 2, 0, tmp_path, 1.0)
    assert celery.absent == "a worker ended: boom"
    assert ours.per_second is not None
    assert len(ours.per_second.runs) == 2
    assert given == [50, 10, 50]


def test_marks_count_every_run_of_every_job(tmp_path: Path) -> None:
    file = tmp_path / "marks"
    assert marks.count(file) == 0
    script = "from bench import marks\nfor number in range(3): marks.write(number)\nmarks.write(3, 1)"
    subprocess.run([sys.executable, "-c", script], check=True, env={marks.VARIABLE: str(file)}, cwd=ADAPTERS.parents[2])
    assert marks.count(file) == 4
    found = marks.read(file)
    assert [mark.number for mark in found] == [0, 1, 2, 3]
    assert found[0].waited_ns == 0
    assert found[3].waited_ns > 10**18  # since 1970
    marks.check(found, 4)
    with pytest.raises(AssertionError, match="of 5 jobs 1 never ran, 0 ran more than once, 0 are unknown"):
        marks.check(found, 5)
    with pytest.raises(AssertionError, match="of 3 jobs 0 never ran, 1 ran more than once, 1 are unknown"):
        marks.check([*found, found[0]], 3)


def test_what_an_adapter_says_of_its_time() -> None:
    assert seconds_of('a warning\n{"seconds": 1.5}\n') == 1.5
    for output in ("", "done\n", '{"second": 1}\n', "[]\n"):
        with pytest.raises(PeerFailed, match="said nothing of its time"):
            seconds_of(output)


def test_what_redis_says_is_a_number_or_an_error() -> None:
    assert reply_number(b":42\r\n") == 42
    with pytest.raises(ValueError, match="WRONGTYPE"):
        reply_number(b"-WRONGTYPE Operation against a key\r\n")


def test_the_reason_is_the_line_that_names_the_error() -> None:
    assert (
        said("WARNING: slow\nERROR: No matching distribution found for oban\n\n")
        == "ERROR: No matching distribution found for oban"
    )
    assert said("Traceback\n  File x\nValueError: no\n") == "Traceback File x ValueError: no"
    assert len(said("x" * 5_000)) == 300


def test_python_too_old_is_a_reason_not_a_crash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_python(sys.version_info[:2]) == sys.executable
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(PeerMissing, match=r"needs Python 3\.90 or newer; this machine has 3\.\d+"):
        find_python((3, 90))


def test_no_npm_is_a_reason_not_a_crash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PeerMissing, match="no npm on this machine"):
        command_of(known("pg-boss"), tmp_path / "cache")


@pytest.mark.parametrize("one", [*OURS, *PEERS], ids=lambda one: f"{one.name} on {one.store}")
def test_each_queue_has_all_that_a_run_needs(one: Known) -> None:
    assert (ADAPTERS / f"{one.adapter}.{'mjs' if one.node else 'py'}").exists()
    assert one.configuration.endswith(".")
    separator = "@" if one.node else "=="
    assert all(separator in package and "*" not in package for package in one.packages)
    if one.store != "redis":
        assert one.left in load_queries("bench.peers", "peers.sql")
    else:
        assert isinstance(one.left, tuple)
