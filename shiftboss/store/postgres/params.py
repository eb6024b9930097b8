"""What the exchange's queries are given: a batch as a few array literals."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

import msgspec

from shiftboss.model import (
    DEFAULT_MAX_ATTEMPTS,
    MAX_ERROR_CHARS,
    MAX_REFUNDS,
    MAX_TRACEBACK_CHARS,
    NULL,
    Ended,
    Lease,
    Progress,
)
from shiftboss.store.base import ClaimAsk
from shiftboss.store.postgres.arrays import float_array, int_array, plain_array, storable, text_array, uuid_array
from shiftboss.store.postgres.link import Params

Key: TypeAlias = tuple[str, int]  # id, fence
_LATEST_S: Final = 1e11  # the year 5138
_UUID: Final = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def is_uuid(text: str) -> bool:
    """Whether PostgreSQL will take `text` for a task's id."""
    return _UUID.fullmatch(text) is not None


def complete_params(worker_id: str, ended: Sequence[Ended], now: datetime | None) -> Params:
    results = [None if item.result == NULL else _text(item.result) for item in ended]
    return {
        **_keys_of(ended),
        "results": text_array(results) if any(results) else "{}",  # most handlers return nothing; what is missing is NULL
        "starts": float_array(_moments([item.started_at for item in ended])),
        "durations": float_array(durations_of(ended)),
        "slot": worker_id,
        "now": now,
    }


def forget_params(worker_id: str, ended: Sequence[Ended], now: datetime | None) -> Params:
    ids = [item.task_id.lower() for item in ended]  # as the server sorts them
    return {
        **_keys_of(ended),
        "first": min(ids),
        "last": max(ids),
        "slot": worker_id,
        "now": now,
    }


def end_params(worker_id: str, ended: Sequence[Ended], now: datetime | None) -> Params:
    return {
        **_keys_of(ended),
        "outcomes": plain_array(item.outcome.value for item in ended),
        "errors": text_array(storable(item.error, MAX_ERROR_CHARS) for item in ended),
        "tracebacks": text_array(storable(item.traceback, MAX_TRACEBACK_CHARS) for item in ended),
        "retries": plain_array(item.retry_in_s for item in ended),
        "starts": float_array(_moments([item.started_at for item in ended])),
        "durations": float_array(durations_of(ended)),
        **_end_constants(worker_id, now),
    }


def pseudo_end_params(slot: str, outcome: str, keys: Sequence[Key], now: datetime | None) -> Params:
    """For ends that no attempt reports: `released` and `lost`."""
    nothing = plain_array(None for _ in keys)
    return {
        **key_params(keys),
        "outcomes": plain_array(outcome for _ in keys),
        **dict.fromkeys(("errors", "tracebacks", "retries", "starts", "durations"), nothing),
        **_end_constants(slot, now),
    }


def _text(json: msgspec.Raw) -> str:
    """What is not UTF-8 becomes lone surrogates, which psycopg refuses: the row then goes its own way."""
    return bytes(json).decode("utf-8", "surrogateescape")


def _moments(unix_s: Sequence[float | None]) -> Sequence[float | None]:
    """A worker's clock may say anything; only what a timestamp can hold is worth keeping."""
    return [one if one is not None and 0 <= one < _LATEST_S else None for one in unix_s]


def durations_of(ended: Sequence[Ended]) -> list[float]:
    """In seconds; 0 for what is no number that a counter could add."""
    durations = [item.duration_s for item in ended]
    if math.isfinite(sum(durations)):  # nearly always, and then each of them is
        return durations
    return [one if math.isfinite(one) else 0.0 for one in durations]


def _end_constants(slot: str, now: datetime | None) -> dict[str, Any]:
    return {"slot": slot, "now": now, "default_max_attempts": DEFAULT_MAX_ATTEMPTS, "max_refunds": MAX_REFUNDS}


def key_params(keys: Sequence[Key]) -> dict[str, object]:
    """The keys of a batch; for ids that `is_uuid`."""
    return _keys([task_id for task_id, _ in keys], [fence for _, fence in keys])


def _keys_of(ended: Sequence[Ended]) -> dict[str, object]:
    return _keys([item.task_id for item in ended], [item.fence for item in ended])


def _keys(ids: Sequence[str], fences: Sequence[int]) -> dict[str, object]:
    return {"ids": uuid_array(ids) or plain_array(ids), "fences": int_array(fences)}


def lease_keys(leases: Iterable[Lease]) -> Iterator[Key]:
    return ((lease.task_id, lease.fence) for lease in leases if is_uuid(lease.task_id))


def lease_params(leases: Sequence[Lease], now: datetime | None) -> Params:
    return {**key_params([*dict.fromkeys(lease_keys(leases))]), "now": now}


def progress_params(progress: Sequence[Progress], now: datetime | None) -> Params:
    texts = [msgspec.json.encode({"percent": item.percent, "note": storable(item.note)}).decode() for item in progress]
    return {**key_params([(item.task_id, item.fence) for item in progress]), "progress": text_array(texts), "now": now}


def claim_params(worker_id: str, ask: ClaimAsk, now: datetime | None) -> Params:
    return {
        "queues": text_array(lane.queue for lane in ask.lanes),
        "priorities": plain_array(lane.priority for lane in ask.lanes),
        "limits": plain_array(lane.limit for lane in ask.lanes),
        "sinces": plain_array(lane.since for lane in ask.lanes),
        "types": text_array(info.type for info in ask.types),
        "max_attempts": plain_array(info.max_attempts for info in ask.types),
        "timeouts": plain_array(info.timeout_s for info in ask.types),
        "unread": ask.unread,
        "most": ask.limit,
        "running": ask.running,
        "worker_id": worker_id,
        "now": now,
    }


def turn_params(ask: ClaimAsk) -> Params:
    """One turn for each lane that somebody drains; for all of them together where they are merged."""
    lane = ask.lanes[0]
    return {"lane": "" if ask.merge is not None else f"{lane.priority} {lane.queue}"}


def counter_params(worker_id: str, totals: Mapping[tuple[str, str], float]) -> Params:
    """(name, labels) -> what to add, in one order for everybody."""
    ordered = sorted(totals)
    return {
        "worker_id": worker_id,
        "names": text_array(name for name, _ in ordered),
        "labels": text_array(storable(labels) for _, labels in ordered),
        "values": plain_array(totals[key] for key in ordered),
    }
