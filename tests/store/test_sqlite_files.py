"""SQLite's own dangers: many processes, a replaced file, a read-only one, a lock that is not given back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_harness import ManualClock, ended, finish, finish_one, lead, new, put, take, take_one, view, worker

from shiftboss.errors import SchemaError, StoreCorrupt, StoreError, StoreUnavailable
from shiftboss.model import TaskState, Verdict
from shiftboss.store.base import Exchange
from shiftboss.store.sqlite import SqliteStore, files, migrate, open_sqlite
from shiftboss.store.sqlite.statements import SQL

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def only(path: Path) -> Iterator[SqliteStore]:
    store = open_sqlite(path)
    store.migrate()
    yield store
    store.close()


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def output(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.strip()


# ---- the URL and the file


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:////var/lib/tasks.db", "/var/lib/tasks.db"),
        ("sqlite:///tasks.db", str(Path.cwd() / "tasks.db")),
        ("sqlite:///a%20b.db", str(Path.cwd() / "a b.db")),
        ("/plain/path.db", "/plain/path.db"),
    ],
)
def test_a_url_names_a_file(url: str, expected: str) -> None:
    assert str(files.parse_url(url)) == expected


@pytest.mark.parametrize(
    "url", ["sqlite://host/tasks.db", "sqlite:///", "sqlite://", "sqlite:///:memory:", "sqlite:///a.db?mode=ro", ""]
)
def test_a_url_that_means_nothing_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="sqlite:///"):
        files.parse_url(url)


def test_all_files_are_for_this_user_only(only: SqliteStore, path: Path) -> None:
    put(only)
    only.listener("w").close()
    found = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert found == {
        "tasks.db": 0o600,
        "tasks.db-wal": 0o600,
        "tasks.db-shm": 0o600,
        "tasks.db.lock": 0o600,
        "tasks.db.bells": 0o700,
    }


def test_the_file_is_durable_and_distrusts_its_schema(only: SqliteStore) -> None:
    with only._database.read() as connection:
        settings = [
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "trusted_schema")
        ]
    assert settings == ["wal", 2, 0]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="does not exist: make it"):
        open_sqlite(tmp_path / "nowhere" / "tasks.db")


def test_a_file_that_is_no_database_is_kept_and_refused(path: Path) -> None:
    path.write_bytes(b"these are my notes\n" * 500)
    with pytest.raises(StoreCorrupt, match="recover"):
        open_sqlite(path).migrate()
    assert path.read_bytes().startswith(b"these are my notes")


def test_a_damaged_page_is_found_by_the_check(path: Path) -> None:
    store = open_sqlite(path)
    store.migrate()
    store.enqueue([new() for _ in range(2_000)])
    assert store.quick_check() == []
    store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096)
    store = open_sqlite(path)
    try:
        with contextlib.suppress(StoreCorrupt):  # which of the two depends on the page
            assert store.quick_check() != []
    finally:
        store.close()


@pytest.mark.parametrize("act", ["replaced", "deleted"])
def test_a_file_replaced_or_deleted_while_open_is_not_written_to(only: SqliteStore, path: Path, act: str) -> None:
    task_id = put(only)
    if act == "replaced":
        shutil.copy(path, path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)
    else:
        path.unlink()
    with pytest.raises(StoreCorrupt, match="deleted or replaced"):
        put(only)
    with pytest.raises(StoreCorrupt, match="deleted or replaced"):
        only.get(task_id)
    assert path.exists() == (act == "replaced")  # never made anew behind the operator's back


class Remembered:
    """What the processes of a service know together."""

    database_file: tuple[int, int] | None = None


@pytest.mark.parametrize("log", ["with its log", "without"])
def test_who_starts_later_takes_no_other_file_for_that_of_its_service(only: SqliteStore, path: Path, log: str) -> None:
    memory = Remembered()
    first = open_sqlite(path, memory=memory)
    put(first)
    other = path.with_name("other.db")
    with contextlib.closing(open_sqlite(other)) as store:
        store.migrate()
    before = {name: Path(f"{path}{name}").read_bytes() for name in ("", "-wal") if Path(f"{path}{name}").exists()}
    path.rename(path.with_suffix(".aside"))
    other.rename(path)
    if log == "without":
        Path(f"{path}-wal").unlink()
    replaced, kept = path.read_bytes(), Path(f"{path}-wal")
    second = open_sqlite(path, memory=memory, create=False)
    for _ in range(2):
        with pytest.raises(StoreCorrupt, match="deleted or replaced"):
            second.counts()
    assert path.read_bytes() == replaced
    assert not kept.exists() if log == "without" else kept.read_bytes() == before["-wal"]
    path.rename(other)
    path.with_suffix(".aside").rename(path)
    if log == "with its log":
        assert second.counts().pending == first.counts().pending != {}
    for store in (first, second):
        store.close()


def test_a_network_file_system_is_refused(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    assert files.file_system_type(Path("/proc")) == 0x9FA0
    monkeypatch.setattr(files, "file_system_type", lambda _folder: 0x6969)
    with pytest.raises(StoreError, match="NFS file system"):
        open_sqlite(path)
    assert not path.exists()


READ_ONLY = """
import os, sys
from shiftboss.errors import StoreUnavailable
from shiftboss.store.sqlite import open_sqlite
if os.geteuid() == 0:  # nothing is read-only for root
    os.setgroups([])
    os.setuid(65534)
