"""The console's entry. It imports next to nothing: what it does has to be done in the first instant of the process."""

import os
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
QUICK: Final = frozenset({"stop", "drain", "resume", "reload", "restart", "dump"})


def console() -> int:
    """Run this process's command line. Returns the exit code."""
    if sys.argv[1:2] == ["start"]:
        # The mask and what waits behind it survive the exec into the supervisor, which lifts it when it can obey.
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_AT_START)
    if sys.argv[1:2] and sys.argv[1] in QUICK and (code := _quickly()) is not None:
        return code
    from shiftboss.cli.main import main

    return main()


def _quickly() -> int | None:
    """The exit code of a command that needs no more than the running service; None: it takes the whole command line."""
    from shiftboss.cli.exits import INTERRUPTED, NOTHING, explain
    from shiftboss.cli.operate import operate
    from shiftboss.cli.quick import read

    request = read(sys.argv[1:])
    if request is None:
        return None
    try:
        code = operate(request)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # nobody reads what is printed, and Python is not to try once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOTHING
    except Exception as error:  # noqa: BLE001  the one place that turns any error into a message and a code
        return explain(error)
    return code
