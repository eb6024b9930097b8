"""Rules beyond a setting's own bounds: each names the settings it is about, when they clash, and what would be right. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from shiftboss.config.settings import SETTINGS, Settings
from shiftboss.config.show import shown

_LEAST_MEMORY_BYTES: Final = 64 * 1024 * 1024
_LEAST_AGE_S: Final = 1.0


class Rule(msgspec.Struct, frozen=True):
    """Holds unless `broken` says otherwise.

    Attributes:
        names: the settings in it; the first is the one to blame. Not looked at while one of them is wrong by itself.
        right: what to do, after "must".
    """

    names: tuple[str, ...]
    broken: Callable[[Settings], bool]
    right: str


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        ("heartbeat_interval", "worker_timeout"),
        lambda s: s.heartbeat_interval_s * 3 > s.worker_timeout_s,
        "must be at most a third of worker_timeout: two lost heartbeats must not cost the worker its tasks; "
        "lower the one or raise the other",
    ),
    Rule(
        ("executors", "worker_pool_size"),
        lambda s: s.executors is not None and s.executors > s.worker_pool_size,
        "must be at most worker_pool_size: an executor without a slot never runs anything",
    ),
    Rule(
        ("ping_interval", "ping_timeout"),
        lambda s: s.ping_interval_s * 2 > s.ping_timeout_s,
        "must be at most half of ping_timeout: an actor must be asked twice before it is killed",
    ),
    Rule(
        ("restart_backoff", "restart_backoff_max"),
        lambda s: s.restart_backoff_s > s.restart_backoff_max_s,
        "must be at most restart_backoff_max",
    ),
    Rule(
        ("result_retention", "completed_retention"),
        lambda s: s.keeps_completed and s.result_retention_s > s.completed_retention_s,
        "must be at most completed_retention: a result goes with its task",
    ),
    Rule(
        ("executor_max_memory",),
        lambda s: 0 < s.executor_max_memory_bytes < _LEAST_MEMORY_BYTES,
        "must be 0 or at least 64MiB: an executor that has done nothing takes a good part of that, "
        "and would be replaced for ever",
    ),
    Rule(
        ("executor_max_age",),
        lambda s: 0 < s.executor_max_age_s < _LEAST_AGE_S,
        "must be 0 or at least 1s: executors would do nothing but start",
    ),
)


class Doubt(msgspec.Struct, frozen=True):
    """Settings that work, and are probably not what was meant.

    Attributes:
        name: the setting to look at.
        says: what happens, after "NAME = VALUE: ".
    """

    name: str
    seems_meant: Callable[[Settings], bool]
    says: str


DOUBTS: Final[tuple[Doubt, ...]] = (
    Doubt(
        "distributed_mode",
        lambda s: not (s.distributed_mode and s.database_url.startswith("sqlite:")),
        "with an SQLite database every worker must be on this one machine; workers on several need PostgreSQL",
    ),
)


def doubts_of(settings: Settings, origins: Mapping[str, str]) -> list[str]:
    """What people should hear of settings that are right, one line each."""
    return [
        f"{origins[setting.name]}: {setting.name} = {shown(settings, setting)}: {doubt.says}"
        for doubt in DOUBTS
        for setting in SETTINGS
        if setting.name == doubt.name and not doubt.seems_meant(settings)
    ]
