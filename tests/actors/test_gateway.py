"""Health probes and /metrics over HTTP, from a gateway process with the board and the database it would have."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from actor_harness import memory
from claimer_harness import WORKER, Scene, info
from fake_peers import TYPE, ended
from msgspec.structs import replace
from process_harness import ActorProcess
from prometheus_client.parser import text_string_to_metric_families

from shiftboss import control
from shiftboss.actors.board import Board
from shiftboss.actors.layout import LISTEN_FD_VARIABLE
from shiftboss.config import settings_to_json
from shiftboss.store.base import ClaimAsk, CounterDelta, Exchange, LaneAsk
from shiftboss.store.counting import labels


class Http:
    """A gateway process and a client for it."""

    def __init__(self, process: ActorProcess) -> None:
        self.process = process
        process.wait_ready()
        url = str(process.wait_log("gateway.listening")["fields"]["url"])
        self.port = int(url.rpartition(":")[2])

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def health(self) -> tuple[int, dict[str, Any]]:
        status, body = self.get("/health")
        return status, json.loads(body)

    def metrics(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        status, body = self.get("/metrics")
        assert status == 200
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
        }


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Scene(tmp_path, metrics_port=0, heartbeat_interval_s=10.0) as made:
        yield made


@pytest.fixture
def board_fd() -> int:
    """A board as heartbeat and claimer of a healthy worker leave it."""
    fd = memory(4096)
    board = Board(os.dup(fd))
    board.worker_id = WORKER
    for figure, value in (("capacity", 4), ("active", 2), ("beat_s", time.monotonic()), ("claimer_s", time.monotonic())):
        board.set(figure, value)
    return fd


@pytest.fixture
def gateway(scene: Scene, board_fd: int) -> Iterator[Http]:
    with ActorProcess("gateway", scene.settings, board_fd=board_fd) as process:
        yield Http(process)


def test_health_names_the_worker_its_version_and_its_mode(gateway: Http) -> None:
    status, body = gateway.health()
    assert status == 200
    assert body == {
        "status": "healthy",
        "worker_id": WORKER,
        "version": metadata.version("shiftboss"),
        "distributed": False,
    }


@pytest.mark.parametrize(("figure", "word"), [("beat_s", "heartbeat"), ("claimer_s", "claimer")])
def test_health_is_bad_and_says_why_when_heartbeats_or_the_claimer_stay_away(gateway: Http, figure: str, word: str) -> None:
    gateway.process.board.set(figure, time.monotonic() - 25.0)
    status, body = gateway.health()
    assert (status, body["status"]) == (503, "unhealthy")
    assert word in body["reason"] and "25 s" in body["reason"]
    gateway.process.board.set(figure, time.monotonic())
    assert gateway.health()[0] == 200


def test_it_is_ready_while_it_takes_tasks_and_says_why_when_it_does_not(gateway: Http) -> None:
    assert gateway.get("/readyz") == (200, '{"status":"ready"}')
    for why, shown in (("asked to drain", "asked to drain"), ("", "draining")):
        gateway.process.tell(control.Drain(why=why))
        gateway.process.ping()
        status, body = gateway.get("/readyz")
        assert (status, json.loads(body)) == (503, {"status": "not ready", "reason": shown})
        assert gateway.health()[0] == gateway.get("/livez")[0] == 200
        gateway.process.tell(control.Resume())
        gateway.process.ping()
        assert gateway.get("/readyz")[0] == 200


def test_a_pool_that_keeps_crashing_is_not_healthy_and_a_drain_is(gateway: Http) -> None:
    gateway.process.tell(control.Drain(why="executor ended 20 times", broken=True))
    gateway.process.ping()
    status, body = gateway.health()
    assert (status, body["reason"]) == (503, "executor ended 20 times")
    assert json.loads(gateway.get("/readyz")[1])["reason"] == "executor ended 20 times"
    gateway.process.tell(control.Drain(why="drained by a command"))
    gateway.process.ping()
    assert gateway.health()[0] == 200
    assert gateway.metrics()["worker_ready", ()] == 0


def test_lost_health_is_one_line_and_so_is_its_return(gateway: Http) -> None:
    gateway.process.wait_log("gateway.listening")
    gateway.process.board.set("claimer_away_s", time.monotonic() - 9.0)
    line = gateway.process.wait_log("health.lost")
    assert line["level"] == "error" and "the database has not been reached for" in line["fields"]["reason"]
    assert gateway.metrics()["database_reachable", ()] == 0
    gateway.process.board.set("claimer_away_s", 0.0)
    assert gateway.process.wait_log("health.regained")["fields"]["duration_s"] >= 0.0
    assert len([line for line in gateway.process.log.things if line.get("event") == "health.lost"]) == 1


def test_one_that_is_not_healthy_is_not_ready_but_lives(gateway: Http) -> None:
    gateway.process.board.set("claimer_s", time.monotonic() - 25.0)
    status, body = gateway.get("/readyz")
    assert status == 503 and "claimer" in body
    assert gateway.get("/livez") == (200, '{"status":"alive"}')


def test_a_new_interval_of_heartbeats_is_judged_by_at_once(gateway: Http, scene: Scene) -> None:
    gateway.process.board.set("beat_s", time.monotonic() - 25.0)
    assert gateway.health()[0] == 503
    new = replace(scene.settings, heartbeat_interval_s=60.0, worker_timeout_s=180.0, distributed_mode=True)
    gateway.process.tell(control.Reload(settings=settings_to_json(new)))
    gateway.process.ping()
    status, body = gateway.health()
    assert (status, body["distributed"]) == (200, True)


def test_a_socket_that_was_passed_is_served_on_and_outlives_it(scene: Scene, board_fd: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        env = {LISTEN_FD_VARIABLE: str(listener.fileno())}
        for _ in range(2):
            with ActorProcess("gateway", scene.settings, board_fd=os.dup(board_fd), env=env, fds=(listener.fileno(),)) as process:
                gateway = Http(process)
                assert gateway.port == port
                assert gateway.get("/livez")[0] == 200
                process.tell(control.Leave())
                assert process.wait_exit() == 0
    os.close(board_fd)


def test_a_passed_socket_that_does_not_listen_ends_it_with_what_to_do(scene: Scene) -> None:
    with socket.socket() as mute:
        env = {LISTEN_FD_VARIABLE: str(mute.fileno())}
        with ActorProcess("gateway", scene.settings, env=env, fds=(mute.fileno(),)) as process:
            assert process.wait_exit() == 1
            line = process.log.wait(lambda line: line["level"] == "error", "an error")
            assert "ListenStream" in line["message"]


def test_those_who_come_first_and_all_at_once_are_all_answered(gateway: Http) -> None:
    """The server is loaded while they wait."""
    began_s = time.monotonic()
    with ThreadPoolExecutor(20) as clients:
        answers = list(clients.map(lambda _n: gateway.get("/livez")[0], range(20)))
    assert answers == [200] * 20
    assert time.monotonic() - began_s < 2.0


def test_a_server_that_cannot_be_loaded_ends_it_and_says_so(scene: Scene, tmp_path: Path) -> None:
    broken = tmp_path / "http"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('no room for another file')")
    with ActorProcess("gateway", scene.settings, env={"PYTHONPATH": str(tmp_path)}) as process:
        gateway = Http(process)
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            gateway.get("/livez")
        assert process.wait_exit() == 1
        line = process.log.wait(lambda line: line["level"] == "critical", "what happened")
        assert "no room for another file" in str(line)


def test_health_does_not_need_the_database(gateway: Http, scene: Scene) -> None:
    gateway.get("/metrics")
    for file in scene.path.parent.glob("tasks.db*"):
        if file.is_file():
            file.rename(f"{file}.gone")
    assert gateway.health()[0] == 200


def test_metrics_show_the_board_and_what_the_database_counted(gateway: Http, scene: Scene) -> None:
    scene.put_many(3)
    ask = ClaimAsk(lanes=[LaneAsk(queue="default", priority=0, limit=2)], limit=2, running=2, types=[info()])
    first, _second = scene.store.exchange(Exchange(worker_id=WORKER, claim=ask)).claims
    took = CounterDelta(name="task_claim_duration_seconds_bucket", labels=labels(le="0.005"), value=1.0)
    scene.store.exchange(Exchange(worker_id=WORKER, ended=[ended(first, duration_s=0.3)], counters=[took]))
    scene.store.elect(WORKER, 30.0)
    shown = gateway.metrics()
    type_ = ("type", TYPE)
    assert shown["worker_pool_capacity", ()] == 4
    assert shown["worker_pool_active", ()] == 2
    assert shown["tasks_enqueued_total", (type_,)] == 3
    assert shown["tasks_completed_total", (("status", "success"), type_)] == 1
    assert shown["tasks_pending", (type_,)] == 1
    assert shown["tasks_running", (type_,)] == 1
    assert shown["workers_total", ()] == 1
    assert shown["leader_status", (("worker_id", WORKER),)] == 1
    assert shown["task_duration_seconds_bucket", (("le", "0.5"), type_)] == 1
    assert shown["task_claim_duration_seconds_count", ()] == 1


def test_a_scrape_is_text_that_prometheus_accepts(gateway: Http) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    assert str(response.getheader("content-type")).startswith("text/plain; version=")
    assert b"python_info" not in response.read(), "only what is documented"
    connection.close()


def test_other_paths_and_methods_are_refused(gateway: Http) -> None:
    assert gateway.get("/")[0] == 404
    assert gateway.get("/metrics", method="POST")[0] == 405
    assert gateway.get("/health", method="DELETE")[0] == 405


def test_an_address_that_is_taken_ends_it_with_what_to_do(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with ActorProcess("gateway", replace(scene.settings, metrics_port=port)) as process:
            assert process.wait_exit() == 1
            line = process.log.wait(lambda line: line["level"] == "error", "an error")
            assert str(port) in line["message"] and "METRICS_PORT" in line["message"]


def test_a_broken_client_disturbs_nobody(gateway: Http) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port)) as rude:
        rude.sendall(b"\x00\xff nonsense\r\n\r\n")
    with socket.create_connection(("127.0.0.1", gateway.port)) as silent:
        silent.sendall(b"GET /metr")
        assert gateway.health()[0] == 200
