"""A network that swallows every packet to and from the server, in a network namespace of its own; see test_half_open.py.

`python -m tests.chaos.half_open FOLDER`, in a namespace in which it may do as it likes. Prints what it has measured, and ends
with 0 when everything was as promised.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import psycopg

from shiftboss.store.open import open_store
from tests.acceptance.worker import until
from tests.chaos.stage import stage
from tests.pg_cluster import PgCluster

NOTICED_WITHIN_S: Final = 20.0
SERVER_NOTICES_WITHIN_S: Final = 40.0
BACK_WITHIN_S: Final = 12.0  # a connection that is being made just then waits for its own deadline
_CLIENTS: Final = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'shiftboss %'"


def main(folder: Path) -> int:
    with PgCluster() as cluster:
        direct = cluster.create_database("far")
        store = open_store(direct)
        store.migrate()
        store.close()
        with stage(folder, cluster.dsn("far", tcp=True), direct, tasks=1_500) as play:
            worker = play.worker()
            play.producer.start(over_s=5.0)
            until("working", lambda: play.ends() > 200)
            cut_s = time.monotonic()
            _drop("-A", cluster.port)
            until("noticed", lambda: worker.lines("database.unreachable"), NOTICED_WITHIN_S)
            print(f"noticed after {time.monotonic() - cut_s:.1f} s")
            until("the server has let them go", lambda: not _clients(direct), SERVER_NOTICES_WITHIN_S)
            print(f"the server noticed after {time.monotonic() - cut_s:.1f} s")
            _drop("-D", cluster.port)
            back_s = time.monotonic()
            play.flows(BACK_WITHIN_S)
            print(f"work went on after {time.monotonic() - back_s:.1f} s")
            play.over()
            assert not play.actors_lost(), play.actors_lost()
    return 0


def _drop(how: str, port: int) -> None:
    for side in ("--sport", "--dport"):
        subprocess.run(["iptables", how, "INPUT", "-p", "tcp", side, str(port), "-j", "DROP"], check=True)


def _clients(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        found = connection.execute(_CLIENTS).fetchone()
    assert found is not None
    return int(found[0])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
