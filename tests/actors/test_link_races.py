"""A link whose peer dies at the wrong moment, or that has a large descriptor."""

from __future__ import annotations

import os
import resource
import socket
import threading

import pytest
from test_link import END, PATIENCE_S, Pair, Side, pair  # noqa: F401

from shiftboss.actors import link
from shiftboss.actors.messages import Recall


def test_a_peer_that_dies_just_before_the_writer_starts_ends_quietly(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    start = threading.Thread.start

    def start_late(thread: threading.Thread) -> None:
        if thread.name == "shiftboss-link-writer":
            run = thread.run
            thread.run = lambda: (pair.side.wait_closed(), run())  # type: ignore[method-assign]
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_late)
    pair.side.ref.tell(Recall([1] * 3_000_000))
    writer = next(thread for thread in threading.enumerate() if thread.name == "shiftboss-link-writer")
    pair.raw.close()
    assert pair.side.next() == END
    writer.join(PATIENCE_S)
    assert not writer.is_alive() and not failed, failed


def test_a_link_jams_and_recovers_with_a_descriptor_above_1023(monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2_000), hard))  # 1,024 for many users
    raw, ours = socket.socketpair()
    os.dup2(ours.fileno(), 1500)
    ours.close()
    side = Side(socket.socket(fileno=1500))
    side.ref.tell(Recall([1] * 3_000_000))
    raw.settimeout(5)
    reader = link.FrameReader()
    try:
        while not list(reader.feed(raw.recv(1 << 20))):
            pass
    finally:
        raw.close()
    assert not failed, failed
