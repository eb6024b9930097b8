"""These tests install users, units and programs on the machine they run on, and need its real systemd: a throw-away one.

`tests/acceptance/test_in_systemd.py` boots one and runs this folder in it. Elsewhere each is skipped by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import count

import pytest

from tests.systemd.install import NotHere, put_on_machine
from tests.systemd.unit import Unit

VARIABLE = "SHIFTBOSS_IN_SYSTEMD"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get(VARIABLE) == "1":
        return
    reason = f"changes the machine it runs on: set {VARIABLE}=1 inside a throw-away systemd, as root"
    for item in items:
        if "tests/systemd/" in item.path.as_posix():
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def installed() -> None:
    """Shiftboss on this machine, by its own installer."""
    try:
        put_on_machine()
    except NotHere as missing:
        pytest.skip(str(missing))


@pytest.fixture
def unit(installed: None, request: pytest.FixtureRequest) -> Iterator[Unit]:
    """An instance with the name of the test; its log is shown when the test fails."""
    words = re.sub(r"\W+", "_", request.node.name.removeprefix("test_"))
    name = f"t{next(_numbers)}_{words[:40].strip('_')}"
    with Unit(name) as made:
        yield made
        if request.node.stash.get(_FAILED, False):
            print(made.log()[-8000:])


_numbers = count(1)
_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed  # type: ignore[attr-defined]
    return report  # type: ignore[return-value]
