"""The console's entry. It imports next to nothing: what it does has to be done in the first instant of the process."""

import signal
import sys
from typing import Final

# Those that mean something to a service. From the first instant on they wait for its loop instead of ending it half-way.
HELD_AT_START: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
QUICK: Final = frozenset({"start", "stop", "drain", "resume", "reload", "restart", "dump"})


def console() -> int:
    """Run this process's command line. Returns the exit code."""
    if sys.argv[1:2] == ["start"]:
        # The mask and what waits behind it survive the exec into the supervisor, which lifts it when it can obey.
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_AT_START)
    if not QUICK.isdisjoint(sys.argv[1:2]):
        from shiftboss.cli.quick import run

        if (code := run(sys.argv[1:])) is not None:
            return code
    from shiftboss.cli.main import main

    return main()
