"""What user code prints or does to logging: every line arrives with its task's fields, once."""

from __future__ import annotations

import asyncio
import io
import logging
import logging.config
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from journald_double import Journald
from log_harness import capture, restored_logging  # noqa: F401  a fixture

from shiftboss.attempt import run_async, run_sync
from shiftboss.context import Attempt, AttemptLogger
from shiftboss.handler import Task
from shiftboss.logs import bind_task, capture_output, close_logging, configure_logging, reclaim_logging
from shiftboss.model import Claim

Lines = list[tuple[str, str | None]]


# Each test captures for itself: pytest puts its own streams back between a fixture and its test.


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journald]:
    made = Journald(tmp_path / "journal")
    monkeypatch.setenv("SHIFTBOSS_JOURNAL_SOCKET", made.path)
    configure_logging("journal", actor="executor-1")
    yield made
    made.close()


def lines(journald: Journald) -> Lines:
    """(what was printed, by which task), in order."""
    entries = journald.entries()
    assert all(entry["SHIFTBOSS_EVENT"] == ["output.line"] for entry in entries)
    return [(entry["MESSAGE"][0].partition(": ")[2], entry["TASK_ID"][0] if "TASK_ID" in entry else None) for entry in entries]


def test_a_printed_line_has_the_fields_of_its_task(journald: Journald) -> None:
    capture_output()
    with bind_task("0190", "mail:send", 2, "mail"):
        print("sent", 7, "mails")
        print("careful", file=sys.stderr)
    first, second = journald.entries()
    assert first["MESSAGE"] == ["executor-1 [mail:send 0190 attempt 2] stdout: sent 7 mails"]
    names = ("TASK_ID", "TASK_TYPE", "ATTEMPT", "QUEUE", "LOGGER", "SHIFTBOSS_EVENT", "PRIORITY")
    assert [first[name] for name in names] == [
        ["0190"], ["mail:send"], ["2"], ["mail"], ["shiftboss.stdout"], ["output.line"], ["6"]
    ]  # fmt: skip
    assert (second["LOGGER"], second["PRIORITY"]) == (["shiftboss.stderr"], ["6"])


def test_a_line_is_whole_at_its_newline_or_when_its_task_ends(journald: Journald) -> None:
    capture_output()
    with bind_task("0190", "t", 1, "q"):
        print("a", end="")
        sys.stdout.flush()
        print("b\nc", end="")
        assert lines(journald) == [("ab", "0190")]
    assert lines(journald) == [("c", "0190")]
    print("nobody's", end="")
    assert lines(journald) == []
    close_logging()
    assert lines(journald) == [("nobody's", None)]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_what_a_handler_logs_and_prints_is_its_tasks_and_half_a_line_ends_with_its_attempt(
    journald: Journald, is_async: bool
) -> None:
    capture_output()

    def talk() -> None:
        logging.getLogger("app").warning("logged")
        print("printed\nhalf a line", end="")
        print("half an error", end="", file=sys.stderr)
        with bind_task("another", "t", 1, "q"):
            print("its")

    async def talk_async() -> None:
        talk()

    handler: Task[..., object] = Task(talk_async if is_async else talk, type="test:talk")
    claim = Claim(
        task_id="0190", fence=1, attempt=2, type="test:talk", queue="q", priority=0, args=msgspec.Raw(b"{}"), max_attempts=3,
        timeout_s=None, running=True, enqueued_at=0.0, due_at=0.0,
    )  # fmt: skip
    attempt = Attempt(claim, worker="w")
    _ = asyncio.run(run_async(handler, claim, attempt)) if is_async else run_sync(handler, claim, attempt)
    told = [(entry["MESSAGE"][0].rpartition(" attempt ")[2], entry["TASK_ID"][0]) for entry in journald.entries()]
    assert told == [
        ("2] app logged", "0190"),
        ("2] stdout: printed", "0190"),
        ("1] stdout: its", "another"),
        ("2] stdout: half a line", "0190"),
        ("2] stderr: half an error", "0190"),
    ]
    print("nobody's")
    assert lines(journald) == [("nobody's", None)]


def test_a_line_of_the_attempts_log_does_not_end_a_printed_one(journald: Journald) -> None:
    capture_output()

    class Known:
        task_id, type, number, queue = "0190", "t", 1, "q"

    with bind_task("0190", "t", 1, "q"):
        print("half", end="")
        AttemptLogger(logging.getLogger("shiftboss.task"), Known()).info("between")  # type: ignore[arg-type]
        assert [entry["SHIFTBOSS_EVENT"] for entry in journald.entries()] == [["task.log"]]
        print(" a line")
        assert lines(journald) == [("half a line", "0190")]


def test_threads_and_asyncio_tasks_do_not_mix_their_lines(journald: Journald) -> None:
    capture_output()
    step = threading.Barrier(2, timeout=10)

    def work(name: str) -> None:
        with bind_task(name, "t", 1, "q"):
            for part in ("one ", "two ", "three\n"):
                sys.stdout.write(part)
                step.wait()

    async def coroutine(name: str) -> None:
        with bind_task(name, "t", 1, "q"):
            for part in ("four ", "five ", "six\n"):
                sys.stdout.write(part)
                await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(coroutine("c"), coroutine("d"))

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(lines(journald)) == [("one two three", "a"), ("one two three", "b")]
    asyncio.run(both())
    assert lines(journald) == [("four five six", "c"), ("four five six", "d")]


