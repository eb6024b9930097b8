"""All figures of one run, and their file of JSON for machines."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from bench.drain import Drains
from bench.enqueue import Enqueue
from bench.features import Feature
from bench.idle import Idle
from bench.latency import Latencies
from bench.load import Drain
from bench.peers.compare import Peer
from tests.pg_cluster import PostgresMissing, find_server_programs


class Figures(msgspec.Struct, kw_only=True):
    """What was measured on one database; `None` where it was not asked for."""

    enqueue: Enqueue | None = None
    drain: Drains | None = None
    busy: dict[str, Drain] | None = None
    features: dict[str, Feature] | None = None
    latency: Latencies | None = None
    idle: Idle | None = None


class Report(msgspec.Struct, kw_only=True):
    """One run of the bench."""

    started_at: datetime
    machine: dict[str, str]
    quick: bool
    databases: dict[str, Figures]
    peers: list[Peer] | None = None


def describe_machine() -> dict[str, str]:
    """What the figures depend on."""
    cpu = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "cpu": cpu,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "postgres": _postgres_version(),
        "shiftboss": version("shiftboss"),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def write_json(report: msgspec.Struct, started_at: datetime, folder: Path, kind: str = "") -> Path:
    """Write a whole report to a file named after its start and its kind."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{started_at.astimezone(UTC):%Y%m%dT%H%M%SZ}{f'-{kind}' if kind else ''}.json"
    part = path.with_suffix(".part")  # a run that is killed leaves the last whole file
    part.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    return part.rename(path)


def _postgres_version() -> str:
    try:
        program = find_server_programs() / "postgres"
    except PostgresMissing:
        return "none"
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.split()[2]


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
