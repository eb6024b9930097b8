"""`python -m examples.pysurvey.demo [FOLDER]`: survey every Python file of this machine's installation while parts of the
service are killed, then prove from the database that nothing was lost.

Exit status: 0 when every check holds, 1 when one does not or the service failed, 2 for a wrong folder, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from examples.pysurvey.files import MAX_FILES, Selection, installation_roots, select, write_broken_files
from examples.pysurvey.proof import Check, Evidence, percentile
from examples.pysurvey.screen import Bar, Screen
from examples.pysurvey.tasks import ping, report, survey_file, survey_file_async
from examples.pysurvey.worker import Service, ServiceFailed
from shiftboss.bound import Prepared
from shiftboss.client import Client

_KILL_AT: Final = ((0.3, "executor-1"), (0.6, "claimer"))  # share of the tasks that have ended, whom to kill then
_STALLED_S: Final = 90.0
_PINGS: Final = 40
_POLL_S: Final = 0.1
_BUSY: Final = 100  # with so many tasks left, an executor that is killed was running some


@dataclass
class Kill:
    """One SIGKILL."""

    name: str
    pid: int
    at_s: float
    ready_before: int
    back_as: int | None = None


@dataclass
class Run:
    """One demonstration, as far as it is."""

    screen: Screen
    service: Service
    client: Client
    folder: Path
    sent: list[str] = field(default_factory=list)
    due: list[tuple[float, str]] = field(default_factory=lambda: list(_KILL_AT))
    kills: list[Kill] = field(default_factory=list)
    executor_was_busy: bool = False

    def prepare(self, selection: Selection) -> list[Prepared[Any]]:
        """One task for each file; every fourth is of the async type."""
        broken = write_broken_files(self.folder / "broken files")
        paths = [*selection.paths, *broken]
        return [(survey_file_async if index % 4 == 3 else survey_file).prepare(path) for index, path in enumerate(paths)]

    def start(self) -> None:
        self.screen.heading("The service")
        self.screen.line("$ shiftboss start --config shiftboss.toml", "dim")
        self.service.start()
        self.screen.tree(self.service.processes())

    def work(self, tasks: Sequence[Prepared[Any]]) -> None:
        """Enqueue everything, wait until everything has ended, and kill on the way."""
        self.screen.heading("The work")
        began_s = time.monotonic()
        self.sent += [handle.id for handle in self.client.enqueue_many(tasks)]
        took_s = time.monotonic() - began_s
        self.screen.line(f"{len(tasks):,} tasks enqueued in {took_s:.2f} s; now they run, and parts of the service are killed")
        with Evidence(self.service.database) as evidence, self.screen.bar(len(tasks)) as bar:
            self._wait_for_ends(evidence, bar, len(tasks))
        for kill in self.kills:
            self.service.wait_until(lambda kill=kill: self._is_back(kill), _STALLED_S, f"{kill.name} did not come back")  # type: ignore[misc]

    def _wait_for_ends(self, evidence: Evidence, bar: Bar, total: int) -> None:
        ended, moved_s = 0, time.monotonic()
        while ended < total:
            self.service.pause(_POLL_S)
            now_ended = evidence.ended()
            if now_ended != ended:
                ended, moved_s = now_ended, time.monotonic()
            elif time.monotonic() - moved_s > _STALLED_S:
                raise ServiceFailed(f"no task has ended for {_STALLED_S:.0f} s: {ended} of {total} are done")
            bar.show(ended)
            self._kill_when_due(evidence, ended, total)
        for _share, name in self.due:
            self._kill(name, ended)  # so few tasks that they were over before: the service shows the same when idle

    def _kill_when_due(self, evidence: Evidence, ended: int, total: int) -> None:
        if not all(self._is_back(kill) for kill in self.kills) or not self.due:
            return
        if self.executor_was_busy and total - ended >= _BUSY and not evidence.crashed():
            self._kill("executor-1", ended)  # the last time it was just between two tasks
            return
        share, name = self.due[0]
        if share * total <= ended < total:
            self.due.pop(0)
            self.executor_was_busy |= name.startswith("executor") and total - ended >= _BUSY
            self._kill(name, ended)

    def _kill(self, name: str, ended: int) -> None:
        pid = self.service.pid_of(name)
        if pid is None:
            raise ServiceFailed(f"there is no {name} to kill")
        self.kills.append(Kill(name, pid, time.monotonic(), self.service.incarnations_ready(name)))
        os.kill(pid, signal.SIGKILL)
        self.screen.line(f"kill -9 {pid}   {name}, with {ended:,} tasks done", "bold red")

    def _is_back(self, kill: Kill) -> bool:
        if kill.back_as is None and self.service.incarnations_ready(kill.name) > kill.ready_before:
            kill.back_as = self.service.pid_of(kill.name)
            if kill.back_as is not None:
                seconds = time.monotonic() - kill.at_s
                self.screen.line(f"{kill.name} is back as pid {kill.back_as} after {seconds:.1f} s", "green")
        return kill.back_as is not None

    def measure_latency(self) -> None:
        """How soon an idle service starts a task: one at a time."""
        self.screen.heading("Idle now: how soon does a new task start?")
        waits = []
        for _ in range(_PINGS):
            handle = self.client.enqueue(ping)
            self.sent.append(handle.id)
            handle.result(timeout=_STALLED_S)
            view = handle.view()
            if view.started_at is not None:
                waits.append((view.started_at - view.enqueued_at).total_seconds())
        p50, p99 = (percentile(sorted(waits), share) or 0.0 for share in (0.5, 0.99))
        self.screen.line(f"enqueue to start, {len(waits)} tasks one by one: p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms")

    def write_report(self) -> None:
        """The last task: the others' results on one page."""
        handle = self.client.enqueue(report, self.client.database_url, str(self.folder))
        self.sent.append(handle.id)
        summary = handle.result(timeout=_STALLED_S)
        self.screen.heading("What the files hold")
        self.screen.line(
            f"{summary.files:,} files, {summary.lines:,} lines, {summary.functions:,} functions, {summary.classes:,} classes; "
            f"{summary.size / 1e6:.1f} MB, compressed {summary.compressed / 1e6:.1f} MB"
        )
        for most in summary.longest_functions[:1]:
            self.screen.line(f"longest function: {most.longest}, {most.longest_lines:,} lines, in {Path(most.path).name}")

    def stop(self) -> list[Check]:
        """SIGTERM, as systemd would send it."""
        began_s = time.monotonic()
        code = self.service.stop()
        took_s = time.monotonic() - began_s
        left = self.service.processes()
        ended = "did not end" if code is None else f"ended with exit code {code} after {took_s:.1f} s"
        return [
            Check(code == 0, f"the service {ended}"),
            Check(not left, ", ".join(f"{one.name} {one.pid} is left" for one in left) or "none of its processes is left"),
        ]

    def closing(self) -> list[Check]:
        """The tables and the proof; the service has stopped, so nobody can change what is read."""
        with Evidence(self.service.database) as evidence:
            figures, letters, span_s = evidence.figures(), evidence.dead_letters(), evidence.span_s()
            checks = evidence.checks(self.sent, self.executor_was_busy)
            example = evidence.crash_example()
        files = sum(one.completed + one.dead_letters for one in figures if one.type.startswith("survey:file"))
        self.screen.heading("All tasks")
        self.screen.figures(figures)
        speed = files / max(span_s, 0.001)
        self.screen.line(f"{files:,} files in {span_s:.1f} s: {speed:,.0f} tasks a second, both restarts included")
        self.screen.heading("Dead letters, kept for a person")
        self.screen.dead_letters(letters, self.folder, most=8)
        if example is not None:
            self.screen.heading("What the database says of an attempt that was killed")
            self.screen.line(example, "dim")
        return [*checks, *(Check(kill.back_as not in (None, kill.pid), _told(kill)) for kill in self.kills)]


