"""A heartbeat process and the row it keeps: after a reload, after a scale, and when its successor takes over."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from actor_harness import eventually, memory
from msgspec.structs import replace
from process_harness import ActorProcess
from psycopg.conninfo import conninfo_to_dict

from shiftboss import control
from shiftboss.actors.board import Board
from shiftboss.actors.heartbeat import Heartbeat
from shiftboss.config import QueueSettings, Settings, settings_to_json
from shiftboss.errors import StoreUnavailable
from shiftboss.model import WorkerView
from shiftboss.store.base import Store
from shiftboss.store.open import open_store
from tests.chaos.proxy import Cut, Rule, proxied
from tests.pg_cluster import PgCluster


class Beating:
    """One heartbeat, or several in a row on one board, and an operator's connection."""

    def __init__(self, process: ActorProcess, settings: Settings) -> None:
        self.process, self.settings = process, settings
        process.wait_ready()
        self.store: Store = open_store(settings.database_url)

    def row(self) -> WorkerView:
        (found,) = self.store.workers()
        return found

    def reload(self, **changed: object) -> None:
        self.settings = replace(self.settings, **changed)  # type: ignore[arg-type]
        self.process.tell(control.Reload(settings=settings_to_json(self.settings)))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Beats so seldom that a test sees only those it causes."""
    return Settings(
        database_url=f"sqlite:///{tmp_path / 'tasks.db'}",
        log_format="json",
        worker_pool_size=4,
        heartbeat_interval_s=600.0,
        worker_timeout_s=2_000.0,
    )


@pytest.fixture
def beating(settings: Settings) -> Iterator[Beating]:
    with ActorProcess("heartbeat", settings) as process:
        made = Beating(process, settings)
        yield made
        made.store.close()


def test_a_new_timeout_is_in_the_row_at_once(beating: Beating) -> None:
    before = beating.row()
    beating.reload(worker_timeout_s=0.3, heartbeat_interval_s=600.0)
    eventually(lambda: beating.row().last_heartbeat > before.last_heartbeat, "a beat")
    eventually(lambda: not beating.row().alive, "by the new timeout it is gone, by the old one it would not be")


def test_a_new_interval_holds_at_once(beating: Beating) -> None:
    beating.reload(heartbeat_interval_s=0.1)
    seen: set[object] = set()
    eventually(lambda: seen.add(beating.row().last_heartbeat) or len(seen) > 4, "several beats")


def test_the_row_tells_the_slots_there_are(beating: Beating) -> None:
    assert beating.row().pool_size == 4
    beating.reload(worker_pool_size=6)
    eventually(lambda: beating.row().pool_size == 6, "the configured ones, while no executor has spoken")
    beating.process.board.set("capacity", 8)
    beating.reload()
    eventually(lambda: beating.row().pool_size == 8, "those of the executors")


def test_queues_are_set_again(beating: Beating) -> None:
    beating.reload(queues={"mail": QueueSettings(concurrency=2, weight=5)})

    def found() -> bool:
        return any((queue.name, queue.concurrency, queue.weight) == ("mail", 2, 5) for queue in beating.store.queues())

    eventually(found, "the queue")


def test_one_that_leaves_keeps_the_row_for_its_successor(settings: Settings) -> None:
    with ActorProcess("heartbeat", settings) as process:
        first = Beating(process, settings)
        worker_id = process.board.worker_id
        process.tell(control.Leave())
        assert process.wait_exit() == 0
        assert first.row().id == worker_id
        with ActorProcess("heartbeat", settings, board_fd=os.dup(process.board_fd)) as successor:
            successor.wait_ready()
            assert first.row().id == successor.board.worker_id == worker_id
        first.store.close()


def test_a_missed_heartbeat_is_said_once_an_interval_and_when_trust_ends(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again every second or two: an outage of an hour would be thousands of lines."""
    process: Any = SimpleNamespace(name="heartbeat", parent_pid=1, settings=replace(settings, heartbeat_interval_s=10.0))
    process.board = Board(memory(4096))
    heartbeat, away = Heartbeat(process), StoreUnavailable("the database is away")
    for at_s, trusted in ((0.0, True), (1.5, True), (9.0, True), (10.0, True), (12.0, True), (13.0, False), (14.0, False)):
        heartbeat._say_missed(away, at_s, trusted)
    said = [record.__dict__["fields"]["trusted"] for record in caplog.records if record.message == "heartbeat.missed"]
    assert said == [True, True, False]


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[ActorProcess]:
    """One whose database has not been there yet."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    settings = Settings(
        database_url=f"postgresql://nobody@127.0.0.1:{port}/none", log_format="json", distributed_mode=True, start_timeout_s=60.0
    )
    with ActorProcess("heartbeat", settings) as process:
        process.said.wait(lambda said: said == control.Report(status="waiting for the database"), "it waits")
        yield process


def test_one_that_waits_for_the_database_at_its_start_can_be_stopped(waiting: ActorProcess) -> None:
    """At once, and not by force when its time is up."""
    began_s = time.monotonic()
    waiting.tell(control.Stop(drain_s=0.0, grace_s=0.0))
    assert waiting.wait_exit() == 0
    assert time.monotonic() - began_s < 2.0
    assert not [line for line in waiting.log.things if line["level"] == "CRITICAL" or "row" in line["message"]]


def test_one_that_waits_for_the_database_at_its_start_answers_and_takes_new_settings(waiting: ActorProcess) -> None:
    waiting.tell(control.Reload(settings=settings_to_json(Settings(log_format="json", heartbeat_interval_s=1.0))))
    waiting.ping()
    threading.Event().wait(0.3)
    waiting.ping()
    assert not waiting.said.of(control.Ready)
    assert not [line for line in waiting.log.things if line.get("event") == "heartbeat.missed"], "there is no row to renew"


@pytest.mark.parametrize("cut", [Cut.REQUEST, Cut.MIDDLE, Cut.REPLY])
def test_a_database_that_goes_away_while_it_registers_is_waited_for(pg_cluster: PgCluster, pg_database: str, cut: Cut) -> None:
    """Under the same name, or a row would stay behind that nobody renews."""
    database = str(conninfo_to_dict(pg_database)["dbname"])
    with proxied(pg_cluster.port) as proxy:
        settings = Settings(database_url=pg_cluster.dsn(database, port=proxy.port), log_format="json", distributed_mode=True)
        rule = proxy.arm(Rule(["register"], cut))
        with ActorProcess("heartbeat", settings) as process:
            process.wait_ready()
            store = open_store(pg_database)
            assert rule.fired == 1
            assert [one.id for one in store.workers()] == [process.board.worker_id]
            store.close()