def test_a_progress_bar_is_one_line_and_a_long_line_is_several(journald: Journald) -> None:
    capture_output()
    for percent in range(0, 101, 10):
        sys.stderr.write(f"\r{percent} %")
    sys.stderr.write("\r\n")
    assert lines(journald) == [("100 %", None)]
    print("dos\r\nlines\r\n\n", end="")
    assert lines(journald) == [("dos", None), ("lines", None)]
    print("x" * 20_000, end="")
    print("y" * 9_000)
    assert [len(text) for text, _ in lines(journald)] == [8_000, 8_000, 8_000, 5_000]


def test_the_streams_are_what_code_expects(journald: Journald) -> None:
    capture_output()
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        assert (stream.fileno(), stream.isatty(), stream.writable(), stream.encoding) == (descriptor, False, True, "utf-8")
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        stream.writelines(["a\n", "b\n"])
        stream.close()
        assert stream.write("céd\n") == 4
        euro = "€\n".encode()
        assert stream.buffer.write(euro[:2]) == 2
        stream.buffer.write(euro[2:])
        stream.buffer.flush()
        with pytest.raises(TypeError, match="must be str"):
            stream.write(b"bytes")  # type: ignore[arg-type]
        with pytest.raises(io.UnsupportedOperation):
            stream.read()
        assert lines(journald) == [("a", None), ("b", None), ("céd", None), ("€", None)]
    done = subprocess.run([sys.executable, "-c", "print('from a child')"], stdout=sys.stdout, check=True)  # the real descriptor
    assert done.returncode == 0
    assert lines(journald) == []


def test_a_print_costs_little(journald: Journald) -> None:
    """By what the standard library takes for a line of its own, in turns."""
    capture_output()
    plain = logging.Logger("plain")
    plain.addHandler(logging.StreamHandler(io.StringIO()))
    best_s = dict.fromkeys([print, plain.info], 1.0)
    for _ in range(40):
        for say in best_s:
            began_s = time.perf_counter()
            for _ in range(5):  # fewer than a socket takes that nobody reads
                say("hello world")
            best_s[say] = min(best_s[say], (time.perf_counter() - began_s) / 5)
        journald.entries()
    assert best_s[print] < 6 * best_s[plain.info]


def test_below_the_level_nothing_is_written(journald: Journald) -> None:
    capture_output()
    configure_logging("journal", "warning", actor="executor-1")
    print("routine")
    assert lines(journald) == []


def test_on_a_terminals_format_a_print_is_a_line_of_text() -> None:
    with capture() as captured:
        configure_logging("text", actor="executor-1")
        capture_output()
        with bind_task("0190", "mail:send", 2, "mail"):
            print("hello")
        assert captured.text().endswith("INFO     executor-1 stdout hello [mail:send 0190 attempt 2]\n")


# ---- logging that user code configures


def logged(journald: Journald) -> list[tuple[str, str]]:
    return [(entry["LOGGER"][0], entry["MESSAGE"][0].rpartition(" ")[2]) for entry in journald.entries()]


def test_a_console_that_imported_code_configures_is_replaced_by_ours_and_its_files_stay(
    journald: Journald, tmp_path: Path
) -> None:
    capture_output()
    file = tmp_path / "app.log"
    handlers: list[logging.Handler] = [logging.StreamHandler(), logging.StreamHandler(sys.__stdout__), logging.FileHandler(file)]
    logging.basicConfig(force=True, level="DEBUG", handlers=handlers)
    reclaim_logging()
    (warning,) = journald.entries()
    assert warning["LOGGER"] == ["shiftboss.logs"] and warning["PRIORITY"] == ["4"]
    logging.getLogger("app").debug("x")
    assert logged(journald) == [("app", "x")]
    assert file.read_text().splitlines()[-1] == "DEBUG:app:x"
    reclaim_logging()
    assert logged(journald) == []
    handlers[2].close()


def test_loggers_of_ours_that_a_dictconfig_disables_and_silences_are_heard_again(journald: Journald) -> None:
    capture_output()
    ours = logging.getLogger("shiftboss.executor")
    logging.config.dictConfig({"version": 1, "root": {"level": "ERROR", "handlers": []}})
    ours.info("lost")
    assert logged(journald) == []
    reclaim_logging()
    journald.entries()
    ours.info("heard")
    logging.getLogger("app").info("below-their-level")
    assert logged(journald) == [("shiftboss.executor", "heard")]


def test_a_console_handler_that_is_added_later_keeps_the_fields_and_does_not_loop(journald: Journald) -> None:
    capture_output()
    logging.basicConfig(force=True, level="INFO")
    with bind_task("0190", "t", 1, "q"):
        logging.getLogger("app").info("x")
    assert lines(journald) == [("INFO:app:x", "0190")]


def test_a_failing_handler_of_the_users_does_not_loop(journald: Journald) -> None:
    capture_output()

    class Failing(logging.StreamHandler):  # type: ignore[type-arg]
        def format(self, record: logging.LogRecord) -> str:
            raise RuntimeError("broken")

    broken = logging.getLogger("broken")
    broken.addHandler(Failing())
    broken.propagate = False
    broken.warning("x")
    printed = [text for text, _ in lines(journald)]
    assert "RuntimeError: broken" in printed
    assert len(printed) < 60
