"""`shiftboss tasks`: find tasks, look at one, and retry, cancel or delete some."""

from __future__ import annotations

import sys
import uuid
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from shiftboss.cli import options
from shiftboss.cli.exits import DONE, NOTHING
from shiftboss.cli.output import cell, clip, counted, print_json, print_table
from shiftboss.errors import TaskNotFound, TaskNotKept
from shiftboss.handle import not_kept
from shiftboss.model import AttemptView, TaskState, TaskView
from shiftboss.store.base import TaskFilter

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(help="List, show, retry, cancel and delete tasks.", no_args_is_help=True)

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids; or say with options which tasks.")]
Status = Annotated[TaskState | None, typer.Option(metavar="STATE", help=f"Only in this state: {', '.join(TaskState)}.")]
Type = Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Only of this type.")]
Queue = Annotated[str | None, typer.Option(metavar="NAME", help="Only in this queue.")]
Worker = Annotated[str | None, typer.Option(metavar="ID", help="Only held by this worker.")]
Tag = Annotated[str | None, typer.Option(metavar="TAG", help="Only with this tag.")]
All = Annotated[bool, typer.Option("--all", help="Every task, when nothing else says which.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("list")
def list_(
    status: Status = None,
    type_: Type = None,
    queue: Queue = None,
    worker: Worker = None,
    tag: Tag = None,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="NUMBER", min=1, max=100_000, help="At most so many.")] = 50,
    before: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on after this id, the last one of the page before.")
    ] = None,
    env: options.Env = None,
    config: options.Config = None,
    set_: options.Set = None,
    json: options.Json = False,
) -> int:
    """List tasks, newest first."""
    which = TaskFilter(status=status, type=type_, queue=queue, worker_id=worker, tag=tag)
    start = _checked_id(before) if before else None
    with options.opened(options.load(env, config, set_)) as store:
        found = store.list_tasks(which, limit, start)
    if json:
        print_json(found)
    else:
        rows = [(t.id, t.type, t.queue, t.status, _attempts(t), t.updated_at, clip(t.last_error, 60)) for t in found]
        print_table(("id", "type", "queue", "status", "attempts", "updated", "error"), rows, empty="no such tasks")
        if len(found) == limit:
            typer.echo(f"there may be more: --before {cell(found[-1].id)}", err=True)
    return DONE


@app.command()
def show(
    task_id: Annotated[str, typer.Argument(metavar="ID", help="The task's id.")],
    env: options.Env = None,
    config: options.Config = None,
    set_: options.Set = None,
    json: options.Json = False,
) -> int:
    """Show all that is known of one task, with its unsuccessful attempts. Exit 1 when there is none."""
    wanted = _checked_id(task_id)
    with options.opened(options.load(env, config, set_)) as store:
        task = store.get(wanted)
        attempts = store.attempts(wanted) if task else []
        traced = task is None and store.has_trace(wanted)
    if traced:
        raise TaskNotKept(not_kept(wanted))
    if task is None:
        raise TaskNotFound(
            f"task {wanted}: no such task: never enqueued, removed after its retention, or not kept (completed_retention = 0s)"
        )
    if json:
        print_json({**msgspec.structs.asdict(task), "attempt_history": attempts})
    else:
        _print_task(task, attempts)
    return DONE


@app.command()
def retry(
    ids: Ids = None,
    status: Status = None,
    type_: Type = None,
    queue: Queue = None,
    tag: Tag = None,
    all_: All = False,
    yes: Yes = False,
    env: options.Env = None,
    config: options.Config = None,
    set_: options.Set = None,
    json: options.Json = False,
) -> int:
    """Make dead letters and cancelled tasks pending again, with all their attempts. Exit 1 when none moved."""
    which = _which(ids, TaskFilter(status=status, type=type_, queue=queue, tag=tag), "retry", all_=all_, yes=yes)
    with options.opened(options.load(env, config, set_)) as store:
        moved = store.retry(which)
    return _report(json, {"retried": moved}, f"{counted(moved, 'task')} pending again")


