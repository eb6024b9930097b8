"""The journal: what an entry says, and that a journald which is slow, stalled or gone stops nobody."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from journald_double import Journald, parse
from log_harness import capture, restored_logging  # noqa: F401  a fixture

from shiftboss.events import MESSAGE_IDS, Event, emit
from shiftboss.logs import bind_task, bind_worker, close_logging, configure_logging, flush_logging
from shiftboss.logs.journal import MAX_WAITING, MAX_WAITING_BYTES, JournalHandler, _Sent

log = logging.getLogger("app")
PATIENCE_S = 10.0


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journald]:
    made = Journald(tmp_path / "journal")
    monkeypatch.setenv("SHIFTBOSS_JOURNAL_SOCKET", made.path)
    configure_logging("journal", "debug", actor="executor-1")
    yield made
    made.close()


def only(journald: Journald) -> dict[str, str]:
    """The one entry that is there; each of its fields has one value."""
    (entry,) = journald.entries()
    assert all(len(values) == 1 for values in entry.values())
    return {name: values[0] for name, values in entry.items()}


# ---- what an entry says


def test_a_tasks_line_is_found_by_the_fields_of_its_task(journald: Journald) -> None:
    bind_worker(lambda: "host-1-abc")
    with bind_task("0190", "mail:send", 2, "mail"):
        log.info("line one\nline two \x1b[2J", extra={"user": 7, "task_id": "forged", "http.status": 200, "_PID": 1})
    assert only(journald) == {
        "MESSAGE": r"executor-1 [mail:send 0190 attempt 2] app line one\nline two \x1b[2J user=7 task_id=forged"
        r" http.status=200 _PID=1",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "shiftboss",
        "SHIFTBOSS_PROCESS": "executor-1",
        "LOGGER": "app",
        "ACTOR": "executor-1",
        "WORKER_ID": "host-1-abc",
        "TASK_ID": "0190",
        "TASK_TYPE": "mail:send",
        "QUEUE": "mail",
        "ATTEMPT": "2",
        "SHIFTBOSS_USER": "7",
        "SHIFTBOSS_TASK_ID": "forged",
        "SHIFTBOSS__PID": "1",
    }


def test_an_event_names_whom_it_is_about(journald: Journald) -> None:
    bind_worker(lambda: "host-1-abc")
    fields: dict[str, Any] = {"task_id": "0190", "type": "mail:send", "queue": "mail", "attempt": 2}
    emit(log, logging.WARNING, Event.TASK_FAILED, outcome="failed", error="two words", retry_in_s=1.5, **fields)
    entry = only(journald)
    assert (entry["TASK_ID"], entry["TASK_TYPE"], entry["QUEUE"], entry["ATTEMPT"]) == ("0190", "mail:send", "mail", "2")
    assert (entry["SHIFTBOSS_EVENT"], entry["SHIFTBOSS_ERROR"], entry["SHIFTBOSS_RETRY_IN_S"]) == (
        "task.failed",
        "two words",
        "1.5",
    )
    assert "SHIFTBOSS_TASK_ID" not in entry
    emit(log, logging.ERROR, Event.ACTOR_CRASHED, actor="executor-7", signal="SIGKILL", exit_code=None)
    entry = only(journald)
    assert (entry["ACTOR"], entry["SHIFTBOSS_PROCESS"], entry["SHIFTBOSS_SIGNAL"]) == ("executor-7", "executor-1", "SIGKILL")
    assert "SHIFTBOSS_EXIT_CODE" not in entry
    emit(log, logging.WARNING, Event.WORKER_REMOVED, worker_id="host-2-def")
    assert only(journald)["WORKER_ID"] == "host-2-def"


def test_a_line_about_several_tasks_is_found_by_each(journald: Journald) -> None:
    emit(log, logging.WARNING, Event.ATTEMPTS_LOST, actor="executor-2", task_ids=["0190", "0191"])
    (entry,) = journald.entries()
    assert entry["TASK_ID"] == ["0190", "0191"]


@pytest.mark.parametrize("event", sorted(MESSAGE_IDS))
def test_what_a_person_is_woken_for_has_a_message_id(journald: Journald, event: str) -> None:
    emit(log, logging.ERROR, Event(event))
    message_id = only(journald)["MESSAGE_ID"]
    assert re.fullmatch("[0-9a-f]{32}", message_id)
    page = (Path(__file__).parents[2] / "docs" / "reference" / "events.md").read_text()
    assert f"| `{event}` | `{message_id}` |" in page


def test_the_message_ids_are_five_and_differ() -> None:
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS) == 5


def test_a_traceback_is_part_of_its_entry(journald: Journald) -> None:
    try:
        raise ValueError("first\nsecond \x1b[2J")
    except ValueError:
        log.exception("caught")
    entry = only(journald)
    head, *trace = entry["MESSAGE"].split("\n")
    assert head == "executor-1 app caught"
    assert (trace[0], trace[-2:]) == ("Traceback (most recent call last):", ["ValueError: first", r"second \x1b[2J"])
    assert entry["SHIFTBOSS_TRACEBACK"] == "\n".join(trace)


def test_warnings_say_where_they_come_from(journald: Journald) -> None:
    emit(log, logging.WARNING, Event.TASK_FAILED)
    entry = only(journald)
    assert entry["CODE_FILE"] == __file__
    assert entry["CODE_FUNC"] == "test_warnings_say_where_they_come_from"
    assert int(entry["CODE_LINE"]) > 0
    log.info("x")
    assert not {"CODE_FILE", "CODE_LINE", "CODE_FUNC"} & set(only(journald))


@pytest.mark.parametrize(("event", "priority"), [(Event.SERVICE_STOPPING, 5), (Event.ACTOR_STOPPED, 6)])
def test_the_services_own_life_is_a_notice(journald: Journald, event: Event, priority: int) -> None:
    emit(log, logging.INFO, event)
    assert only(journald)["PRIORITY"] == str(priority)


@pytest.mark.parametrize(("level", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2)])
def test_priorities(journald: Journald, level: str, priority: int) -> None:
    getattr(log, level)("x")
    assert only(journald)["PRIORITY"] == str(priority)


def test_a_lone_surrogate_and_an_object_that_cannot_be_shown_are_said(journald: Journald) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    # Past pytest's own handlers: what they capture, its workers could not send to each other.
    handler().handle(log.makeRecord(log.name, logging.INFO, __file__, 1, "\ud800", (), None, extra={"number": float("nan")}))
    assert only(journald)["SHIFTBOSS_NUMBER"] == "nan"
    handler().handle(logging.makeLogRecord({"msg": Broken()}))
    assert "cannot be formatted: RuntimeError" in only(journald)["MESSAGE"]


def test_an_entry_too_big_for_a_datagram_goes_as_a_file(journald: Journald) -> None:
    many = {f"part_{number}": "x" * 7_000 for number in range(1_500)}
    log.info("big", extra=many)
    (entry,) = journald.entries()
    assert journald.by_file == 1
    assert entry["SHIFTBOSS_PART_1499"] == ["x" * 7_000]


# ---- a journald that does not read, or is not there


def handler() -> JournalHandler:
    (ours,) = [one for one in logging.getLogger().handlers if isinstance(one, JournalHandler)]  # pytest has some of its own
    return ours


def log_until_one_waits() -> int:
    """How many lines journald's socket took; one more waits."""
    for number in range(100_000):
        log.info("line %d", number)
        if handler().waiting:
            return number
    raise AssertionError("the socket takes everything")


