"""Tasks that harm the process they run in. Each notes its start in the ledger, and its end when it lives to see one."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import io
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

from shiftboss import Attempt, Constant, Retry, task
from tests.acceptance.worker import is_running
from tests.chaos import ledger
from tests.chaos.workload import OnPurpose, begin, end

SOON: Final = Constant(0.05)
CHILDREN: Final = 60  # of a fork bomb whose limit root does not feel
MEBIBYTE: Final = 1 << 20
TIMEOUT_S: Final = 0.5
_MEMORY_LIMIT: Final = resource.getrlimit(resource.RLIMIT_AS)  # at import: another hog may have lowered it since


def _fork_bomb() -> NoReturn:
    """Children that ignore every request to end; then the process itself dies."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NPROC, (CHILDREN, resource.RLIM_INFINITY))
    with contextlib.suppress(OSError):
        for _ in range(CHILDREN):
            if os.fork() == 0:
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    ctypes.CDLL(None).signal(int(number), 1)  # SIG_IGN, past Python: this is not its main thread
                ctypes.CDLL(None).sleep(300)
                os._exit(0)
    os._exit(9)


def _memory_hog() -> NoReturn:
    """Takes whatever a limit on the address space leaves, and some time; then gives all of it back."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hoard: list[bytearray] = []
    resource.setrlimit(resource.RLIMIT_AS, (used + 64 * MEBIBYTE, resource.RLIM_INFINITY))
    try:
        while True:
            hoard.append(bytearray(MEBIBYTE))
    finally:
        try:
            threading.Event().wait(0.1)
        finally:
            hoard.clear()
            resource.setrlimit(resource.RLIMIT_AS, _MEMORY_LIMIT)


def _recursion() -> None:
    _recursion()


class _Nested:
    def __repr__(self) -> str:
        return repr([self])


def _stack_overflow() -> None:
    """In C, where Python's own limit would have to stop it."""
    sys.setrecursionlimit(1 << 30)
    nested: list[Any] = []
    for _ in range(1_000_000):
        nested = [nested]
    json.dumps(nested, check_circular=False)
    repr(_Nested())


