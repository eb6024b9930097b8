"""After a cut: the real store opens what is left, and the database must be one that was promised."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from shiftboss.errors import ShiftbossError, StoreCorrupt
from shiftboss.model import Ended, NewTask, Outcome, TypeInfo, Verdict
from shiftboss.store.base import ClaimAsk, Exchange, LaneAsk
from shiftboss.store.sqlite import SqliteStore, open_sqlite
from tests.chaos.power.disk import Disk, Image, Sync
from tests.chaos.power.work import FILE, Dump, Recording, dump

LIVES_EVERY: Final = 8  # one cut in so many is worked on afterwards; it costs as much as the rest of the check
NEXT_TO_A_SYNC: Final = 0.4
_TYPE: Final = "afterwards"


class Verdicts(StrEnum):
    """What a cut came to."""

    GOOD = "good"
    LOST = "acknowledged work is lost"
    CORRUPT = "the file is corrupt"
    TORN = "half of a transaction is there"
    UNUSABLE = "the store cannot work on it"


class Cut(NamedTuple):
    """One cut, with all that is needed to look at it again."""

    verdict: Verdicts
    text: str
    at: int  # operations that were done
    seed: str
    image: Image


def moments(recording: Recording, rng: random.Random, count: int) -> list[int]:
    """Where to cut, in order: anywhere, and more often just before and after a sync."""
    total = len(recording.operations)
    syncs = [number for number, one in enumerate(recording.operations) if isinstance(one, Sync)]
    chosen = []
    for _ in range(count):
        if syncs and rng.random() < NEXT_TO_A_SYNC:
            chosen.append(min(total, max(0, rng.choice(syncs) + rng.randint(-2, 3))))
        else:
            chosen.append(rng.randint(0, total))
    return sorted(chosen)


def cuts(recording: Recording, folder: Path, seed: str, count: int) -> Iterator[Cut]:
    """Cut so many times and look at what is left; uses `folder`, which must be empty."""
    rng, disk, done = random.Random(seed), Disk(recording.image), 0
    for number, at in enumerate(moments(recording, rng, count)):
        for operation in recording.operations[done:at]:
            disk.apply(operation)
        done = at
        image = disk.cut(random.Random(f"{seed} {number}"))
        if rng.random() < 0.5:
            image[f"{FILE}-shm"] = rng.choice((recording.index_file, rng.randbytes(len(recording.index_file))))
        verdict, text = look(recording, at, image, folder, lives=number % LIVES_EVERY == 0)
        yield Cut(verdict, text, at, f"{seed} {number}", image)


def complete(recording: Recording) -> bool:
    """Whether the record, played back without a cut, gives the files as they are: nothing was missed."""
    disk = Disk(recording.image)
    for operation in recording.operations:
        disk.apply(operation)
    return {name: data for name, data in disk.as_written().items() if name in recording.written} == recording.written


def look(recording: Recording, at: int, image: Image, folder: Path, *, lives: bool) -> tuple[Verdicts, str]:
    """Put this image into `folder` and open it with the real store; the folder is empty afterwards."""
    for name, content in image.items():
        (folder / name).write_bytes(content)
    try:
        store = open_sqlite(folder / FILE)
        try:
            return _judge(recording, at, store, lives=lives)
        finally:
            store.close()
    except StoreCorrupt as error:
        return Verdicts.CORRUPT, str(error)
    except ShiftbossError as error:
        return Verdicts.UNUSABLE, f"{type(error).__name__}: {error}"
    finally:
        for file in folder.iterdir():
            shutil.rmtree(file) if file.is_dir() else file.unlink()


def _judge(recording: Recording, at: int, store: SqliteStore, *, lives: bool) -> tuple[Verdicts, str]:
    found = _integrity(store)
    if found != "ok":
        return Verdicts.CORRUPT, found
    verdict = _compare(recording, at, dump(store))
    if verdict[0] is Verdicts.GOOD and lives:
        if store.migration_plan().steps:
            store.migrate()
        return _live(store)
    return verdict


def _integrity(store: SqliteStore) -> str:
    with store._database.read() as connection:
        return "\n".join(str(line) for (line,) in connection.execute("PRAGMA integrity_check(5)"))


def _compare(recording: Recording, at: int, now: Dump) -> tuple[Verdicts, str]:
    states = [recording.before, *(step.after for step in recording.steps)]
    acknowledged = sum(step.acknowledged_at <= at for step in recording.steps)
    begun = sum(step.begun_at <= at for step in recording.steps)
    if now in states[acknowledged : begun + 1]:
        return Verdicts.GOOD, ""
    lost = sorted(set(states[acknowledged]) - set(now))
    if now in states[:acknowledged]:
        back = next(step.name for step in reversed(recording.steps[:acknowledged]))
        return Verdicts.LOST, f"{len(lost)} rows, the last acknowledged call was {back}: {lost[:1]}"
    return (
        Verdicts.TORN,
        f"{len(lost)} rows are missing, {len(set(now) - set(states[acknowledged]))} come from nowhere: {lost[:1]}",
    )


def _live(store: SqliteStore) -> tuple[Verdicts, str]:
    """The store that was opened works: one task goes its way, and the file is sound afterwards."""
    task = NewTask(id="01900000-0000-7000-8000-000000000000", type=_TYPE, queue=_TYPE, args=msgspec.Raw(b"{}"))
    store.enqueue([task])
    asks = ClaimAsk(lanes=[LaneAsk(queue=_TYPE, priority=0, limit=1)], limit=1, running=1, types=[TypeInfo(type=_TYPE)])
    claims = store.exchange(Exchange(worker_id="later", claim=asks)).claims
    ended = [Ended(task_id=one.task_id, fence=one.fence, outcome=Outcome.SUCCESS) for one in claims]
    verdicts = store.exchange(Exchange(worker_id="later", ended=ended)).verdicts
    if list(verdicts) != [Verdict.APPLIED]:
        return Verdicts.UNUSABLE, f"a task enqueued after the cut: {len(claims)} claims, {verdicts}"
    found = _integrity(store)
    return (Verdicts.GOOD, "") if found == "ok" else (Verdicts.CORRUPT, f"after more work: {found}")