def test_a_stalled_journald_gets_every_line_in_order_when_it_reads_again(journald: Journald) -> None:
    taken = log_until_one_waits()
    for number in range(taken + 1, taken + 499):
        log.info("line %d", number)
    seen = journald.entries()
    log.info("line %d", taken + 499)  # there is room, and others come first
    while not flush_logging():
        seen += journald.entries()
    seen += journald.entries()
    assert [entry["MESSAGE"] for entry in seen] == [[f"executor-1 app line {number}"] for number in range(taken + 500)]
    assert "SHIFTBOSS_LOGGED_AT" in seen[-1] and "SHIFTBOSS_LOGGED_AT" not in seen[0]


def test_beyond_the_limit_lines_are_dropped_and_counted_once_it_reads_again(journald: Journald) -> None:
    taken = log_until_one_waits()
    began_s = time.monotonic()
    for number in range(MAX_WAITING + 2_000):
        log.info("more %d", number)
    assert time.monotonic() - began_s < 2  # nothing was waited for
    seen = journald.entries()
    while not flush_logging():
        seen += journald.entries()
    seen += journald.entries()
    assert len(seen) == taken + MAX_WAITING + 1
    assert seen[-1]["SHIFTBOSS_EVENT"] == ["journal.dropped"]
    assert seen[-1]["SHIFTBOSS_COUNT"] == ["2001"]
    log.info("next")
    assert only(journald)["MESSAGE"] == "executor-1 app next"  # said once


def test_what_waits_is_bounded_in_bytes(journald: Journald) -> None:
    log_until_one_waits()
    for _ in range(400):
        log.info("x" * 7_900)
    assert handler().waiting < MAX_WAITING_BYTES // 7_900 + 2
    assert handler().dropped > 200


def test_without_another_line_a_thread_sends_what_waits(journald: Journald) -> None:
    configure_logging("journal", actor="executor-1", background=True)
    taken = log_until_one_waits()
    seen = journald.entries()
    while len(seen) < taken + 1:
        more = journald.entries(PATIENCE_S)
        assert more, "nothing came"
        seen += more
    assert seen[-1]["MESSAGE"] == [f"executor-1 app line {taken}"]


