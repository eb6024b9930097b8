"""Signals at every moment of a start: none is lost, none ends it half-way, no process is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.acceptance.worker import ROOT

LAST_S = 0.600
AT_ONCE = 3
STOP_LIMIT_S = 10.0
PATIENCE_S = 30.0


class Ended(NamedTuple):
    """How one of them ended.

    Attributes:
        begun: before the signals were sent, lines of ours had run. Until then Python's own start obeys their default, and
            nothing exists that could be left.
        held: when they were sent, its mask or its handlers had them.
    """

    delay_s: float
    begun: bool
    held: bool
    code: int | None
    took_s: float
    left: list[str]
    log: str


def processes_of(session: int) -> list[str]:
    """Command lines of what lives in this session or was started from it; zombies do not count."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if stat[0] not in "ZX" and f"START_TEST={session}\0".encode() in environment:
            found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def has_begun(pid: int) -> bool:
    """Whether it has loaded anything that the first line of ours comes before, or has become the supervisor."""
    process = Path(f"/proc/{pid}")
    return "msgspec" in (process / "maps").read_text() or b"shiftboss.service" in (process / "cmdline").read_bytes()


def holds(pid: int, number: signal.Signals) -> bool:
    """Whether the process blocks or catches the signal now."""
    masks = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Sig"))
    return any(int(masks[name].split("/")[0], 16) >> (number - 1) & 1 for name in ("SigBlk", "SigCgt"))


def start_and_signal(folder: Path, number: int, delay_s: float, signals: tuple[signal.Signals, ...]) -> Ended:
    """Start a service, send the signals `delay_s` after its exec, and see how it ends."""
    home = folder / f"{number}"
    home.mkdir()
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "shiftboss.cli", "start", "--set", "metrics_port=0", "--set", "executors=1"],
            cwd=home,
            env={
                **{name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "SHIFTBOSS_ENV")},
                "START_TEST": str(number),
                "PYTHONPATH": str(ROOT),
                "SHIFTBOSS_LOG_FORMAT": "json",
            },
            stdin=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    try:
        threading.Event().wait(delay_s)
        begun = has_begun(process.pid)
        held = holds(process.pid, signal.SIGTERM)
        for one in signals:
            process.send_signal(one)
        began_s = time.monotonic()
        try:
            code: int | None = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            code = None
        took_s = time.monotonic() - began_s
        left = processes_of(number)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(PATIENCE_S)
    return Ended(delay_s, begun, held, code, took_s, left, (home / "log").read_text(errors="replace"))


# Each start costs half a second of a core, so the whole row of them is for CI.
STEP_S = 0.005 if os.environ.get("CI") else 0.040


@pytest.mark.long("TERM")
@pytest.mark.timeout(300)  # some 140 starts: half a minute where nothing else runs
@pytest.mark.parametrize(
    ("signals", "step_s"),
    [((signal.SIGTERM,), STEP_S), ((signal.SIGHUP, signal.SIGTERM), max(STEP_S, 0.030))],
    ids=["TERM", "HUP then TERM"],
)
def test_a_signal_at_any_moment_of_a_start_is_obeyed(signals: tuple[signal.Signals, ...], step_s: float, tmp_path: Path) -> None:
    delays = [step * step_s for step in range(round(LAST_S / step_s) + 1)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ends = list(pool.map(lambda step: start_and_signal(tmp_path, step, delays[step], signals), range(len(delays))))
    for end in ends:
        allowed = {0} if end.held else {0, *(-one for one in signals)}
        assert end.code in allowed, end
        assert end.held or not end.begun, end
        assert end.left == [], end
        assert "Traceback" not in end.log, end
    took_s = sorted(end.took_s for end in ends)
    assert took_s[len(ends) * 9 // 10] < STOP_LIMIT_S, took_s  # other tests share the machine, so not all of them


def test_what_is_held_at_the_start_is_what_the_service_obeys() -> None:
    from shiftboss.cli import HELD_AT_START
    from shiftboss.supervisor.signals import HANDLED

    assert set(HELD_AT_START) < set(HANDLED)


def test_a_start_that_fails_still_says_why(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("debug = 3\n")
    ran = subprocess.run(
        [sys.executable, "-m", "shiftboss.cli", "start", "--config", "bad.toml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (ran.returncode, "bad.toml:1" in ran.stderr) == (78, True)