def _leave_daemon() -> None:
    """A grandchild in a session of its own, with all descriptors, as a daemon is born; it lives two seconds."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", "2"])
        os._exit(0)


def _upset() -> None:
    """What a careless library may change for everybody in the process."""
    os.chdir("/")
    os.umask(0)
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    os.environ.clear()
    sys.stdout = sys.stderr = io.StringIO()
    threading.Thread(target=threading.Event().wait, name="never ends").start()


_DEADLY: Final[dict[str, Callable[[], object]]] = {
    "exit": lambda: os._exit(3),
    "exit_zero": lambda: os._exit(0),
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stack_overflow": _stack_overflow,
    "fork_bomb": _fork_bomb,
    "closes_descriptors": lambda: os.closerange(0, 4096),
}
_FAILING: Final[dict[str, Callable[[], object]]] = {"recursion": _recursion, "memory_hog": _memory_hog}
_HARMLESS: Final[dict[str, Callable[[], object]]] = {"daemon": _leave_daemon, "upset": _upset}
DEADLY: Final = tuple(_DEADLY)
FAILING: Final = tuple(_FAILING)
HARMLESS: Final = tuple(_HARMLESS)


@task(type="poison:deadly", max_attempts=2, backoff=SOON)
def deadly(attempt: Attempt, how: str) -> int:
    """Does not live to see its end."""
    begin(attempt)
    _DEADLY[how]()
    return end(attempt)


@task(type="poison:deadly_async", max_attempts=2, backoff=SOON)
async def deadly_async(attempt: Attempt, how: str) -> int:
    """The same in the loop that all async handlers share."""
    begin(attempt)
    _DEADLY[how]()
    await asyncio.sleep(0.1)
    return end(attempt)


@task(type="poison:failing", max_attempts=2, backoff=SOON)
def failing(attempt: Attempt, how: str) -> int:
    begin(attempt)
    try:
        with ledger.hogging(attempt.worker) if how == "memory_hog" else contextlib.nullcontext():
            _FAILING[how]()
    except (RecursionError, MemoryError) as error:
        end(attempt, "failed")
        raise OnPurpose(attempt) from error
    return end(attempt)


@task(type="poison:harmless", max_attempts=5, backoff=SOON)
def harmless(attempt: Attempt, how: str) -> int:
    begin(attempt)
    _HARMLESS[how]()
    return end(attempt)


@task(type="poison:gil", max_attempts=2, backoff=SOON, timeout=TIMEOUT_S)
def holds_gil(attempt: Attempt, seconds: float) -> int:
    """In C with the GIL held: nothing else in its process runs, so only a kill ends it."""
    begin(attempt)
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return end(attempt)


@task(type="poison:parent", max_attempts=30, backoff=SOON)
def kills_parent(attempt: Attempt, pid: int) -> int:
    """Kills the supervisor with this pid, if it is its own; elsewhere it waits until somebody has done so."""
    begin(attempt)
    if os.getppid() == pid:
        os.kill(pid, signal.SIGKILL)
        threading.Event().wait(30)
    if is_running(pid):
        end(attempt, "retry")
        raise Retry(0.1, f"on purpose fence={attempt.fence}")
    return end(attempt)


# ---- texts


class Unprintable(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


TEXTS: Final = {
    "control": "\x1b[2J\x1b]0;owned\x07\r\nlevel=fatal msg=forged\n\x00\x7f\x9b31m",
    "surrogate": "half \ud800 and \udfff",
    "direction": "abc\u202egnp.exe\u2028\u2029",
    "json": '"},{"event":"service.ready","fields":{"a":"',
    "sql": "'; DROP TABLE tasks; -- \\",
    "megabyte": "x" * 1_000_000,
}


@task(type="hostile:error", max_attempts=1)
def hostile_error(attempt: Attempt, text: str) -> int:
    """Raises it, and logs it, and reports it as progress."""
    begin(attempt)
    attempt.log.warning("%s", TEXTS[text])
    attempt.progress(50, TEXTS[text])
    end(attempt, "failed")
    raise ValueError(f"on purpose fence={attempt.fence} {TEXTS[text]}")


@task(type="hostile:raises", max_attempts=1)
def hostile_raise(attempt: Attempt, what: str) -> int:
    """What is not an ordinary exception."""
    begin(attempt)
    end(attempt, "failed")
    match what:
        case "unprintable":
            raise Unprintable
        case "keyboard":
            raise KeyboardInterrupt
        case "generator":
            raise GeneratorExit
        case "stop":
            raise StopIteration(1)
        case "exit":
            sys.exit(0)
        case _:
            raise ExceptionGroup("\x1b[31m" * 1000, [ValueError("\0")] * 1000)


RAISES: Final = ("unprintable", "keyboard", "generator", "stop", "exit", "group")


@task(type="hostile:result", max_attempts=1)
def hostile_result(attempt: Attempt, what: str) -> Any:
    """What is not JSON, or too much of it."""
    begin(attempt)
    end(attempt, "failed")
    endless: list[Any] = []
    endless.append(endless)
    return {"object": object(), "nan": float("nan"), "surrogate": "\ud800", "endless": endless, "huge": "x" * 50_000_000}[what]


RESULTS: Final = ("object", "nan", "surrogate", "endless", "huge")


@task(type="hostile:payload", max_attempts=30, backoff=SOON)
def hostile_payload(attempt: Attempt, value: Any) -> int:
    """Takes anything that JSON can say."""
    begin(attempt)
    return end(attempt)


def nested(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = [value]
    return value


PAYLOADS: Final[dict[str, Any]] = {
    "text": {key: text for key, text in TEXTS.items() if key in ("direction", "json", "sql")},
    "keys": {"__proto__": 1, "": 2, "\x1b[0m": 3, "a" * 10_000: 4, "constructor": {"prototype": {}}},
    "numbers": [1.7976931348623157e308, -0.0, 5e-324, 2**53, -(2**63), 2**64 - 1],
    "deep": nested(90),
    "large": "y" * 900_000,
    "many": list(range(100_000)),
}
