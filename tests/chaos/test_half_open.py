"""A dead link without a word: no reset, no end, packets that never arrive. Nobody may wait for minutes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.stage import takes_long
from tests.pg_cluster import PgCluster

ROOT = Path(__file__).parents[2]
_ALONE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && iptables -L >/dev/null && exec "$@"', "alone"]


@pytest.fixture
def alone(pg_cluster: PgCluster) -> list[str]:
    """How to run something in a network of its own; skips where that cannot be done."""
    assert pg_cluster
    for program in ("unshare", "ip", "iptables"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed; on Debian: apt-get install util-linux iproute2 iptables")
    tried = subprocess.run([*_ALONE, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no network namespace can be made here: {tried.stderr.strip()}")
    return _ALONE


@takes_long
@pytest.mark.timeout(240)
def test_a_dead_link_is_noticed_by_both_ends_and_survived(alone: list[str], tmp_path: Path) -> None:
    command = [*alone, sys.executable, "-m", "tests.chaos.half_open", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=220)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
