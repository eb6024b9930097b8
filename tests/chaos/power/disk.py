"""A disk that has lost its power: what was synced is there, of the rest anything may be, down to single sectors.

Between two syncs a sector may hold its content of any moment since the first of them, whatever its neighbours hold: that
is loss, reordering and tearing in one. A longer file may have grown without its data (zeros, or what was there before).
Names of files are as uncertain as their contents until their folder has been synced.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

SECTOR: Final = 512
Image: TypeAlias = dict[str, bytes]  # file name -> content


class Write(NamedTuple):
    """Bytes at an offset; with no bytes it only gives the file a name, if it has none."""

    name: str
    offset: int
    data: bytes


class Truncate(NamedTuple):
    name: str
    size: int


class Sync(NamedTuple):
    """A sync has returned; it covers the operations before `begun_at`, and all names if `folder_too`."""

    name: str
    begun_at: int
    folder_too: bool


class Delete(NamedTuple):
    name: str
    folder_too: bool


Operation: TypeAlias = Write | Truncate | Sync | Delete


@dataclass(slots=True)
class _File:
    """A file without its name: bytes that are safe, and what was done since (index of the operation, operation)."""

    safe: bytearray = field(default_factory=bytearray)
    since: list[tuple[int, Write | Truncate]] = field(default_factory=list)


class Disk:
    """What is on the disk, and what could be, after so many operations."""

    def __init__(self, image: Mapping[str, bytes]) -> None:
        self._names: dict[str, _File] = {name: _File(bytearray(content)) for name, content in image.items()}
        self._open_names: dict[str, list[_File | None]] = {}  # what else a name may stand for, since the folder was synced
        self._done = 0

    def apply(self, operation: Operation) -> None:
        """The next operation of the record."""
        match operation:
            case Write() | Truncate():
                file = self._named(operation.name)
                if not isinstance(operation, Write) or operation.data:
                    file.since.append((self._done, operation))
            case Sync():
                self._settle(self._named(operation.name), operation.begun_at)
                if operation.folder_too:
                    self._open_names.clear()
            case Delete():
                self._open_names.setdefault(operation.name, []).append(self._names.pop(operation.name, None))
                if operation.folder_too:
                    self._open_names.clear()
        self._done += 1

    def _named(self, name: str) -> _File:
        if name not in self._names:
            self._open_names.setdefault(name, []).append(None)
            self._names[name] = _File()
        return self._names[name]

    @staticmethod
    def _settle(file: _File, before: int) -> None:
        covered = [one for number, one in file.since if number < before]
        file.since = [(number, one) for number, one in file.since if number >= before]
        for one in covered:
            _perform(file.safe, one)

    # ---- what is there

    def as_written(self) -> Image:
        """Without a cut: all that was written."""
        image = {}
        for name, file in self._names.items():
            content = bytearray(file.safe)
            for _number, operation in file.since:
                _perform(content, operation)
            image[name] = bytes(content)
        return image

    def cut(self, rng: random.Random) -> Image:
        """One of the many things that may be there when the power comes back."""
        way = rng.choices([_lost, _kept, _torn, _scattered], weights=[2, 1, 3, 4])[0]
        image = {}
        for name in sorted({*self._names, *self._open_names}):
            file = rng.choice([self._names.get(name), *self._open_names.get(name, ())])
            if file is not None:
                image[name] = bytes(way(file, rng))
        return image


def _perform(content: bytearray, operation: Write | Truncate) -> None:
    if isinstance(operation, Write):
        end = operation.offset + len(operation.data)
        if len(content) < operation.offset:
            content.extend(bytes(operation.offset - len(content)))
        content[operation.offset : end] = operation.data
    elif operation.size < len(content):
        del content[operation.size :]
    else:
        content.extend(bytes(operation.size - len(content)))


def _lost(file: _File, rng: random.Random) -> bytearray:
    return file.safe


def _kept(file: _File, rng: random.Random) -> bytearray:
    content = bytearray(file.safe)
    for _number, operation in file.since:
        _perform(content, operation)
    return content


def _torn(file: _File, rng: random.Random) -> bytearray:
    """In order, up to somewhere inside one of them."""
    content = bytearray(file.safe)
    whole = rng.randint(0, len(file.since))
    for _number, operation in file.since[:whole]:
        _perform(content, operation)
    if whole < len(file.since):
        broken = file.since[whole][1]
        if isinstance(broken, Write):
            _perform(content, broken._replace(data=broken.data[: rng.randint(0, len(broken.data))]))
    return content


def _scattered(file: _File, rng: random.Random) -> bytearray:
    """Each sector of its own moment."""
    cache, disk = bytearray(file.safe), bytearray(file.safe)
    share = rng.choice((0.05, 0.3, 0.7, 0.95))
    for _number, operation in file.since:
        _perform(cache, operation)
        if isinstance(operation, Truncate):
            if rng.random() < share:
                _perform(disk, operation)
            continue
        first = operation.offset // SECTOR * SECTOR
        for start in range(first, operation.offset + len(operation.data), SECTOR):
            if rng.random() < share:
                _grow(disk, start, rng)
                disk[start : start + SECTOR] = cache[start : start + SECTOR]
    return disk


def _grow(disk: bytearray, size: int, rng: random.Random) -> None:
    missing = size - len(disk)
    if missing > 0:
        disk.extend(rng.randbytes(missing) if rng.random() < 0.3 else bytes(missing))
