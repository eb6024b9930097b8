"""Logs: what each format writes, whose lines they are, and that writing neither raises nor hangs."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import pty
import queue
import threading
import time
from logging.handlers import QueueHandler
from pathlib import Path

import pytest
from journald_double import Journald
from log_harness import Captured, capture, restored_logging, standard_error  # noqa: F401  a fixture

from shiftboss.events import Event, emit
from shiftboss.logs import bind_task, configure_logging, current_task
from shiftboss.logs.formats import formatter_for
from shiftboss.logs.output import StderrHandler

log = logging.getLogger("app")


@pytest.fixture(autouse=True)
def no_journald(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHIFTBOSS_JOURNAL_SOCKET", str(tmp_path / "none"))


def logged(style: str, level: str = "debug") -> Captured:
    """One of everything, in one format, where there is no journald."""
    with capture() as captured:
        configure_logging(style, level, actor="executor-1")
        with bind_task("0190", "mail:send", 2, "mail"):
            emit(log, logging.WARNING, Event.TASK_FAILED, error="two words", seconds=1.5, none=None)
            log.info("line one\nline two \x1b[2J %s", "\u202e", extra={"task_id": 7})
            try:
                raise ValueError("first\nsecond")
            except ValueError:
                log.exception("caught")
        log.debug("nobody's")
        captured.written = captured.text()
    return captured


def test_json_is_one_object_a_line_with_the_task() -> None:
    entries = [json.loads(line) for line in logged("json").written.splitlines()]
    event, message, error, other = entries
    assert event["ts"].endswith("Z")
    assert (event["level"], event["actor"], event["logger"], event["event"]) == ("warning", "executor-1", "app", "task.failed")
    assert event["fields"] == {"error": "two words", "seconds": 1.5, "none": None}
    assert (event["task_id"], event["type"], event["attempt"], event["queue"]) == ("0190", "mail:send", 2, "mail")
    assert message["message"] == "line one\nline two \x1b[2J \u202e"
    assert message["fields"] == {"task_id": 7}
    assert error["traceback"].endswith("ValueError: first\nsecond")
    assert "task_id" not in other


def test_journal_lines_have_a_priority_and_stay_one_entry() -> None:
    lines = logged("journal").written.splitlines()
    assert lines[0] == '<4>executor-1 [mail:send 0190 attempt 2] task.failed error="two words" seconds=1.5'
    assert lines[1] == r"<6>executor-1 [mail:send 0190 attempt 2] app line one\nline two \x1b[2J \u202e task_id=7"
    assert lines[2].startswith(
        r"<3>executor-1 [mail:send 0190 attempt 2] app caught traceback=Traceback (most recent call last):\n"
    )
    assert lines[3] == "<7>executor-1 app nobody's"
    assert len(lines) == 4


def test_text_has_no_colours_off_a_terminal_and_escapes_what_moves_the_cursor() -> None:
    written = logged("text").written
    assert "\x1b" not in written
    assert r"line one\nline two \x1b[2J \u202e" in written
    assert "\n    ValueError: first\n    second" in written


def test_the_level_is_kept() -> None:
    assert "nobody's" not in logged("text", "info").written


@pytest.mark.parametrize("style", ["text", "json", "journal"])
def test_a_forged_line_stays_in_its_line(style: str) -> None:
    forger = logging.LogRecord("app\n<0>x", logging.INFO, "", 0, "a\r\n<0>forged\u2028", None, None)
    forger.fields = {"key\n<0>": "value\n<0>forged"}
    text = formatter_for(style, "actor", colours=False).format(forger)
    assert len(text.splitlines()) == 1


def test_auto_is_json_for_a_pipe_journal_for_the_journals_and_text_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    journald = Journald(tmp_path / "journal")
    monkeypatch.setenv("SHIFTBOSS_JOURNAL_SOCKET", journald.path)
    with capture() as captured:
        configure_logging(actor="a")
        log.info("x")
        assert captured.text().startswith("{")
        status = os.fstat(captured.writing)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        configure_logging(actor="a")
        log.info("x")
        assert [entry["MESSAGE"] for entry in journald.entries()] == [["a app x"]]
        journald.close()
        log.info("x")
        assert captured.text() == "<6>a app x\n"
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino + 1}")
        configure_logging(actor="a")
        log.info("x")
        assert captured.text().startswith("{")
    monkeypatch.delenv("NO_COLOR", raising=False)
    parent, child = pty.openpty()
    with standard_error(child):
        configure_logging(actor="a")
        log.info("x")
    assert b"\x1b[32mINFO" in os.read(parent, 1_000)
    os.close(parent)
    os.close(child)


@pytest.mark.parametrize(("style", "level"), [("xml", "info"), ("text", "loud")])
def test_an_unknown_format_or_level_is_refused(style: str, level: str) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        configure_logging(style, level, actor="a")


# ---- whose line


def test_threads_and_asyncio_tasks_each_have_their_own_task() -> None:
    seen: list[str | None] = []

    async def run(name: str) -> None:
        with bind_task(name, "t", 1, "q"):
            await asyncio.sleep(0)
            bound = current_task()
            seen.append(bound and bound.task_id)

    async def both() -> None:
        await asyncio.gather(run("a"), run("b"))

    with bind_task("outer", "t", 1, "q"):
        thread = threading.Thread(target=lambda: seen.append(current_task() and "leaked"))
        thread.start()
        thread.join()
        asyncio.run(both())
        assert current_task() == ("outer", "t", 1, "q")
    assert seen == [None, "a", "b"]
    assert current_task() is None


def test_a_line_that_goes_through_a_queue_keeps_its_task() -> None:
    with capture() as captured:
        configure_logging("json", actor="a")
        (handler,) = logging.getLogger().handlers
        carried: queue.Queue[logging.LogRecord] = queue.Queue()
        logging.getLogger().handlers[:] = [QueueHandler(carried)]
        with bind_task("0190", "t", 1, "q"):
            log.info("later")
        handler.handle(carried.get_nowait())
        assert json.loads(captured.text())["task_id"] == "0190"


# ---- writing


def test_what_cannot_be_formatted_is_said_in_the_same_format() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    with capture() as captured:
        configure_logging("json", actor="a")
        log.info("%d", "x")
        log.info(Broken())
        messages = [json.loads(line)["message"] for line in captured.text().splitlines()]
    assert [message.rpartition(" ")[2] for message in messages] == ["TypeError", "RuntimeError"]
    assert all("test_logs.py" in message for message in messages)


def test_a_lone_surrogate_and_nan_are_written() -> None:
    with capture() as captured:
        for style in ("text", "json", "journal"):
            configure_logging(style, actor="a")
            log.info("\ud800", extra={"number": float("nan")})
        lines = captured.text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[1])["fields"] == {"number": "nan"}


def test_a_reader_that_has_gone_raises_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    handler = StderrHandler(writing)
    handler.handle(logging.makeLogRecord({"msg": "x"}))
    assert handler.dropped == 1
    os.close(writing)
    handler.handle(logging.makeLogRecord({"msg": "x"}))
    assert handler.dropped == 2


def test_a_reader_that_has_stopped_costs_one_second_once_and_hears_what_it_missed() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 16_384)
    handler = StderrHandler(writing)
    began_s = time.monotonic()
    for number in range(400):
        handler.handle(logging.makeLogRecord({"msg": f"{number} " + "x" * 100}))
    assert time.monotonic() - began_s < 3
    dropped = handler.dropped
    assert dropped > 100
    os.set_blocking(reading, False)
    assert os.read(reading, 65_536).startswith(b"0 x")
    handler.handle(logging.makeLogRecord({"msg": "again"}))
    assert os.read(reading, 65_536).decode().split("\n") == [f"{dropped} log lines dropped: nobody read them", "again", ""]
    assert handler.dropped == 0
    os.close(reading)
    os.close(writing)


def test_a_line_cut_by_a_stopped_reader_does_not_swallow_the_next() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 16_384)
    handler = StderrHandler(writing)
    handler.handle(logging.makeLogRecord({"msg": "y" * 40_000}))
    os.read(reading, 65_536)
    handler.handle(logging.makeLogRecord({"msg": "next"}))
    assert os.read(reading, 65_536) == b"\n1 log lines dropped: nobody read them\nnext\n"
    os.close(reading)
    os.close(writing)