@app.command()
def cancel(
    ids: Ids = None,
    status: Status = None,
    type_: Type = None,
    queue: Queue = None,
    worker: Worker = None,
    tag: Tag = None,
    all_: All = False,
    yes: Yes = False,
    env: options.Env = None,
    config: options.Config = None,
    set_: options.Set = None,
    json: options.Json = False,
) -> int:
    """Cancel pending tasks at once; ask those that a worker holds to stop. Exit 1 when there were none."""
    which = _which(
        ids, TaskFilter(status=status, type=type_, queue=queue, worker_id=worker, tag=tag), "cancel", all_=all_, yes=yes
    )
    with options.opened(options.load(env, config, set_)) as store:
        done = store.cancel(which)
    text = f"{counted(done.cancelled, 'task')} cancelled, {done.requested} asked to stop"
    return _report(json, {"cancelled": done.cancelled, "requested": done.requested}, text)


@app.command()
def delete(
    ids: Ids = None,
    status: Status = None,
    type_: Type = None,
    queue: Queue = None,
    tag: Tag = None,
    all_: All = False,
    yes: Yes = False,
    env: options.Env = None,
    config: options.Config = None,
    set_: options.Set = None,
    json: options.Json = False,
) -> int:
    """Remove ended and pending tasks for good; those that a worker holds stay. Exit 1 when there were none."""
    which = _which(ids, TaskFilter(status=status, type=type_, queue=queue, tag=tag), "delete", all_=all_, yes=yes)
    with options.opened(options.load(env, config, set_)) as store:
        gone = store.delete(which)
    return _report(json, {"deleted": gone}, f"{counted(gone, 'task')} deleted")


def _which(ids: Sequence[str] | None, which: TaskFilter, verb: str, *, all_: bool, yes: bool) -> TaskFilter:
    """The tasks meant. Many at once must be meant: asked for by a filter or --all, and confirmed."""
    given = {name: value for name, value in msgspec.structs.asdict(which).items() if value is not None}
    if ids:
        return msgspec.structs.replace(which, ids=[_checked_id(task_id) for task_id in ids])
    if not given and not all_:
        raise typer.BadParameter("say which tasks: ids, --status, --type, --queue, --tag, or --all for every one")
    if not yes:
        described = " and ".join(f"{name} {value}" for name, value in given.items()) or "every state, type and queue"
        _confirm(f"{verb.capitalize()} all tasks of {described}?")
    return which


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"{question} Nobody is here to ask: add --yes")
    typer.confirm(question, abort=True, err=True)


def _checked_id(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a task id, like 0192f0c1-7a3e-7cc2-9a55-3b1d2c4e5f60") from None


def _report(json: bool, numbers: dict[str, int], text: str) -> int:
    if json:
        print_json(numbers)
    else:
        typer.echo(text)
    return DONE if any(numbers.values()) else NOTHING


def _attempts(task: TaskView) -> str:
    return f"{task.attempts}/{task.max_attempts or '?'}"


def _print_task(task: TaskView, attempts: Sequence[AttemptView]) -> None:
    facts: dict[str, Any] = {name: value for name, value in msgspec.structs.asdict(task).items() if value not in (None, ())}
    width = max(map(len, facts))
    for name, value in facts.items():
        text = ", ".join(map(str, value)) if name == "tags" else value
        typer.echo(f"{name:{width}}  {cell(text)}")
    if attempts:
        typer.echo()
        rows = [(a.attempt, a.outcome, a.worker_id, a.ended_at, a.duration_s, clip(a.error, 80)) for a in attempts]
        print_table(("attempt", "outcome", "worker", "ended", "seconds", "error"), rows, empty="")
        if trace := attempts[-1].traceback:
            typer.echo("\n" + "\n".join(f"  {cell(line)}" if line else "" for line in trace.splitlines()))
