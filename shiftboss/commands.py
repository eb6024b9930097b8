"""What an operator's program and a running service say to each other over the control socket.

One request a connection: a line of JSON (`{"command": "scale", "executors": 4}`), answered by any number of `Progress` lines
and one `Done`, which comes when the effect is there. After `Done` of a `stop` the service's end closes the connection.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, TypeAlias
from zlib import crc32

import msgspec

MAX_LINE_BYTES: Final = 4096  # of a request; replies may be longer
MAX_PATH_BYTES: Final = 107  # of a socket; the kernel's struct has no room for more
MAX_EXECUTORS: Final = 1_000
USAGE: Final = 'a request is one line like {"command": "status"}'


class Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="command", tag=str.lower, forbid_unknown_fields=True):
    """Anything that may be asked for."""


class Stop(Command, frozen=True):
    """Drain and end, as SIGTERM; `now`: cancel what runs at once, as SIGQUIT. Also cuts a drain short that has begun."""

    now: bool = False


class Drain(Command, frozen=True):
    """Claim nothing more and stay up. Done when nothing runs any more, or at once without `wait`."""

    wait: bool = True


class Resume(Command, frozen=True):
    """Claim again."""


class Reload(Command, frozen=True):
    """Check the new configuration and code, then work by them; all or nothing. Done when the new executors are in service."""


class Restart(Command, frozen=True):
    """Replace all executors one by one, same configuration. Done when the last new one is in service."""


class Scale(Command, frozen=True):
    """Have so many executors until the next reload; at least 1. Done when the new ones are ready, or the extra ones are gone."""

    executors: Annotated[int, msgspec.Meta(ge=1, le=MAX_EXECUTORS)]


class Dump(Command, frozen=True):
    """Write the state and stacks of every actor to the log."""


class Status(Command, frozen=True):
    """What the supervisor knows, in `Done.data`."""


AnyCommand: TypeAlias = Stop | Drain | Resume | Reload | Restart | Scale | Dump | Status


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag_field="reply", tag="progress"):
    """How far it is, for people."""

    text: str


class Done(msgspec.Struct, frozen=True, kw_only=True, tag_field="reply", tag="done", omit_defaults=True):
    """The end of a command.

    Attributes:
        ok: the effect is there. False: `text` says why not, and nothing was changed.
        code: exit code for the program that asked, when it is not 0 or 1: 64 for a request that makes no sense,
            78 for bad configuration.
        data: for programs; of `Status`.
    """

    ok: bool
    text: str
    code: int | None = None
    data: ServiceStatus | None = None


class ActorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One child process. Times in seconds.

    Attributes:
        state: see the supervisor's table of states; `retiring` while its successor is in service and it still works.
        restarts: ends that were not asked for, since the service started.
        last_end: how its last incarnation ended ("SIGKILL after 3.2 s, peak 81 MiB"); empty: none has.
    """

    name: str
    state: str
    pid: int | None = None
    incarnation: int = 0
    uptime_s: float | None = None
    restarts: int = 0
    last_end: str = ""
    status: str = ""


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What `status` tells of a running service.

    Attributes:
        phase: starting, ready, reloading, quiet, paused (the executors keep crashing) or stopping.
        why: of the phase, where there is more to say.
        executors: how many are wanted and ready.
        last_reload: when (Unix seconds) and how the last reload ended; empty: there was none.
    """

    pid: int
    phase: str
    why: str = ""
    uptime_s: float = 0.0
    executors_wanted: int = 0
    executors_ready: int = 0
    actors: tuple[ActorStatus, ...] = ()
    last_reload: str = ""
    last_reload_ok: bool | None = None
    last_reload_at: float | None = None


_command_decoder: Final[msgspec.json.Decoder[AnyCommand]] = msgspec.json.Decoder(AnyCommand)
_reply_decoder: Final[msgspec.json.Decoder[Progress | Done]] = msgspec.json.Decoder(Progress | Done)


def encode(message: Command | Progress | Done) -> bytes:
    """One line."""
    return msgspec.json.encode(message) + b"\n"


def decode_command(line: bytes) -> AnyCommand:
    """A request.

    Raises:
        msgspec.DecodeError: it is not JSON, or not a command; the message says what is wrong.
    """
    return _command_decoder.decode(line)


def name_of(command: Command) -> str:
    """`scale`: as it stands in requests, in the log and on the command line."""
    return str(command.__struct_config__.tag)


def describe(command: Command) -> str:
    """The command with what it asks for, on one line: `scale executors=4`."""
    details = (f"{name}={value}" for name, value in msgspec.structs.asdict(command).items())
    return " ".join([name_of(command), *details])


def decode_reply(line: bytes) -> Progress | Done:
    """A line of the answer.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _reply_decoder.decode(line)


# ---- where the socket is

AUTO: Final = "auto"
OFF: Final = "off"
SYSTEM_FOLDER: Final = Path("/run/shiftboss")
_LONGEST_NAME: Final = 48


def socket_path(setting: str, environment: str, environ: Mapping[str, str], cwd: Path, uid: int) -> Path | None:
    """Where the service of this environment listens; None: nowhere.

    Args:
        setting: `control_socket`: `auto`, `off` or a path.
        cwd: the working directory. Services started in different ones do not get into each other's way.
    """
    if setting == OFF:
        return None
    if setting != AUTO:
        return cwd / setting
    return (_given_by_systemd(environ) + _private_paths(environment, environ, cwd, uid))[0]


def candidates(setting: str, environment: str, environ: Mapping[str, str], cwd: Path, uid: int) -> list[Path]:
    """Where a command looks for the service of this environment: the likeliest place first, none when it has no socket."""
    if setting != AUTO:
        path = socket_path(setting, environment, environ, cwd, uid)
        return [] if path is None else [path]
    of_the_unit = SYSTEM_FOLDER / _file_name(environment) / "control"
    found = [*_given_by_systemd(environ), of_the_unit, *_private_paths(environment, environ, cwd, uid)]
    return list(dict.fromkeys(found))


def _file_name(environment: str) -> str:
    """Any name of an environment, which is free text in a file, as a name without surprises."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in environment)[:_LONGEST_NAME]


def _given_by_systemd(environ: Mapping[str, str]) -> list[Path]:
    """`RuntimeDirectory=` of the unit; where it names several, the first."""
    folder = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return [Path(folder, "control")] if folder else []


def _private_paths(environment: str, environ: Mapping[str, str], cwd: Path, uid: int) -> list[Path]:
    """Outside a unit: in the folder of the user's session, if it has one and its path is short enough, then under /tmp."""
    name = f"{_file_name(environment)}-{crc32(os.fsencode(cwd.resolve())):08x}.control"
    in_tmp = Path(f"/tmp/shiftboss-{uid}", name)  # refused when it belongs to somebody else
    session = environ.get("XDG_RUNTIME_DIR", "")
    in_session = Path(session, "shiftboss", name)
    fits = session.startswith("/") and len(os.fsencode(in_session)) <= MAX_PATH_BYTES
    return [in_session, in_tmp] if fits else [in_tmp]
