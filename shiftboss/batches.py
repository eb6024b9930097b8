"""Many prepared tasks: cut into batches of one transaction each, and one batch stored while the next one is prepared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, TypeVar

from shiftboss.bound import Prepared
from shiftboss.errors import ArgumentsError, OptionError
from shiftboss.model import Enqueued

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

R = TypeVar("R")

MAX_BATCH_ROWS: Final = 5_000
MAX_BATCH_BYTES: Final = 8 * 1_048_576


def cut(prepared: Iterable[Prepared[R]], max_args_bytes: int) -> Iterator[tuple[list[Prepared[R]], bool]]:
    """The batches in order, each with whether it is the last one.

    Raises:
        OptionError: something else than what `prepare()` returns.
        ArgumentsError: more than `max_args_bytes` of arguments. What came before it in the same batch is not stored either.
    """
    batch: list[Prepared[R]] = []
    size = 0
    for one in prepared:
        if not isinstance(one, Prepared):
            raise OptionError(f"enqueue_many takes what prepare() returns, not {one!r}")
        length = len(memoryview(one.new.args))
        if length > max_args_bytes:
            raise ArgumentsError(
                f"{one.new.type}: arguments of {length:,} bytes of JSON are more than max_args_bytes={max_args_bytes:,}"
            )
        if batch and (len(batch) >= MAX_BATCH_ROWS or size + length > MAX_BATCH_BYTES):
            yield batch, False
            batch, size = [], 0
        batch.append(one)
        size += length
    if batch:
        yield batch, True


def stored_behind(
    batches: Iterator[tuple[list[Prepared[R]], bool]], store: Callable[[list[Prepared[R]]], list[Enqueued]]
) -> Iterator[tuple[list[Prepared[R]], list[Enqueued]]]:
    """Every batch with what became of it, in order. A server stores one while the next one is made here, in a thread.

    One after the other all the same: a batch is sent when the one before it is stored. When one fails, the tasks of the next
    have been prepared in vain; when preparing fails, the one under way is stored first.
    """
    with ExitStack() as stack:
        behind: ThreadPoolExecutor | None = None
        under_way: tuple[list[Prepared[R]], Future[list[Enqueued]]] | None = None
        for batch, last in batches:
            if under_way is not None:
                yield under_way[0], under_way[1].result()
                under_way = None
            if last:
                yield batch, store(batch)
                return
            behind = behind or stack.enter_context(_one_thread())
            try:
                under_way = batch, behind.submit(store, batch)
            except RuntimeError:  # no thread can be started: at a limit, or at the end of the interpreter
                yield batch, store(batch)


def _one_thread() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor  # few programs store more than one batch at a time

    return ThreadPoolExecutor(1, "shiftboss-enqueue")
