"""What a child is, and how the supervisor treats it: OTP's child specs and supervisor flags. Frozen, checked together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import groupby

import msgspec
from msgspec.structs import force_setattr

from shiftboss.control import EXIT_CONFIG, EXIT_UNREACHABLE, EXIT_USAGE
from shiftboss.errors import ConfigError
from shiftboss.hiding import repr_without

NAME = "{name}"  # in `argv`
EXIT_INTERRUPTED = 130  # third Ctrl-C

FINAL_BOOT_CODES = frozenset({EXIT_USAGE, EXIT_UNREACHABLE, EXIT_CONFIG})
"""Ends of a booting child that another try would not change; before the service was ready they end it with the same code."""


class Restart(StrEnum):
    """When a child that has ended is started again."""

    PERMANENT = "permanent"  # always
    TRANSIENT = "transient"  # unless it ended with 0
    TEMPORARY = "temporary"  # never


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One child process.

    Attributes:
        name: unique; in logs, in `Link.peer` and in the child's environment.
        argv: the command; `argv[0]` is looked up in PATH. `{name}` in it stands for the child's name.
        env: added to the supervisor's environment.
        secrets: variable -> text that the child reads by `control.read_secret`, and that nobody else finds anywhere.
        shutdown_s: time for its own stop, counted from the Stop message; then its process group gets SIGKILL.
        start_timeout_s: time from its start to Ready; then it is dumped (SIGABRT) and killed.
        group: children of one group start together and share a restart budget; empty: a group of its own.
        links: names of children or groups to share a socket with. One side's wish is enough.
        table_bytes: size of the shared memory that outlives its death for its peers; 0: none.
        ping: killed when it stops answering. False for children that may be busy for long.
        critical: past its budget the whole service gives up. False: it stays down and is tried again every restart period,
            and nothing waits for it at start.
        during_drain: started again also when it dies while the draining child works: that work relies on it.
        drains: the one child whose stop may take the whole shutdown timeout; started again when it crashes during the stop.
        pass_fds: descriptors of ours that it gets, under the same numbers; every incarnation anew.
        rolling: replaced by starting its successor first. Its group may be scaled, and when it keeps crashing the service
            pauses instead of giving up. All of a group or none.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = msgspec.field(default_factory=dict)
    secrets: Mapping[str, str] = msgspec.field(default_factory=dict)
    restart: Restart = Restart.PERMANENT
    shutdown_s: float = 5.0
    start_timeout_s: float = 60.0
    group: str = ""
    links: tuple[str, ...] = ()
    table_bytes: int = 0
    ping: bool = True
    critical: bool = True
    during_drain: bool = False
    drains: bool = False
    pass_fds: tuple[int, ...] = ()
    rolling: bool = False

    def __post_init__(self) -> None:
        if not self.group:
            force_setattr(self, "group", self.name)

    def __repr__(self) -> str:
        return repr_without(self, "secrets")


class SupervisorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """More than `max_restarts` of one group within `restart_period_s` means give up.

    Attributes:
        restart_backoff_s: delay before the second restart in a row, doubled at each further one up to `restart_backoff_max_s`,
            with jitter; the first restart of a child that had been ready is immediate.
        restart_reset_s: ready for so long, a child's earlier crashes are forgotten.
        ping_timeout_s: an unanswered ping is a hung child.
        shutdown_timeout_s: how long the draining child may let running work finish.
        cancel_grace_s: how long work may then take to be cancelled.
        core_down_limit_s: the watchdog is fed no more when a critical, pinged child has not been ready for so long.
        probe_interval_s: how often one child of a rolling group that keeps crashing is tried.
        board_bytes: size of the shared memory of all children.
    """

    max_restarts: int = 20
    restart_period_s: float = 60.0
    restart_backoff_s: float = 0.5
    restart_backoff_max_s: float = 30.0
    restart_reset_s: float = 60.0
    ping_interval_s: float = 5.0
    ping_timeout_s: float = 30.0
    shutdown_timeout_s: float = 30.0
    cancel_grace_s: float = 5.0
    core_down_limit_s: float = 300.0
    probe_interval_s: float = 30.0
    board_bytes: int = 8192


class Blueprint(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload leads to.

    Attributes:
        specs: all children anew. Rolling groups may have other numbers; all others have the names that they have now.
        replace: names of children that are not rolling and cannot take the new settings while they run.
        settings: what running children are told, opaque here.
        changes: what is different, one line each, for people; no secrets.
    """

    specs: tuple[ChildSpec, ...]
    supervisor: SupervisorSettings
    replace: frozenset[str] = frozenset()
    settings: bytes = b""
    changes: tuple[str, ...] = ()


def start_groups(specs: Sequence[ChildSpec]) -> tuple[tuple[ChildSpec, ...], ...]:
    """The specs as groups in start order; each group starts in parallel, the stop takes them from the last to the first."""
    return tuple(tuple(group) for _, group in groupby(specs, key=lambda spec: spec.group))


def check_specs(specs: Sequence[ChildSpec]) -> None:
    """Refuse specs that contradict each other.

    Raises:
        ConfigError: with one line for each mistake.
    """
    mistakes = [*_naming_mistakes(specs), *_link_mistakes(specs)]
    if not specs:
        mistakes.append("no children: name at least one")
    mistakes += [
        f"group {group[0].group}: some of its children are rolling and others are not"
        for group in start_groups(specs)
        if len({spec.rolling for spec in group}) > 1
    ]
    if sum(spec.drains for spec in specs) > 1:
        mistakes.append("more than one child drains: one deadline can be given to one child only")
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def _naming_mistakes(specs: Sequence[ChildSpec]) -> list[str]:
    names = [spec.name for spec in specs]
    mistakes = [f"child {name}: named twice" for name in sorted({name for name in names if names.count(name) > 1})]
    mistakes += [f"child {spec.name}: argv is empty" for spec in specs if not spec.argv]
    groups = [group[0].group for group in start_groups(specs)]
    mistakes += [
        f"group {name}: its children are not next to each other" for name in sorted(set(groups)) if groups.count(name) > 1
    ]
    return mistakes


def _link_mistakes(specs: Sequence[ChildSpec]) -> list[str]:
    known = {spec.name for spec in specs} | {spec.group for spec in specs}
    return [
        f"child {spec.name}: links to {link}, and no child or group has that name"
        for spec in specs
        for link in spec.links
        if link not in known
    ]
