"""What the tests here share."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.chaos import preload
from tests.chaos.preload import Dials


@pytest.fixture
def make_dials(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Dials]:
    """Of the disk and the clock of some programs, by name; also for those who run as somebody else."""
    if preload.compiler() is None:
        missing = "no gcc to build what makes a disk slow and a clock wrong; on Debian: apt-get install gcc"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("dials")
    for one in (folder, folder.parent, folder.parent.parent):
        one.chmod(0o755)
    library = preload.build(folder)
    return lambda name: Dials(library, folder / name)


@pytest.fixture
def dials(make_dials: Callable[[str], Dials]) -> Dials:
    return make_dials("dials")
