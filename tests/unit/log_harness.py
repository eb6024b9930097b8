"""What the tests of logs share: standard error as a pipe, and logging as it was before."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shiftboss.logs import bind_task, bind_worker, configure_logging


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("shiftboss")
    before = (root.handlers[:], root.level, ours.level, logging.getLogRecordFactory())
    streams = sys.stdout, sys.stderr
    yield
    sys.stdout, sys.stderr = streams
    configure_logging("json", actor="nobody")  # ends what the test has left
    root.handlers[:], level, our_level, factory = before
    root.setLevel(level)
    ours.setLevel(our_level)
    logging.setLogRecordFactory(factory)
    logging.captureWarnings(False)
    for logger in logging.Logger.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False
    bind_worker(str)
    bind_task.at_end, bind_task.half_lines = None, ()


@contextmanager
def standard_error(descriptor: int) -> Iterator[None]:
    saved = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


class Captured:
    """What is written to standard error inside `capture()`."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.written = ""

    def text(self) -> str:
        os.set_blocking(self.reading, False)
        parts = []
        try:
            while part := os.read(self.reading, 65_536):
                parts.append(part)
        except BlockingIOError:
            pass
        return b"".join(parts).decode()


@contextmanager
def capture() -> Iterator[Captured]:
    captured = Captured()
    try:
        with standard_error(captured.writing):
            yield captured
    finally:
        os.close(captured.reading)
        os.close(captured.writing)
