"""Framed messages between two processes: whole, in order, never blocking the sender, and the end is told once."""

from __future__ import annotations

import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest
from actor_harness import claim_of, eventually

from shiftboss.actors.link import FrameReader, PeerRef
from shiftboss.actors.messages import CancelAttempt, Execute, Finished, Recall, Returned, ToClaimer, ToExecutor
from shiftboss.model import Ended, Outcome, new_task_id

PATIENCE_S = 30.0
END = "end"


def frame(body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + body


class Side:
    """One end of a link, and all that arrives there in its order; `END` stands for its end."""

    def __init__(self, sock: socket.socket, incoming: object = ToClaimer) -> None:
        self.arrived: queue.Queue[object] = queue.Queue()
        self.socket = sock
        self.ref: PeerRef[object] = PeerRef(sock, incoming, self.arrived.put, lambda: self.arrived.put(END))

    def next(self) -> object:
        return self.arrived.get(timeout=PATIENCE_S)

    def wait_closed(self) -> None:
        eventually(lambda: self.socket.fileno() == -1, "the socket is closed")


class Pair:
    def __init__(self) -> None:
        self.raw, ours = socket.socketpair()
        self.side = Side(ours)

    def say(self, message: object) -> None:
        self.raw.sendall(frame(msgspec.json.encode(message)))


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Ours is a PeerRef, the other a plain socket that a test writes and reads by hand."""
    made = Pair()
    yield made
    made.side.ref.close()
    made.raw.close()
    made.side.wait_closed()


@pytest.fixture
def refs() -> Iterator[tuple[Side, Side]]:
    """A claimer's side and an executor's."""
    left, right = socket.socketpair()
    sides = Side(left, ToClaimer), Side(right, ToExecutor)
    yield sides
    for side in sides:
        side.ref.close()
        side.wait_closed()


# ---- frames


def test_frames_come_out_whole_however_the_stream_is_cut() -> None:
    bodies = [b"", b"a", b"bc" * 3, b"", b"d" * 7]
    stream = b"".join(map(frame, bodies))
    for first in range(len(stream) + 1):
        for second in range(first, len(stream) + 1):
            reader = FrameReader()
            parts = stream[:first], stream[first:second], stream[second:]
            assert [body for part in parts for body in reader.feed(part)] == bodies, (first, second)


def test_frames_come_out_of_single_bytes_as_soon_as_they_are_whole() -> None:
    reader, stream = FrameReader(), frame(b"ab") + frame(b"c")
    came_at = {at: list(reader.feed(stream[at : at + 1])) for at in range(len(stream))}
    assert {at: bodies for at, bodies in came_at.items() if bodies} == {5: [b"ab"], 10: [b"c"]}


def test_a_frame_larger_than_any_read_is_put_together() -> None:
    reader, body = FrameReader(), bytes(range(256)) * 4_096
    stream = frame(body) + frame(b"next")
    bodies = [one for at in range(0, len(stream), 60_000) for one in reader.feed(stream[at : at + 60_000])]
    assert bodies == [body, b"next"]


# ---- messages


def test_every_message_arrives_as_it_was_sent(refs: tuple[Side, Side]) -> None:
    claimer, executor = refs
    claim = claim_of(args='{"name":"Ærlig","n":[1,null]}', timeout_s=1.5, tags=("a",), attempt=3)
    ended = Ended(task_id=new_task_id(), fence=2, outcome=Outcome.FAILED, error="boom", retry_in_s=0.5)
    for down in (Execute([4], [1], [claim]), Recall(None), Recall([1, 2]), CancelAttempt(3, "timeout")):
        claimer.ref.tell(down)
        assert executor.next() == down
    for up in (Finished([1], [ended]), Returned([1])):
        executor.ref.tell(up)
        assert claimer.next() == up


def test_messages_of_many_threads_arrive_whole_and_each_threads_in_its_order(refs: tuple[Side, Side]) -> None:
    claimer, executor = refs

    def send(thread: int) -> None:
        for number in range(200):
            executor.ref.tell(Returned([thread, number]))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    came: dict[int, list[int]] = {number: [] for number in range(4)}
    for _ in range(800):
        message = claimer.next()
        assert isinstance(message, Returned)
        came[message.cells[0]].append(message.cells[1])
    assert came == {number: list(range(200)) for number in range(4)}


def test_a_message_larger_than_the_socket_takes_arrives_whole(refs: tuple[Side, Side]) -> None:
    claimer, executor = refs
    claims = [claim_of(args=msgspec.json.encode({"text": "x" * 1_000_000}).decode()) for _ in range(8)]
    claimer.ref.tell(Execute([], list(range(8)), claims))
    message = executor.next()
    assert isinstance(message, Execute) and message.claims == claims


def test_a_peer_that_does_not_read_holds_up_nobody_and_loses_nothing(pair: Pair) -> None:
    sent = [Recall([number] * 50_000) for number in range(100)]
    told = threading.Event()

    def tell_all() -> None:
        for message in sent:
            pair.side.ref.tell(message)
        told.set()

    threading.Thread(target=tell_all, daemon=True).start()
    assert told.wait(PATIENCE_S), "tell waits for the peer"
    reader, decoder = FrameReader(), msgspec.json.Decoder[object](ToExecutor)
    came: list[object] = []
    pair.raw.settimeout(PATIENCE_S)
    while len(came) < len(sent):
        came += [decoder.decode(body) for body in reader.feed(pair.raw.recv(65_536))]
    assert came == sent


def test_without_a_thread_to_write_the_sender_waits_and_nothing_is_lost(
    refs: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread, really: Callable[[threading.Thread], None] = threading.Thread.start) -> None:
        if thread.name == "shiftboss-link-writer":
            raise RuntimeError("can't start new thread")
        really(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    claimer, executor = refs
    sent = [Recall([number] * 100_000) for number in range(100)]
    for message in sent:
        claimer.ref.tell(message)
    assert [executor.next() for _ in sent] == sent


def test_messages_told_while_a_jam_dissolves_do_not_overtake(refs: tuple[Side, Side]) -> None:
    claimer, executor = refs
    sent = [Recall([number] * (1 if number % 2 else 100_000)) for number in range(300)]
    for message in sent:
        claimer.ref.tell(message)
    assert [executor.next() for _ in sent] == sent


def test_after_a_jam_messages_go_out_at_once_again(pair: Pair) -> None:
    pair.raw.settimeout(PATIENCE_S)
    for number in range(3):
        pair.side.ref.tell(Recall([number] * 2_000_000))
        reader: FrameReader = FrameReader()
        while not list(reader.feed(pair.raw.recv(1 << 20))):
            pass
    pair.side.ref.tell(Recall([7]))
    assert pair.raw.recv(1_000) == frame(msgspec.json.encode(Recall([7])))


# ---- the end


def test_the_end_is_told_once_and_after_the_last_words(pair: Pair) -> None:
    for number in range(50):
        pair.say(Returned([number]))
    pair.raw.close()
    came = list(iter(pair.side.next, END))
    assert came == [Returned([number]) for number in range(50)]
    pair.side.wait_closed()
    pair.side.ref.tell(Recall())
    pair.side.ref.close()
    assert pair.side.arrived.empty(), "told again"


def test_half_a_message_of_a_dead_peer_is_dropped(pair: Pair) -> None:
    pair.say(Returned([1]))
    pair.raw.sendall(frame(msgspec.json.encode(Returned([2])))[:-1])
    pair.raw.close()
    assert [pair.side.next(), pair.side.next()] == [Returned([1]), END]


def test_closing_ends_both_sides_and_telling_a_closed_one_does_nothing(refs: tuple[Side, Side]) -> None:
    claimer, executor = refs
    claimer.ref.close()
    assert executor.next() == END
    assert claimer.next() == END
    claimer.ref.tell(Recall())
    executor.ref.tell(Returned([1]))
    for side in refs:
        side.wait_closed()
        assert side.arrived.empty()
