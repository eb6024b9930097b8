"""What a dump over the control link leaves in the log: one entry with the stacks of all threads, then the answer."""

from __future__ import annotations

import threading

import pytest
from process_harness import ActorProcess
from test_process import gateway, settings  # noqa: F401

from shiftboss import control
from shiftboss.actors.stacks import MAX_CHARS, MAX_FRAMES, all_stacks


def test_a_dump_shows_every_thread_in_one_entry_and_is_then_answered(gateway: ActorProcess) -> None:
    gateway.tell(control.Dump())
    gateway.said.wait_type(control.Dumped)
    line = gateway.wait_log("actor.stacks", actor="gateway")
    for thread in ("MainThread", "shiftboss-http"):
        assert f"thread '{thread}'" in line["traceback"]
    assert "receive_in_child" in line["traceback"], "where the main thread stands"
    assert not gateway.raw.things, "a dump is one line of log"


def test_the_answer_comes_for_every_dump_and_the_actor_goes_on(gateway: ActorProcess) -> None:
    for _ in range(3):
        gateway.tell(control.Dump())
    gateway.said.wait_type(control.Dumped, count=3)
    gateway.ping()


@pytest.mark.parametrize("deep", [MAX_FRAMES * 4])
def test_a_deep_recursion_shows_its_innermost_calls_and_crowds_nobody_out(deep: int) -> None:
    there, go = threading.Event(), threading.Event()

    def sink(levels: int) -> None:
        if levels:
            return sink(levels - 1)
        there.set()
        go.wait(30)
        return None

    threads = [threading.Thread(target=sink, args=(deep,), name=f"deep-{number}") for number in range(3)]
    for thread in threads:
        thread.start()
    there.wait(30)
    text = all_stacks()
    go.set()
    for thread in threads:
        thread.join(30)
    assert "calls above" in text and "go.wait(30)" in text
    assert text.count("thread 'deep-") == 3
    assert len(text) <= MAX_CHARS


def test_more_than_a_line_of_log_takes_is_cut_and_says_so() -> None:
    go = threading.Event()
    threads = [threading.Thread(target=go.wait, args=(30,), name=f"{'n' * 2_000}-{number}") for number in range(20)]
    for thread in threads:
        thread.start()
    text = all_stacks()
    go.set()
    for thread in threads:
        thread.join(30)
    assert len(text) == MAX_CHARS
    assert text.endswith("threads")