try:
    open_sqlite(sys.argv[1]).beat("w", 0, 1, 30.0)
except StoreUnavailable as error:
    print(error)
"""


@pytest.mark.parametrize("open_to_all", [".lock", ""], ids=["the database", "its lock"])
def test_a_file_that_may_not_be_written_says_so(open_to_all: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tasks.db"
        store = open_sqlite(path)
        store.migrate()
        store.close()
        for file in Path(folder).iterdir():
            file.chmod(0o444)
        Path(folder, f"tasks.db{open_to_all}").chmod(0o666)
        Path(folder).chmod(0o755)
        said = output(run_python(READ_ONLY, path))
    assert "write" in said
    assert str(path) in said


# ---- the lock


def test_a_lock_that_is_not_given_back_names_who_has_it(path: Path, only: SqliteStore) -> None:
    impatient = open_sqlite(path, lock_wait_s=0.2)
    with (path.parent / "tasks.db.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(
            StoreUnavailable, match=rf"not free within 0.2 s \(held by process {os.getpid()}.*nothing was written"
        ):
            put(impatient)
        with pytest.raises(StoreUnavailable):
            put(impatient)  # nor does the first try's thread get in the way of the second
        assert impatient.counts().pending == {}  # reading waits for nobody
    for _ in range(3):
        put(impatient)
        put(only)
    assert only.counts().pending == {"mail:send": 6}
    impatient.close()


def test_another_program_s_transaction_is_waited_for_then_named(path: Path, only: SqliteStore) -> None:
    only._database._connected().execute("PRAGMA busy_timeout = 100")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="another program holds its write lock"):
        put(only)
    other.execute("ROLLBACK")
    other.close()
    put(only)


def test_a_closed_store_says_so(path: Path) -> None:
    store = open_sqlite(path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.counts()


# ---- many processes

MIGRATE = """
import sys
from shiftboss.store.sqlite import open_sqlite
sys.stdin.readline()
store = open_sqlite(sys.argv[1])
print(len(store.migrate().steps))
store.check_schema()
"""


def test_twenty_processes_that_start_at_once_migrate_once(path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE, str(path)], cwd=REPOSITORY, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(20)
    ]
    answers = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, _ = process.communicate(timeout=100)
        assert process.returncode == 0
        answers.append(int(out))
    assert sorted(answers) == [0] * 19 + [len(migrate.migrations())]


WORK = """
import sys
from shiftboss.model import Ended, NewTask, Outcome, TypeInfo, new_task_id
from shiftboss.store.base import ClaimAsk, Exchange, LaneAsk
from shiftboss.store.sqlite import open_sqlite
import msgspec
store = open_sqlite(sys.argv[1])
ask = ClaimAsk(lanes=[LaneAsk(queue="default", priority=0, limit=7)], limit=7, running=7, types=[TypeInfo(type="t")])
ended, applied = [], 0
for n in range(100):
    store.enqueue([NewTask(id=new_task_id(), type="t", args=msgspec.Raw(b"{}")) for _ in range(5)])
    answer = store.exchange(Exchange(worker_id=sys.argv[2], ended=ended, claim=ask))
    applied += sum(verdict == "applied" for verdict in answer.verdicts)
    ended = [Ended(task_id=claim.task_id, fence=claim.fence, outcome=Outcome.SUCCESS) for claim in answer.claims]
