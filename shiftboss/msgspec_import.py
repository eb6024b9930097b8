"""Imports msgspec without typing_extensions. For the service's own processes, before anything else that imports msgspec.

msgspec takes three names from typing_extensions where that is installed, and from `typing` where it is not. From Python 3.11
on they are the same: `get_type_hints` with `include_extras` returns what `typing.get_type_hints` does, and `Required` and
`NotRequired` are those of `typing`. The module itself is 0.3 MiB in every process, and imports `inspect`, which is one more.

So while msgspec is imported, and no longer, typing_extensions counts as not installed. Whoever asks for it later gets it, with
types that msgspec understands as ever. An application that enqueues imports msgspec as it comes: its imports are its own.
"""

from __future__ import annotations

import sys
from typing import Final

_NAME: Final = "typing_extensions"


def _import_alone() -> None:
    if _NAME in sys.modules:
        return
    sys.modules[_NAME] = None  # type: ignore[assignment]  # how the import system writes "there is no such module"
    try:
        import msgspec  # noqa: F401
    finally:
        del sys.modules[_NAME]


_import_alone()
