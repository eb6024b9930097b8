"""Which files the survey reads."""

from __future__ import annotations

import os
import random
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_FILES: Final = 8_000
MAX_BYTES: Final = 60_000_000  # some installations hold hundreds; two slow cores should be done within two minutes
SKIPPED_FOLDERS: Final = frozenset({"__pycache__", ".git"})

# name -> content. What a survey of source meets sooner or later, for installations that have none of it.
BROKEN_FILES: Final = {
    "print_statement.py": b"print 'written for Python 2'\n",
    "unknown_encoding.py": b"# -*- coding: klingon-1 -*-\nname = 'qapla'\n",
    "not_utf8.py": b"first = 1\nsecond = 2\ncity = 'Troms\xf8'\n",
    "cut_off.py": b"def half_a_function(\n",
    "nul_byte.py": b"a = 1\x00\n",
}
MISSING_FILE: Final = "gone_when_read.py"


@dataclass(frozen=True, slots=True)
class Selection:
    """Files to survey, well mixed, so that the speed is even; the same files give the same order.

    Attributes:
        left_out: how many were found beyond the limit.
        unnameable: how many have names that are not UTF-8, so that JSON cannot hold them.
    """

    roots: tuple[Path, ...]
    paths: tuple[str, ...]
    left_out: int
    unnameable: int


def installation_roots() -> tuple[Path, ...]:
    """Where this Python keeps its standard library and its packages, its virtual environment's included."""
    base = {"base": sys.base_prefix, "platbase": sys.base_prefix, "installed_base": sys.base_prefix}
    paths = sysconfig.get_paths(vars=base)
    found = [paths["stdlib"], paths["platstdlib"], *site.getsitepackages([sys.base_prefix]), *site.getsitepackages()]
    roots: list[Path] = []
    for path in (Path(text).resolve() for text in found):
        if path.is_dir() and not any(path.is_relative_to(root) for root in roots):
            roots.append(path)
    return tuple(roots)


def select(roots: Iterable[Path], limit: int = MAX_FILES, limit_bytes: int = MAX_BYTES) -> Selection:
    """Every `.py` file below `roots`, up to about `limit_bytes` and `limit` files; spread evenly when there are more."""
    roots = tuple(roots)
    found = sorted({path for root in roots for path in _python_files(root)})
    nameable = [path for path in found if _is_utf8(path)]
    step = max(1.0, len(nameable) / limit, sum(map(_size, nameable)) / limit_bytes)
    chosen = [nameable[int(index * step)] for index in range(int(len(nameable) / step))]
    random.Random(len(chosen)).shuffle(chosen)
    return Selection(roots, tuple(chosen), len(nameable) - len(chosen), len(found) - len(nameable))


def _python_files(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        yield from (os.path.join(folder, name) for name in names if name.endswith(".py"))  # noqa: PTH118  ten times faster


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116  as above
    except OSError:
        return 0  # a dangling link; its task will say so


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_broken_files(folder: Path) -> list[str]:
    """Write the broken files into a new `folder`, and name one more that does not exist."""
    folder.mkdir()
    for name, content in BROKEN_FILES.items():
        (folder / name).write_bytes(content)
    return [str(folder / name) for name in (*BROKEN_FILES, MISSING_FILE)]