@pytest.mark.parametrize("background", [True, False], ids=["by the thread", "by whoever flushes"])
def test_how_many_were_dropped_is_said_also_when_the_journal_is_full_again_just_then(
    journald: Journald,
    monkeypatch: pytest.MonkeyPatch,
    background: bool,
) -> None:
    """Others write to it, too: what waited finds room, and the line that counts what did not has to wait for more."""
    configure_logging("journal", actor="executor-1", background=background)
    room, sent, full = 0, list[bytes](), threading.Event()

    def send(_self: JournalHandler, entry: bytes) -> _Sent:
        nonlocal room
        if not room:
            full.set()
            return _Sent.LATER
        room -= 1
        sent.append(entry)
        return _Sent.YES

    def is_tried_again() -> bool:
        full.clear()
        return full.wait(PATIENCE_S) if background else not flush_logging()

    monkeypatch.setattr(JournalHandler, "_send", send)
    for number in range(MAX_WAITING + 3):
        log.info("line %d", number)
    room = MAX_WAITING
    assert is_tried_again()
    assert (len(sent), handler().waiting) == (MAX_WAITING, 0)
    assert is_tried_again()
    room = 1
    assert background or flush_logging()
    deadline_s = time.monotonic() + PATIENCE_S
    while len(sent) == MAX_WAITING and time.monotonic() < deadline_s:
        threading.Event().wait(0.01)
    counted = parse(sent[-1])
    assert (counted["SHIFTBOSS_EVENT"], counted["SHIFTBOSS_COUNT"]) == (["journal.dropped"], ["3"])


def test_no_thread_is_started_while_the_journal_keeps_up(journald: Journald) -> None:
    configure_logging("journal", actor="executor-1", background=True)
    before = threading.active_count()
    for _ in range(50):
        log.info("x")
        journald.entries()
    assert threading.active_count() == before


def test_a_journald_that_is_gone_is_replaced_by_standard_error_until_it_is_back(journald: Journald) -> None:
    with capture() as captured:
        journald.close()
        with bind_task("0190", "t", 1, "q"):
            log.error("gone")
        assert captured.text() == "<3>executor-1 [t 0190 attempt 1] app gone\n"
        again = Journald(Path(journald.path))
        log.info("back")
        assert only(again)["MESSAGE"] == "executor-1 app back"
        assert captured.text() == ""
        again.close()


def test_an_end_waits_for_a_journald_that_reads_and_not_long_for_one_that_does_not(journald: Journald) -> None:
    began_s = time.monotonic()
    log.info("last words")
    reader = threading.Timer(0.05, journald.entries)
    reader.start()
    close_logging()
    assert 0.04 < time.monotonic() - began_s < 0.2
    reader.join()
    configure_logging("journal", actor="executor-1")
    log_until_one_waits()
    with capture() as captured:
        began_s = time.monotonic()
        close_logging()
        assert time.monotonic() - began_s < 1
        assert captured.text() == "<4>executor-1 journal.dropped 1 log lines dropped: nobody read them count=1\n"


def test_a_new_configuration_loses_no_line_that_waits(journald: Journald) -> None:
    taken = log_until_one_waits()
    configure_logging("journal", "info", actor="executor-1")
    seen = journald.entries()
    assert flush_logging()
    assert len(seen + journald.entries()) == taken + 1


def test_a_forked_child_logs_for_itself_and_sends_nothing_twice(journald: Journald) -> None:
    program = textwrap.dedent(
        """
        import logging, os, sys
        from shiftboss.logs import capture_output, configure_logging, flush_logging
        configure_logging("journal", actor="executor-1", background=True)
        capture_output()
        fillers = 0
        while logging.getLogger().handlers[0].waiting < 3:
            logging.info("filler %d", fillers)
            fillers += 1
        print("half of it,", end=" ")
        pid = os.fork()
        if pid == 0:
            os.write(1, b"full")
            os.read(0, 1)  # the journal has been read
            print("child")
            logging.info("child")
            os._exit(0)
        os.waitpid(pid, 0)
        print("half")
        while not flush_logging():
            pass
        """
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ))
    assert child.stdin is not None and child.stdout is not None
    assert child.stdout.read(4) == b"full"
    seen = journald.entries()
    child.communicate(b".", timeout=PATIENCE_S)
    messages = [entry["MESSAGE"][0] for entry in seen + journald.entries()]
    assert messages.count("executor-1 stdout: child") == 1
    assert messages.count("executor-1 root child") == 1
    assert messages.count("executor-1 stdout: half of it, half") == 1
    fillers = [message for message in messages if "filler" in message]
    assert len(set(fillers)) == len(fillers) == len(messages) - 3
