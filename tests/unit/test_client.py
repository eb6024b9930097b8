"""The client on both databases: enqueue, look, wait, cancel, and what it does in threads, loops and forked processes."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shiftboss import (
    ArgumentsError,
    BlockingCall,
    Client,
    OptionError,
    ResultError,
    ResultExpired,
    ShiftbossError,
    StoreError,
    TaskFailed,
    TaskNotFinished,
    TaskNotFound,
    TaskNotKept,
    configure,
    default_client,
    task,
)
from shiftboss import default as default_module
from shiftboss.default import using_client
from shiftboss.handle import Handle
from shiftboss.model import NULL, Ended, Outcome, TaskState, WorkerView
from shiftboss.store.base import ClaimAsk, Exchange, LaneAsk
from shiftboss.store.open import open_store


@task(queue="mail")
def send(user_id: int, lang: str = "en") -> int:
    return user_id


@task
def note(text: str) -> None: ...


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/tasks.db"
    url: str = request.getfixturevalue("pg_database")
    return url


@pytest.fixture
def client(database_url: str) -> Iterator[Client]:
    with Client(database_url) as it, using_client(it):
        yield it


def end(client: Client, task_id: str, outcome: Outcome, keep_completed: bool = True, **how: Any) -> None:
    """Claim one task and end it, as a worker would."""
    store = open_store(client.database_url)
    now = store.now()
    worker = WorkerView(id="w", hostname="h", pid=1, version="", started_at=now, last_heartbeat=now, pool_size=1, active=0)
    store.register(worker, 60.0, exclusive=False)
    view = store.get(task_id)
    assert view is not None
    types = [it.info() for it in (send, note)]
    lane = LaneAsk(queue=view.queue, priority=view.priority, limit=100)
    claims = store.exchange(Exchange(worker_id="w", claim=ClaimAsk(lanes=[lane], limit=100, running=100, types=types))).claims
    (fence,) = [claim.fence for claim in claims if claim.task_id == task_id]
    ended = Ended(task_id=task_id, fence=fence, outcome=outcome, **how)
    store.exchange(Exchange(worker_id="w", ended=[ended], keep_completed=keep_completed))
    store.close()


def test_enqueued_task_is_stored_as_said(client: Client) -> None:
    at = datetime.now(UTC) + timedelta(days=1)
    handle = send.using(priority=7, run_at=at, max_attempts=2, timeout=9, tags=["a"], meta={"k": 1}).enqueue(42, lang="no")
    view = handle.view()
    assert (view.id, view.type, view.queue, view.priority) == (handle.id, send.type, "mail", 7)
    assert msgspec.json.decode(view.args) == {"user_id": 42, "lang": "no"}
    assert (view.max_attempts, view.timeout_s, view.tags, view.status) == (2, 9.0, ("a",), TaskState.PENDING)
    assert msgspec.json.decode(view.meta) == {"k": 1}
    assert view.run_at == at


def test_delay_counts_from_the_databases_now(client: Client) -> None:
    view = send.using(delay=timedelta(hours=6)).enqueue(1).view()
    assert (view.run_at - view.enqueued_at).total_seconds() == pytest.approx(21_600, abs=0.01)


def test_arguments_are_refused_before_anything_is_stored(client: Client) -> None:
    with pytest.raises(ArgumentsError, match="argument user_id"):
        send.enqueue("x")  # type: ignore[arg-type]
    with pytest.raises(ArgumentsError, match="max_args_bytes=1,048,576"):
        note.enqueue("x" * 1_048_577)


def test_unique_returns_the_unfinished_one(client: Client) -> None:
    first = send.using(unique="user:1").enqueue(1)
    again = send.using(unique="user:1").enqueue(2)
    assert (first.existing, again.existing, again.id) == (False, True, first.id)
    assert first == again
    end(client, first.id, Outcome.SUCCESS, result=msgspec.Raw(b"1"))
    assert not send.using(unique="user:1").enqueue(3).existing


def test_unique_under_concurrency_is_stored_once(client: Client) -> None:
    handles: list[Any] = []
    threads = [threading.Thread(target=lambda: handles.append(send.using(unique="one").enqueue(1))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(handles) == 8 and len({handle.id for handle in handles}) == 1
    assert sum(not handle.existing for handle in handles) == 1


def test_by_name_without_the_handler(client: Client) -> None:
    handle = client.enqueue_by_name("elsewhere:job", {"a": [1]}, queue="q", priority=3, unique="u")
    view = handle.view()
    assert (view.type, view.queue, view.priority, msgspec.json.decode(view.args)) == ("elsewhere:job", "q", 3, {"a": [1]})
    assert client.enqueue("elsewhere:job", a=2).status() is TaskState.PENDING


def test_by_name_with_the_handler_is_checked_and_takes_its_options(client: Client) -> None:
    assert client.enqueue_by_name(send.type, {"user_id": 1}).view().queue == "mail"
    with pytest.raises(ArgumentsError, match="argument user_id"):
        client.enqueue_by_name(send.type, {"user_id": "x"})
    with pytest.raises(ArgumentsError, match="missing a required argument"):
        client.enqueue(send.type)
    with pytest.raises(OptionError, match="priority=1000"):
        client.enqueue_by_name("x", {}, priority=1_000)


def test_many_in_order_with_keys(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shiftboss.batches.MAX_BATCH_ROWS", 400)
    handles = client.enqueue_many(send.using(unique=f"k{i % 900}").prepare(i) for i in range(1_000))
    assert [handle.existing for handle in handles] == [False] * 900 + [True] * 100
    assert [handle.id for handle in handles[900:]] == [handle.id for handle in handles[:100]]
    assert msgspec.json.decode(handles[500].view().args) == {"user_id": 500}
    assert client.enqueue_many([]) == []


def test_a_prepared_task_that_is_sent_again_after_its_end_is_not_stored_again(client: Client) -> None:
    prepared = send.prepare(1)
    (handle,) = client.enqueue_many([prepared])
    end(client, handle.id, Outcome.SUCCESS)
    assert [again.existing for again in client.enqueue_many([prepared])] == [True]
    assert [again.existing for again in client.enqueue_many([send.prepare(2), prepared])] == [False, True]
    assert handle.status() is TaskState.COMPLETED


def test_many_respect_the_size_limit_and_want_prepared_tasks(database_url: str) -> None:
    with Client(database_url, max_args_bytes=100) as client:
        with pytest.raises(ArgumentsError, match="max_args_bytes=100"):
            client.enqueue_many([note.prepare("x" * 200)])
        with pytest.raises(OptionError, match="what prepare"):
            client.enqueue_many([send])  # type: ignore[list-item]


def test_result_is_decoded_by_the_return_annotation(client: Client) -> None:
    handle = send.enqueue(7)
    with pytest.raises(TaskNotFinished, match=r"0\.01 s"):
        handle.result(timeout=0.01)
    end(client, handle.id, Outcome.SUCCESS, result=msgspec.Raw(b"7"))
    assert handle.result(timeout=0) == 7
    assert client.handle(handle.id).result(timeout=0) == 7
    assert handle.status() is TaskState.COMPLETED


def test_result_waits_for_the_end(client: Client) -> None:
    handle = send.enqueue(7)
    worker = threading.Timer(0.1, lambda: end(client, handle.id, Outcome.SUCCESS, result=msgspec.Raw(b"8")))
    worker.start()
    assert handle.result(timeout=30) == 8
    worker.join()


def test_missing_and_misfit_results_are_told_apart(client: Client) -> None:
    nothing, lost, other = note.enqueue("x"), send.enqueue(1), send.enqueue(2)
    end(client, nothing.id, Outcome.SUCCESS, result=NULL)
    assert nothing.result(timeout=0) is None
    for handle in (lost, other):
        client.cancel(handle.id)  # so that the next claim takes one alone
    expired, misfit = send.enqueue(3), None
    end(client, expired.id, Outcome.SUCCESS, result=NULL)
    with pytest.raises(ResultExpired, match="retention"):
        expired.result(timeout=0)
    misfit = send.enqueue(4)
    end(client, misfit.id, Outcome.SUCCESS, result=msgspec.Raw(b'"x"'))
    with pytest.raises(ResultError, match="does not fit"):
        misfit.result(timeout=0)


def test_where_no_history_is_kept_every_way_to_look_says_so(client: Client) -> None:
    handle, waiting = send.enqueue(7), []
    looks = (handle.view, handle.status, lambda: handle.result(timeout=0), client.handle(handle.id).result)
    thread = threading.Thread(target=lambda: waiting.append(_refused(lambda: handle.result(timeout=30))))
    thread.start()
    end(client, handle.id, Outcome.SUCCESS, keep_completed=False, result=msgspec.Raw(b"7"))
    thread.join(30)
    for said in (*map(_refused, looks), *waiting):
        assert "has completed" in said
        assert "completed_retention" in said
    assert len(waiting) == 1
    assert client.get(handle.id) is None
    assert client.has_trace(handle.id)
    assert not client.has_trace("no such thing")


def test_whoever_waits_for_a_task_of_its_own_transaction_is_told_too(client: Client) -> None:
    """Such a handle takes a task that is not there for one that is not committed yet."""
    handle = send.enqueue(7)
    joined = Handle(client, handle.id, send, joined=True)
    end(client, handle.id, Outcome.SUCCESS, keep_completed=False, result=msgspec.Raw(b"7"))
    with pytest.raises(TaskNotKept):
        joined.result(timeout=30)


def _refused(look: Callable[[], object]) -> str:
    with pytest.raises(TaskNotKept) as caught:
        look()
    return str(caught.value)


def test_failed_task_raises_with_the_remote_traceback(client: Client) -> None:
    handle = send.enqueue(1)
    end(client, handle.id, Outcome.FAILED, error="ValueError: bad", traceback="Traceback: here\nValueError: bad\n")
    with pytest.raises(TaskFailed, match="ValueError: bad") as caught:
        handle.result(timeout=0)
    assert caught.value.status == "dead_letter"
    assert caught.value.remote_traceback == "Traceback: here\nValueError: bad\n"
    assert "Traceback: here" in str(caught.value)


def test_cancel_and_retry(client: Client) -> None:
    handle = send.enqueue(1)
    assert handle.cancel()
    assert not handle.cancel()
    with pytest.raises(TaskFailed, match="cancelled"):
        handle.result(timeout=0)
    assert client.retry(handle.id)
    assert not client.retry(handle.id)
    assert handle.status() is TaskState.PENDING


@pytest.mark.parametrize("task_id", ["01890000-0000-7000-8000-000000000000", "no such thing", ""])
def test_unknown_ids_touch_nothing(client: Client, task_id: str) -> None:
    other = send.enqueue(1)
    assert client.get(task_id) is None
    assert client.attempts(task_id) == []
    assert not client.cancel(task_id)
    assert not client.retry(task_id)
    with pytest.raises(TaskNotFound, match="no task has the id"):
        client.handle(task_id).result(timeout=0)
    assert other.status() is TaskState.PENDING


def test_async_twins(client: Client) -> None:
    async def main() -> None:
        handle = await send.aenqueue(1)
        assert await handle.astatus() is TaskState.PENDING
        with pytest.raises(TaskNotFinished):
            await handle.aresult(timeout=0.01)
        named = await client.aenqueue("elsewhere:job", a=1)
        (many,) = await client.aenqueue_many([send.prepare(3)])
        assert (await named.aview()).type == "elsewhere:job"
        assert await many.acancel() and await client.aretry(many.id)
        found = await client.aget(many.id)
        assert found is not None and found.status is TaskState.PENDING

    asyncio.run(main())


def test_sync_calls_in_an_event_loop(client: Client) -> None:
    async def main() -> None:
        if client.database_url.startswith("sqlite"):
            assert not send.enqueue(1).existing
        else:
            for call in (lambda: send.enqueue(1), lambda: client.get("x"), lambda: client.enqueue_many([])):
                with pytest.raises(BlockingCall, match="await a"):
                    call()
        with pytest.raises(BlockingCall, match="await aresult"):
            client.handle("x").result()

    asyncio.run(main())


def test_many_threads_share_a_few_connections(database_url: str) -> None:
    with Client(database_url, max_connections=3) as client, using_client(client):
        errors: list[BaseException] = []

        def work() -> None:
            try:
                for number in range(10):
                    assert send.enqueue(number).status() is TaskState.PENDING
            except BaseException as error:  # noqa: BLE001
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert errors == []
        assert len(client._pool._stores.idle) <= 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_client_survives_a_fork(client: Client) -> None:
    before = send.enqueue(1)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if send.enqueue(2).status() is TaskState.PENDING and before.status() is TaskState.PENDING else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert before.status() is TaskState.PENDING  # the child has not ended our session
    assert send.enqueue(3).status() is TaskState.PENDING


def test_closed_client_says_so(database_url: str) -> None:
    client = Client(database_url)
    client.close()
    with pytest.raises(ShiftbossError, match="closed"):
        client.get("01890000-0000-7000-8000-000000000000")


def test_unknown_database_is_refused_without_its_password() -> None:
    with pytest.raises(StoreError) as caught:
        Client("mysql://me:secret@host/db")
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(Client("postgresql://me:secret@host/db"))


def test_default_client_follows_the_environment_and_configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_module, "_default", None)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/env.db")
    send.enqueue(1)
    assert (tmp_path / "env.db").exists()
    configured = configure(f"sqlite:///{tmp_path}/other.db")
    assert default_client() is configured
    send.enqueue(1)
    assert (tmp_path / "other.db").exists()
    default_client().close()


def test_a_lost_database_is_an_error_that_passes(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    with Client(f"sqlite:///{folder}/tasks.db") as client, using_client(client):
        with pytest.raises(StoreError):
            send.enqueue(1)
        folder.mkdir()
        assert send.enqueue(1).status() is TaskState.PENDING
