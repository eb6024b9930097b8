"""Reading the services' logs: JSON lines, of which a killed process may leave the last one torn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

LogLine: TypeAlias = dict[str, Any]

_BEGIN: Final = b'{"ts": '


class Tail:
    """What is new in a file since the last look."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = 0

    def lines(self) -> Iterator[LogLine]:
        with self._file.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        yield from parse(data[:whole])


def parse(data: bytes) -> Iterator[LogLine]:
    """The events of a log; what is not JSON (user code, torn lines) is left out.

    A line may begin in the middle of another: a process that crashes writes its stacks in pieces, past everybody's logging.
    """
    for text in data.splitlines():
        begin = text.find(_BEGIN)
        if begin < 0:
            continue
        try:
            line = json.loads(text[begin:])
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line


def read(file: Path) -> Iterator[LogLine]:
    yield from parse(file.read_bytes())