def _told(kill: Kill) -> str:
    return f"{kill.name} was killed (pid {kill.pid}) and came back (pid {kill.back_as})"


def introduce(screen: Screen, selection: Selection, folder: Path) -> None:
    """Say what will be read, and what not."""
    screen.heading("Survey of Python source")
    screen.line(f"Python {platform.python_version()}, {os.cpu_count()} cores; tasks are kept in SQLite, in {folder}", "dim")
    for root in selection.roots:
        screen.line(f"reads   {root}")
    screen.line(f"files   {len(selection.paths):,}")
    if selection.left_out:
        screen.line(f"        {selection.left_out:,} more left out, evenly, so that this takes no longer than a minute or two")
    if selection.unnameable:
        screen.line(f"        {selection.unnameable:,} left out: their names are not UTF-8")
    screen.line("        5 deliberately broken files added, and one that does not exist")


def run(screen: Screen, selection: Selection, folder: Path) -> int:
    """The whole demonstration in `folder`; returns the exit status."""
    introduce(screen, selection, folder)
    service = Service(folder)
    try:
        with Client(service.database_url) as client:
            this = Run(screen, service, client, folder)
            this.start()
            this.work(this.prepare(selection))
            this.measure_latency()
            this.write_report()
        stopped = this.stop()
        checks = [*this.closing(), *stopped]
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave processes behind
        service.end_by_force()
        signal.signal(signal.SIGINT, signal.default_int_handler)
    screen.heading("The proof, read from the database after the stop")
    screen.checks(checks)
    return _verdict(screen, checks)


def _verdict(screen: Screen, checks: Sequence[Check]) -> int:
    failed = [check.text for check in checks if not check.kept]
    screen.console.print()
    if failed:
        screen.line(f"NOT PROVED: {'; '.join(failed)}", "bold red")
        return 1
    screen.line("Every task reached exactly one end.", "bold green")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, make the working folder, run, tidy up."""
    parser = argparse.ArgumentParser(prog="python -m examples.pysurvey.demo", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="read the .py files below it; default: this Python installation")
    parser.add_argument("--limit", type=int, default=MAX_FILES, help="most files to read (default: %(default)s, and about 60 MB)")
    parser.add_argument("--keep", action="store_true", help="keep the working folder: database, log, report")
    given = parser.parse_args(arguments)
    if given.folder is not None:
        given.folder = given.folder.expanduser()  # not every shell does it in `make demo FOLDER=~/projects`
        if not given.folder.is_dir():
            parser.error(f"{given.folder} is not a folder")
    if given.limit < 1:
        parser.error(f"--limit {given.limit}: at least 1")
    selection = select(installation_roots() if given.folder is None else (given.folder.resolve(),), given.limit)
    if not selection.paths:
        parser.error(f"no .py files below {given.folder}")
    return _in_working_folder(selection, given.keep)


def _in_working_folder(selection: Selection, keep: bool) -> int:
    screen, folder = Screen(), Path(tempfile.mkdtemp(prefix="shiftboss-demo-")).resolve()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same way out as for Ctrl-C
    status = 1
    try:
        status = run(screen, selection, folder)
    except KeyboardInterrupt:
        status = 130
        screen.line("interrupted; the service was stopped", "bold")
    except ServiceFailed as error:
        screen.line(f"FAILED: {error}", "bold red")
    finally:
        if keep or status == 1:
            screen.line(f"kept: {folder} (shiftboss.db, service.log, report.md)")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