while ended:
    answer = store.exchange(Exchange(worker_id=sys.argv[2], ended=ended, claim=ask))
    applied += sum(verdict == "applied" for verdict in answer.verdicts)
    ended = [Ended(task_id=claim.task_id, fence=claim.fence, outcome=Outcome.SUCCESS) for claim in answer.claims]
print(applied)
"""


def test_processes_that_enqueue_claim_and_finish_together_lose_nothing(only: SqliteStore, path: Path) -> None:
    processes = [run_python(WORK, path, f"w{n}") for n in range(3)]
    applied = [int(output(process)) for process in processes]
    assert sum(applied) == 1_500
    assert only.status_counts() == {("t", "completed"): 1_500}
    assert only.counts().enqueued == {"t": 1_500}
    assert only.quick_check() == []


KILLED = """
import os, sys
from shiftboss.store.sqlite import open_sqlite
store = open_sqlite(sys.argv[1])
with store._database.write() as connection:
    connection.execute("UPDATE tasks SET queue = 'half done'")
    os.kill(os.getpid(), 9)
"""


def test_a_writer_killed_in_its_transaction_leaves_no_trace_and_no_lock(only: SqliteStore, path: Path) -> None:
    task_id = put(only)
    process = run_python(KILLED, path)
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert view(only, task_id).queue == "default"
    finish_one(only, ended(take_one(only)))
    assert view(only, task_id).status is TaskState.COMPLETED


# ---- the schema


def test_a_database_without_schema_names_the_command(path: Path) -> None:
    store = open_sqlite(path)
    with pytest.raises(SchemaError, match="shiftboss db migrate"):
        store.check_schema()
    with pytest.raises(SchemaError, match="shiftboss db migrate"):
        store.enqueue([new()])
    plan = store.migration_plan()
    every = migrate.migrations()
    assert (plan.current, plan.target, len(plan.steps)) == (0, every[-1][0], len(every))
    assert "CREATE TABLE tasks" in plan.steps[0][2]
    assert store.migrate() == plan
    assert store.migrate().steps == []
    store.check_schema()
    store.close()


def test_a_schema_from_the_future_is_refused(only: SqliteStore) -> None:
    with only._database.write() as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (999, 'later', '')")
    for act in (only.check_schema, only.migrate, only.migration_plan):
        with pytest.raises(SchemaError, match="newer"):
            act()


def test_a_database_of_an_earlier_version_is_brought_up_to_date_with_its_tasks(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = migrate.migrations()
    with monkeypatch.context() as patch:
        patch.setattr(migrate, "migrations", lambda: every[:1])
        old = open_sqlite(path)
        old.migrate()
        old.close()
    connection = sqlite3.connect(path)
    moment = "'2026-01-01 00:00:00.000000'"
    connection.execute(
        "INSERT INTO tasks (id, type, enqueued_at, run_at, updated_at) "
        f"VALUES ('01900000-0000-7000-8000-000000000001', 'mail:send', {moment}, {moment}, {moment})"
    )
    connection.commit()
    connection.close()
    store = open_sqlite(path)
    with pytest.raises(SchemaError, match="shiftboss db migrate"):
        store.check_schema()
    assert [version for version, *_ in store.migrate().steps] == [version for version, *_ in every[1:]]
    store.check_schema()
    (claim,) = take(store)
    answer = store.exchange(Exchange(worker_id="w1", ended=[ended(claim)], keep_completed=False))
    assert list(answer.states) == [TaskState.COMPLETED]
    assert store.has_trace(claim.task_id)
    store.close()


def test_a_migration_that_fails_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_sqlite(path)
    known = migrate.migrations()
    monkeypatch.setattr(migrate, "migrations", lambda: [*known, (2, "broken", "CREATE TABLE x (a);\nCREATE TABLE x (a);\n")])
    with pytest.raises(StoreError, match="already exists"):
        store.migrate()
    monkeypatch.undo()
    assert store.migration_plan().current == 0
    store.migrate()
    store.close()


# ---- plans: what a query costs must not grow with what it does not return


def _plan(store: SqliteStore, query: str, **values: object) -> str:
    with store._database.read() as connection:
        rows = connection.execute(f"EXPLAIN QUERY PLAN {SQL[query]}", values).fetchall()
    return "\n".join(row[3] for row in rows)


@pytest.fixture
def filled(path: Path) -> Iterator[SqliteStore]:
    store = open_sqlite(path)
    store.migrate()
    store.enqueue([new(delay_s=1e6) for _ in range(3_000)])
    store.enqueue([new(queue=f"q{n % 5}") for n in range(50)])
    with store._database.write() as connection:
        connection.execute("ANALYZE")
    yield store
    store.close()


@pytest.mark.parametrize("query", ["claimable", "claimable_newest"])
def test_a_claim_walks_its_own_index_and_sorts_nothing(filled: SqliteStore, query: str) -> None:
    values = {"queue": "q1", "priority": 0, "since": "", "now": "3", "types": "[]", "unread": False, "limit": 10}
    plan = _plan(filled, query, **values)
    assert "USING INDEX idx_tasks_claimable (queue=? AND priority=? AND due_at>? AND due_at<?)" in plan
    assert "TEMP B-TREE" not in plan


def test_lanes_hop_over_the_index(filled: SqliteStore) -> None:
    plan = _plan(filled, "lanes", queues=None)
    assert "SCAN t" not in plan
    assert "SCAN tasks" not in plan
    assert "USING COVERING INDEX idx_tasks_claimable (queue=? AND priority<?)" in plan


@pytest.mark.parametrize(
    ("query", "values"),
    [
        ("held", {"ids": "[]"}),
        ("match_tasks_by_id", {"ids": "[]", "status": None, "type": None, "queue": None, "worker_id": None, "tag": None}),
        ("match_history_by_id", {"ids": "[]", "status": None, "type": None, "queue": None, "worker_id": None, "tag": None}),
        ("delete_history", {"ids": "[]"}),
        ("delete_attempts", {"ids": "[]"}),
        ("delete_attempts_of_gone", {"ids": "[]"}),
        ("leased_places", {"ids": "[]"}),
        ("complete", {"rows": "[]", "now": "3", "default_max_attempts": 1}),
        ("delete_ended", {"ids": "[]"}),
        ("stored_before", {"leases": "[]"}),
    ],
)
def test_ids_are_looked_up_by_primary_key(filled: SqliteStore, query: str, values: dict[str, object]) -> None:
    plan = _plan(filled, query, **values)
    assert "USING PRIMARY KEY" in plan
    for table in ("tasks", "task_history", "task_attempts", "t", "h", "a"):
        assert f"SCAN {table}\n" not in plan + "\n"


@pytest.mark.parametrize(
    ("query", "values", "index"),
    [
        ("prunable_history", {"status": "completed", "before": "2", "limit": 9}, "idx_history_finished"),
        ("prunable_dead_letters", {"before": "2", "limit": 9}, "idx_tasks_dead"),
        ("clear_results", {"before": "2", "limit": 9}, "idx_history_results"),
        ("owned", {"worker_id": "w"}, "idx_tasks_live"),
        ("holders_of_keys", {"rows": "[]"}, "idx_tasks_unique"),
        ("prunable_traces", {"before": "2", "limit": 9}, "idx_task_traces_ended"),
        ("has_trace", {"id": "x"}, "idx_task_traces_ids (last_id>?)"),
        ("known_ids", {"rows": "[]"}, "idx_task_traces_ids (last_id>?)"),
        ("stored_before", {"leases": "[]"}, "idx_task_traces_ids (last_id>?)"),
        ("enqueue", {"rows": "[]"}, "idx_task_traces_ids (last_id>?)"),
        ("count_pending", {}, "COVERING INDEX idx_tasks_claimable"),
        ("count_dead", {}, "COVERING INDEX idx_tasks_dead"),
        ("count_ended", {}, "COVERING INDEX idx_history_finished"),
    ],
)
def test_sweeps_use_their_index(filled: SqliteStore, query: str, values: dict[str, object], index: str) -> None:
    assert index in _plan(filled, query, **values)


# ---- the clock


def test_a_wall_clock_set_back_does_not_keep_the_dead_alive(path: Path) -> None:
    clock = ManualClock()
    store = open_sqlite(path, clock)
    store.migrate()
    store.register(worker("dead"), 30.0, exclusive=False)
    lead(store, "dead", 30.0)
    put(store)
    take(store, worker_id="dead")
    clock.advance(-86_400.0)
    lease = lead(store, "living", 30.0)
    assert store.recover(lease).workers == []
    clock.advance(31.0)
    recovered = store.recover(lead(store, "living", 30.0))
    assert (list(recovered.workers), recovered.pending) == (["dead"], 1)
    store.close()


# ---- a file that is not there


def test_who_joins_a_service_makes_no_database(path: Path) -> None:
    store = open_sqlite(path, create=False)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="is not there: put it back"):
            store.counts()
        with pytest.raises(StoreUnavailable, match="is not there: put it back"):
            put(store)
    assert not path.exists()
    maker = open_sqlite(path)
    maker.migrate()
    put(store)  # it works as soon as there is one
    assert store.counts().pending == {"mail:send": 1}
    for one in (maker, store):
        one.close()


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
@pytest.mark.parametrize("create", [True, False])
def test_a_log_without_its_database_is_kept(only: SqliteStore, path: Path, left: str, create: bool) -> None:
    put(only)
    log, rest = path.with_name("tasks.db-wal"), path.read_bytes()
    before = log.read_bytes()
    path.unlink()
    if left == "an empty file":
        path.touch()
    with pytest.raises(StoreCorrupt, match=r"its log tasks\.db-wal is not"):
        open_sqlite(path, create=create).counts()
    assert log.read_bytes() == before
    path.write_bytes(rest)
    assert open_sqlite(path, create=create).counts().pending == {"mail:send": 1}


# ---- what others may have planted, or left open

WITHOUT_MASK = """
import os, sys
os.umask(int(sys.argv[2], 8))
from shiftboss.store.sqlite import open_sqlite
store = open_sqlite(sys.argv[1])
store.migrate()
store.listener("w").close()
folder = os.path.dirname(sys.argv[1])
print(*sorted(f"{name} {os.stat(os.path.join(folder, name)).st_mode & 0o777:o}" for name in os.listdir(folder)), sep=", ")
"""


@pytest.mark.parametrize("mask", ["000", "022", "077"])
def test_files_are_private_whatever_the_umask(path: Path, mask: str) -> None:
    expected = "tasks.db 600, tasks.db-shm 600, tasks.db-wal 600, tasks.db.bells 700, tasks.db.lock 600"
    assert output(run_python(WITHOUT_MASK, path, mask)) == expected


@pytest.mark.parametrize("name", ["tasks.db.lock", "tasks.db.bells"])
def test_a_planted_link_is_not_followed(path: Path, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir() if name.endswith("bells") else victim.write_text("precious")
    path.with_name(name).symlink_to(victim)
    with pytest.raises(StoreUnavailable, match=name.replace(".", r"\.")):
        store = open_sqlite(path)
        store.migrate()
        store.listener("w")
    assert list(victim.iterdir()) == [] if victim.is_dir() else victim.read_text() == "precious"


def test_a_link_to_nowhere_makes_no_file_there(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(StoreUnavailable, match=r"tasks\.db"):
        open_sqlite(path).migrate()
    assert not (tmp_path / "elsewhere.db").exists()


def test_a_time_that_is_none_keeps_no_task_and_nobody_behind_it_from_being_claimed(path: Path) -> None:
    """An operator's hand wrote it; a claim that raises would be tried again for ever."""
    with contextlib.closing(open_sqlite(path)) as store:
        store.migrate()
        ids = {put(store), put(store)}
        with contextlib.closing(sqlite3.connect(path)) as operator, operator:
            operator.execute("UPDATE tasks SET enqueued_at = 'yesterday' WHERE id = ?", (min(ids),))
        claims = take(store)
        assert {claim.task_id for claim in claims} == ids
        assert [claim.enqueued_at == 0.0 for claim in sorted(claims, key=lambda claim: claim.task_id)] == [True, False]
        assert {verdict for verdict, _ in finish(store, *map(ended, claims))} == {Verdict.APPLIED}
