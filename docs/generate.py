"""Writes the pages under docs/reference/ that come from the code. `tests/docs` fails when one is stale.

    python docs/generate.py

events.md is written by hand; its names and fields are checked all the same.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer

from shiftboss import errors
from shiftboss.actors.metrics import MAX_TYPES, METRICS, OTHER_TYPES
from shiftboss.cli import exits
from shiftboss.cli.main import make_app
from shiftboss.config import SETTINGS, Settings
from shiftboss.config.settings import GROUPS, QUEUE_SETTINGS, Setting
from shiftboss.config.show import plain_value, toml_value
from shiftboss.config.values import Kind, Reload, expected
from shiftboss.model import TASK_TRANSITIONS, Outcome, TaskEvent, TaskState
from shiftboss.store.counting import CLAIM_BUCKETS_S, DURATION_BUCKETS_S
from shiftboss.supervisor.states import CHILD_TRANSITIONS

REFERENCE: Final = Path(__file__).parent / "reference"
_MADE: Final = "<!-- Made by docs/generate.py from the code: change it there. -->"


# ---- settings


def settings_page() -> str:
    """Every setting: name, default, variables, rules."""
    lines = [
        "# Settings",
        _MADE,
        "A setting is looked for in this order, and the last one found wins: its default; a TOML file; the drop-ins beside"
        " it; for the database's URL a systemd credential; environment variables; the command line (`--set NAME=VALUE`)."
        " An environment variable that is empty is not set."
        " `shiftboss config show` prints what applies and where it came from; `shiftboss config check` says what is wrong."
        " How to use all this is told in [Configuration](../howto/configuration.md).",
        "The TOML file is `--config FILE`; or `conf/NAME.toml`, then `/etc/shiftboss/NAME.toml`, when an environment is named by"
        " `--env NAME` or `SHIFTBOSS_ENV`; or else `shiftboss.toml` or `conf/development.toml`, if there is one."
        " `shiftboss config init --env NAME` writes a complete, commented one. The drop-ins of `NAME.toml` are `NAME.d/*.toml`,"
        " in the order of their names.",
        "Every setting has a variable `SHIFTBOSS_<NAME>`; some have a shorter one, too. Durations are `500ms`, `30s`, `1m`,"
        " `2h`, `7d`, `1h30m`, or a number of seconds; sizes are `512MiB`, `2GiB`, or a number of bytes."
        " In a variable the names of a list are separated by commas, and"
        " `SHIFTBOSS_QUEUES` is an inline table: `{mail = {weight = 2}}`.",
    ]
    lines += ["## What a reload does", _RELOADS_HEAD, _table(("word", "a reload that changes the setting"), _RELOADS.items())]
    for setting in SETTINGS:
        if title := GROUPS.get(setting.name):
            lines.append(f"## {title}")
        lines.append(_setting_entry(setting))
    return _page(lines)


_RELOADS_HEAD: Final = (
    "`shiftboss reload` (or SIGHUP) reads all of this again. What a changed setting then takes is its word after *Reload*:"
)
_RELOADS: Final[Mapping[str, str]] = {
    f"{Reload.LIVE}": "The actors that use it are told, and work by the new value at once.",
    f"{Reload.EXECUTORS}": "The new executors have it. Every reload replaces all executors, new ones first.",
    f"{Reload.GATEWAY}": "The gateway is replaced; `/metrics` is away for a moment.",
    f"{Reload.RESTART}": "Refused, with nothing changed: it takes `systemctl restart`.",
}


def _setting_entry(setting: Setting) -> str:
    if setting.spec.kind is Kind.QUEUES:
        entries = "\n".join(f"- `{key.name}`: {key.spec.doc} Must be {expected(key.spec)}." for key in QUEUE_SETTINGS)
        facts = f"{entries}\n- Variable: `SHIFTBOSS_QUEUES`\n- Reload: {setting.spec.reload}."
        return f"### `[queues.NAME]`\n\n{setting.spec.doc}\n\n{facts}"
    default = toml_value(plain_value(Settings(), setting))
    variables = ", ".join(f"`{variable}`" for variable in reversed(setting.variables))
    if setting.file_variables:
        files = " or ".join(f"`{variable}`" for variable in reversed(setting.file_variables))
        variables += f"; {files} for a file that holds it"
    facts = (
        f"- Default: `{default}`\n- Variables: {variables}\n- Must be {expected(setting.spec)}.\n- Reload: {setting.spec.reload}."
    )
    return f"### `{setting.name}`\n\n{setting.spec.doc}\n\n{facts}"


# ---- commands


def commands_page() -> str:
    """Every command with its arguments and options, and the exit codes."""
    lines = [
        "# Commands",
        _MADE,
        "Every command has `--help`. Errors are one clear line on standard error; `DEBUG=1` adds the traceback."
        " What is for programs is on standard output, and with `--json` it is JSON."
        " `shiftboss --install-completion` sets up the shell.",
        "## Exit codes",
        _table(("code", "means"), _EXIT_CODES),
    ]
    root = typer.main.get_command(make_app())
    lines += [text for path, command in commands(root) for text in _command_entry(path, command)]
    return _page(lines)


_EXIT_CODES: Final = (
    (str(exits.DONE), "done"),
    (str(exits.NOTHING), "not found, nothing changed, or nobody reads the output"),
    (str(exits.USAGE), "the command line is wrong, or a value on it"),
    (str(exits.BUG), "an unexpected error; of `start`: gave up restarting"),
    (str(exits.NO_DATABASE), "the database cannot be reached, or is of no use as it is"),
    (str(exits.BAD_CONFIGURATION), "the settings are wrong"),
    (str(exits.INTERRUPTED), "Ctrl-C"),
)


def commands(command: Any, path: str = "shiftboss") -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its full name, in the order of `--help`."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, below in command.commands.items():
        yield from commands(below, f"{path} {name}")


def _command_entry(path: str, command: Any) -> list[str]:
    parameters = [parameter for parameter in command.params if "--help" not in parameter.opts]
    arguments = [p for p in parameters if p.param_type_name == "argument"]
    usage = " ".join([path, *(_argument(p) for p in arguments), "[OPTIONS]"])
    rows = [(f"`{_argument(p)}`", p.help) for p in arguments]
    rows += [(f"`{_option(p)}`", p.help) for p in parameters if p not in arguments]
    return [f"## `{path}`", f"```text\n{usage}\n```", inspect.cleandoc(command.help), *([_table(("", ""), rows)] if rows else [])]


def _argument(parameter: Any) -> str:
    name = parameter.metavar + ("..." if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name.strip('[]')}]"


def _option(parameter: Any) -> str:
    names = ", ".join(sorted(parameter.opts, key=len))
    return names if parameter.is_flag else f"{names} {parameter.metavar}"


# ---- states


_STATE_MEANINGS: Final[Mapping[TaskState, str]] = {
    TaskState.PENDING: "Waits: for its time (`due_at`), for a slot, for a worker that knows its type.",
    TaskState.CLAIMED: "A worker holds it for a slot that is about to be free; it has not started, and nothing is charged.",
    TaskState.RUNNING: "An attempt is under way.",
    TaskState.DEAD_LETTER: "Its attempts are used up, or its error is not to be retried. Kept for a person to look at.",
    TaskState.COMPLETED: "Ended with success; in `task_history` until its retention is over, or gone where none is kept.",
    TaskState.CANCELLED: "Ended by a cancel; in `task_history` until its retention is over.",
}
_EVENT_MEANINGS: Final[Mapping[TaskEvent, str]] = {
    TaskEvent.ENQUEUE: "a producer stores it",
    TaskEvent.CLAIM: "a worker takes it; the fence rises by one",
    TaskEvent.START: "its attempt begins and is charged",
    TaskEvent.SUCCEED: "the handler returned",
    TaskEvent.FAIL: "the handler raised, took too long, or its process died; again after a backoff while attempts are left",
    TaskEvent.RELEASE: "given back unstarted, uncharged",
    TaskEvent.INTERRUPT: "the worker had to stop; the attempt is refunded, within a limit",
    TaskEvent.SNOOZE: "the handler asked to run later; the attempt is refunded, within a limit",
    TaskEvent.RECOVER: "its worker is gone",
    TaskEvent.CANCEL: "somebody cancels it; a leased task stays until its executor has stopped it",
    TaskEvent.RETRY: "an operator runs it again, with all its attempts and the same fence",
    TaskEvent.PRUNE: "its retention is over",
}
_OUTCOME_MEANINGS: Final[Mapping[Outcome, str]] = {
    Outcome.SUCCESS: "The handler returned.",
    Outcome.FAILED: "The handler raised.",
    Outcome.TIMEOUT: "It took longer than the task's timeout.",
    Outcome.CRASHED: "Its process died under it: by a signal, by memory, by `os._exit`.",
    Outcome.LOST: "Its whole worker is gone, and the task was recovered.",
    Outcome.INTERRUPTED: "Its worker stopped before it had ended. Not charged.",
    Outcome.CANCELLED: "Somebody cancelled it, or the handler raised `Cancel`.",
    Outcome.SNOOZED: "The handler raised `Snooze`. Not charged.",
}


def states_page() -> str:
    """States of tasks, outcomes of attempts, transitions; states of child processes."""
    by_event = [
        (_state(state), f"{event}", ", ".join(sorted(_state(to) for to in targets)), _EVENT_MEANINGS[event])
        for (state, event), targets in TASK_TRANSITIONS.items()
    ]
    children = [(str(state), str(event), str(to)) for (state, event), to in CHILD_TRANSITIONS.items()]
    return _page(
        [
            "# States",
            _MADE,
            "## Of a task",
            "`pending`, `claimed`, `running` and `dead_letter` are rows of `tasks`; `completed` and `cancelled` are rows of"
            " `task_history`. What is not in the table of transitions is refused, in both databases.",
            _table(("state", "means"), [(f"`{state}`", _STATE_MEANINGS[state]) for state in TaskState]),
            "## Transitions of a task",
            _table(("from", "event", "to", "when"), by_event),
            "## Outcomes of an attempt",
            _table(("outcome", "means"), [(f"`{outcome}`", _OUTCOME_MEANINGS[outcome]) for outcome in Outcome]),
            "## Of a child process",
            "What the supervisor knows of each of its children.",
            _table(("from", "event", "to"), children),
        ]
    )


def _state(state: TaskState | None) -> str:
    return "(none)" if state is None else f"`{state}`"


# ---- errors and metrics


def errors_page() -> str:
    """Every error class, from its docstring."""
    lines = [
        "# Errors",
        _MADE,
        "All in one tree, `from shiftboss import …`: catch at the level you mean. A message says what happened and what to do.",
    ]
    for error in error_classes():
        parents = ", ".join(f"`{base.__name__}`" for base in error.__bases__)
        lines += [f"## `{error.__name__}`", f"Under {parents}.", _docstring(error)]
    return _page(lines)


def error_classes() -> Sequence[type[errors.ShiftbossError]]:
    """In the order in which they are declared."""
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ShiftbossError)]


def _docstring(kind: type) -> str:
    text, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")
    entries = [line.strip() for line in attributes.splitlines() if line.strip()]
    return "\n".join([text.strip(), "", *(f"- `{name}`:{rest}" for name, _, rest in (e.partition(":") for e in entries))]).strip()


def metrics_page() -> str:
    """Every metric, from its declaration."""
    rows = [
        (
            f"`{m.name}`",
            m.kind,
            ", ".join(f"`{label}`" for label in m.labels),
            m.help,
            "leader's worker" if m.cluster else "every worker",
        )
        for m in METRICS
    ]
    return _page(
        [
            "# Metrics",
            _MADE,
            "`GET /metrics` on `metrics_host:metrics_port`, in the Prometheus text format, served by the gateway."
            " `GET /health` is beside it.",
            "Counters are stored with the outcomes that they count, in the same transaction: no crash of an actor makes"
            " them wrong. A restarted worker begins at zero, under its new id. Figures of the whole database are shown by the"
            " leader's worker only, so a sum over all workers is right.",
            _table(("name", "kind", "labels", "means", "shown by"), rows),
            f"Of more than {MAX_TYPES:,} types the rarer ones are shown as one, `{OTHER_TYPES}`.",
            f"Buckets of `task_duration_seconds`: {_numbers(DURATION_BUCKETS_S)}.",
            f"Buckets of `task_claim_duration_seconds`: {_numbers(CLAIM_BUCKETS_S)}.",
        ]
    )


def _numbers(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


# ---- all


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "settings.md": settings_page,
    "commands.md": commands_page,
    "states.md": states_page,
    "errors.md": errors_page,
    "metrics.md": metrics_page,
}


def _page(blocks: Iterable[str]) -> str:
    return "\n\n".join(blocks) + "\n"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main() -> int:
    """Write every page; say which ones changed."""
    for name, page in PAGES.items():
        path, text = REFERENCE / name, page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
