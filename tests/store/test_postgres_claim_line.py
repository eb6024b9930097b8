"""Claims in line: each by itself, in the order in which they were sent, and none of them lost without a word."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg
import pytest
from store_harness import ended, finish, info, new, raw_json, status, worker

from shiftboss.errors import StoreError, StoreUnavailable
from shiftboss.model import Claim, TaskState, Verdict
from shiftboss.store.base import ClaimAnswer, ClaimAsk, ClaimLine, Exchange, LaneAsk, Turn
from shiftboss.store.postgres import link
from shiftboss.store.postgres.params import turn_params
from shiftboss.store.postgres.sqltext import queries
from shiftboss.store.postgres.store import PostgresStore, open_postgres


@pytest.fixture
def store(pg_database: str) -> Iterator[PostgresStore]:
    store = open_postgres(pg_database)
    yield store
    store.close()


def wish(limit: int, merge: str | None = None, *types: str) -> ClaimAsk:
    lanes = [LaneAsk(queue="default", priority=0, limit=limit)]
    return ClaimAsk(lanes=lanes, limit=limit, running=1, types=[info(*types)], merge=merge)


def opened(store: PostgresStore, merge: str | None = None) -> ClaimLine:
    line = store.claim_line(wish(1, merge))
    assert line is not None
    return line


def answer_of(line: ClaimLine) -> ClaimAnswer:
    while (answer := line.answer()) is None:
        assert select.select([line], [], [], 10.0)[0], "no answer"
    return answer


def answered(line: ClaimLine) -> list[Claim]:
    return answer_of(line).claims()


@pytest.mark.parametrize("merge", [None, "fifo", "lifo"])
def test_claims_in_line_are_those_that_exchanges_would_have_got(store: PostgresStore, merge: str | None) -> None:
    tasks = [new(args=raw_json(number), tags=("a",), meta=raw_json({"b": number})) for number in range(9)]
    store.enqueue(tasks)
    line = opened(store, merge)
    for limit in (3, 2, 3):
        line.send("w1", wish(limit, merge), in_turn=False)
    claims = [answered(line) for _ in range(3)]
    assert line.answer() is None, "all have been answered"
    line.close()
    (last,) = store.exchange(Exchange(worker_id="w1", claim=wish(5, merge))).claims
    assert [len(some) for some in claims] == [3, 2, 3]
    got = [*(claim for some in claims for claim in some), last]
    assert [one.task_id for one in got] == [one.id for one in (reversed(tasks) if merge == "lifo" else tasks)]
    assert [one.running for one in got] == [True, False, False, True, False, True, False, False, True]
    assert [int(bytes(one.args)) for one in got] == (list(range(9)) if merge != "lifo" else list(range(8, -1, -1)))
    assert {(one.tags, one.attempt, one.fence, one.queue) for one in got} == {(("a",), 1, 1, "default")}
    assert abs(got[0].due_at - got[0].enqueued_at) < 1.0
    assert [verdict for verdict, _ in finish(store, *(ended(claim) for claim in got))] == [Verdict.APPLIED] * 9


def test_each_is_committed_by_itself_whether_its_answer_is_read_or_not(pg_database: str, store: PostgresStore) -> None:
    ids = [one.id for one in store.enqueue([new(), new()])]
    line = opened(store)
    for _ in range(2):
        line.send("w1", wish(1), in_turn=False)
    assert answered(line)
    other = open_postgres(pg_database)
    deadline_s = time.monotonic() + 10.0  # the second answer may have come with the first, so the line need not turn readable
    while {status(other, one) for one in ids} != {TaskState.RUNNING}:
        assert time.monotonic() < deadline_s, "the second is committed, too"
        time.sleep(0.01)
    other.close()
    line.close()
    assert len(store.owned("w1")) == 2, "the store goes on, over another connection"


def test_a_line_can_be_opened_again_and_again_over_one_connection(store: PostgresStore) -> None:
    store.enqueue([new() for _ in range(3)])
    for _ in range(3):
        line = opened(store)
        line.send("w1", wish(1), in_turn=False)
        assert len(answered(line)) == 1
        line.close()
        assert store.owned("w1")
    with store._link.connected() as connection:
        ((mine,),) = connection.execute("SELECT count(*) FROM pg_prepared_statements WHERE name = 'shiftboss_claim'").fetchall()
    assert mine == 1


@contextlib.contextmanager
def turn_of_another(url: str, ask: ClaimAsk) -> Iterator[None]:
    """Until the end of the block; then it commits."""
    with psycopg.connect(url) as other:
        (row,) = other.execute(queries()["take_turn"], turn_params(ask)).fetchall()
        assert row[0] is True
        yield


def in_turn(line: ClaimLine, ask: ClaimAsk) -> tuple[bool, int]:
    """Whether it has its turn, and how many it gets."""
    line.send("w1", ask, in_turn=True)
    answer = answer_of(line)
    assert answer.turn is not None
    return answer.turn.mine, len(answer.claims())


def test_a_claim_gets_nothing_while_it_is_the_turn_of_another_and_does_not_wait_for_it(
    pg_database: str, store: PostgresStore
) -> None:
    store.enqueue([new() for _ in range(4)])
    for name in ("w1", "w2"):
        store.register(worker(name), timeout_s=30.0, exclusive=False)
    line = opened(store)
    store._link.open().patience_s = 0.5
    with turn_of_another(pg_database, wish(2)):
        assert [in_turn(line, wish(2)) for _ in range(2)] == [(False, 0), (False, 0)]
        line.send("w1", wish(1), in_turn=False)
        answer = answer_of(line)
        assert (answer.turn, len(answer.claims())) == (None, 1), "who did not ask for a turn needs none"
    assert [in_turn(line, wish(2)) for _ in range(2)] == [(True, 2), (True, 1)], "it ends with the commit"
    line.close()


def test_lanes_have_turns_of_their_own(pg_database: str, store: PostgresStore) -> None:
    store.enqueue([new()])
    line = opened(store)
    for other in (LaneAsk(queue="other", priority=0, limit=1), LaneAsk(queue="default", priority=1, limit=1)):
        with turn_of_another(pg_database, msgspec.structs.replace(wish(1), lanes=[other])):
            assert in_turn(line, wish(1))[0]
    line.close()


def test_merged_lanes_have_one_turn_together(pg_database: str, store: PostgresStore) -> None:
    """Their order says nothing about where the oldest task is."""
    line = opened(store, "fifo")
    lanes = [LaneAsk(queue=queue, priority=0, limit=1) for queue in ("a", "b")]
    ask, other = (msgspec.structs.replace(wish(1, "fifo"), lanes=some) for some in (lanes, lanes[::-1]))
    with turn_of_another(pg_database, other):
        assert in_turn(line, ask) == (False, 0)
    line.close()


def test_a_turn_tells_whether_there_are_other_workers(store: PostgresStore) -> None:
    line, alone = opened(store), []
    for name in ("w1", "w2"):
        line.close()
        store.register(worker(name), timeout_s=30.0, exclusive=False)
        line = opened(store)
        line.send("w1", wish(1), in_turn=True)
        alone.append(answer_of(line).turn)
    line.close()
    assert alone == [Turn(mine=True, alone=True), Turn(mine=True, alone=False)]


def test_an_end_of_the_connection_is_told(pg_database: str, store: PostgresStore) -> None:
    store.enqueue([new()])
    line = opened(store)
    with psycopg.connect(pg_database, autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s)", (store._link.open().info.backend_pid,))
    with pytest.raises(StoreUnavailable):
        for _ in range(2):
            line.send("w1", wish(1), in_turn=False)
            answered(line)
    line.close()
    again = opened(store)
    again.send("w1", wish(1), in_turn=False)
    assert len(answered(again)) == 1
    again.close()


def test_a_server_that_does_not_answer_is_not_waited_for_for_ever(store: PostgresStore, pg_database: str) -> None:
    store.enqueue([new()])
    line = opened(store)
    store._link.open().patience_s = 0.2
    with psycopg.connect(pg_database) as other:
        other.execute("LOCK TABLE tasks")
        line.send("w1", wish(1), in_turn=False)
        with pytest.raises(StoreUnavailable, match="deadline"):
            while line.answer() is None:
                select.select([line], [], [], 0.05)
    line.close()


def test_who_stands_behind_a_slow_claim_has_all_the_patience_from_its_end_on(store: PostgresStore, pg_database: str) -> None:
    store.enqueue([new(), new()])
    line = opened(store)
    store._link.open().patience_s = 0.7

    def lock_and_hold() -> None:
        with psycopg.connect(pg_database) as second:
            second.execute("LOCK TABLE tasks")  # granted between the two claims
            threading.Event().wait(0.5)

    holder = threading.Thread(target=lock_and_hold)
    with psycopg.connect(pg_database) as first:
        first.execute("LOCK TABLE tasks")
        for _ in range(2):
            line.send("w1", wish(1), in_turn=False)
        threading.Event().wait(0.1)
        holder.start()
        threading.Event().wait(0.4)
    for _ in range(2):
        while (answer := line.answer()) is None:
            select.select([line], [], [], 0.05)
        assert len(answer.claims()) == 1
    holder.join()
    line.close()


def test_a_locked_table_is_not_waited_for_longer_than_by_an_exchange(store: PostgresStore, pg_database: str) -> None:
    """It is refused, so that it goes that way."""
    store.enqueue([new()])
    line = opened(store)
    with psycopg.connect(pg_database) as other:
        other.execute("LOCK TABLE tasks")
        began_s = time.monotonic()
        line.send("w1", wish(1), in_turn=False)
        with pytest.raises(StoreError, match="locked") as refused:
            answered(line)
    assert not isinstance(refused.value, StoreUnavailable)
    assert link.EXCHANGE_LOCK_TIMEOUT_S <= time.monotonic() - began_s < link.LOCK_TIMEOUT_S
    line.close()


def test_who_forgets_statements_is_taken_for_a_pooler(store: PostgresStore) -> None:
    store.enqueue([new()])
    opened(store).close()
    with store._link.connected() as connection:
        connection.execute("DEALLOCATE ALL")
    line = opened(store)
    line.send("w1", wish(1), in_turn=False)
    with pytest.raises(StoreError):
        answered(line)
    line.close()
    assert store.claim_line(wish(1)) is None
    assert len(store.exchange(Exchange(worker_id="w1", claim=wish(1))).claims) == 1


def test_a_type_that_is_no_text_to_postgresql_is_refused_as_a_whole(store: PostgresStore) -> None:
    line = opened(store)
    with pytest.raises(StoreError) as refused:
        line.send("w1", wish(1, None, "a\0b"), in_turn=False)
    assert not isinstance(refused.value, StoreUnavailable)
    line.close()


@pytest.mark.parametrize("why", ["told not to", "pooler"])
def test_where_the_session_keeps_nothing_there_is_no_line(pg_database: str, why: str, monkeypatch: Any) -> None:
    open_postgres(pg_database).migrate()
    if why == "pooler":
        monkeypatch.setattr(link, "is_pooled", lambda _connection: True)
    store = open_postgres(pg_database if why == "pooler" else f"{pg_database}&prepare_threshold=0")
    assert store.claim_line(wish(1)) is None
    store.close()


# ---- claims alone


def test_a_claim_that_nothing_is_written_with_is_one_statement(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that has just come waits for it."""
    tasks = store.enqueue([new() for _ in range(3)])
    alone = Exchange(worker_id="w1", claim=wish(1))
    assert [claim.task_id for claim in store.exchange(alone).claims] == [tasks[0].id], "prepared by this one"
    with monkeypatch.context() as patch:
        patch.setattr(link.Link, "transaction", lambda *_: pytest.fail("it takes a transaction of several statements"))
        assert [claim.task_id for claim in store.exchange(alone).claims] == [tasks[1].id]
    assert status(store, tasks[1].id) is TaskState.RUNNING
    with store._link.connected() as connection:
        assert connection.execute("SHOW lock_timeout").fetchone() == ("1s",), "it waits no longer for a lock than any exchange"


def test_a_claim_alone_whose_statement_the_server_has_forgotten_goes_the_ordinary_way(store: PostgresStore) -> None:
    store.enqueue([new() for _ in range(3)])
    for forget in (False, True, False):
        if forget:
            with store._link.connected() as connection:
                connection.execute("DEALLOCATE ALL", prepare=False)
        assert len(store.exchange(Exchange(worker_id="w1", claim=wish(1))).claims) == 1


@pytest.mark.parametrize("nothing", [wish(0), ClaimAsk(lanes=[], limit=1, running=1, types=[info()])])
def test_a_claim_of_nothing_gets_nothing(store: PostgresStore, nothing: ClaimAsk) -> None:
    store.enqueue([new()])
    assert not store.exchange(Exchange(worker_id="w1", claim=nothing)).claims
