"""Leaves a worker behind with a task that runs for a few seconds; for the test of a shutdown.

python -m tests.systemd.busy_worker
"""

from __future__ import annotations

import sys

from tests.systemd.install import NotHere, put_on_machine
from tests.systemd.unit import HANDLERS, Unit

_LONG = """
import logging

@task(type="long")
def long() -> None:
    logging.getLogger("app").warning("handler began")
    note("began")
    threading.Event().wait(6)
    logging.getLogger("app").warning("handler ended")
"""


def main() -> int:
    try:
        put_on_machine()
    except NotHere as missing:
        print(missing, file=sys.stderr)
        return 77
    unit = Unit("poweroff").__enter__()
    unit.write_code(HANDLERS + _LONG)
    unit.configure(shutdown_timeout="30s")
    unit.start().enqueue("long")
    unit.noted("began")
    return 0


if __name__ == "__main__":
    sys.exit(main())
