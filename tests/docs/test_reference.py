"""The reference has an entry for everything there is, and for nothing else."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from shiftboss.events import Event

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
CODE = ("shiftboss", "actors", "supervisor")


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_reference", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = load_generator()


@pytest.mark.parametrize("name", GENERATOR.PAGES)
def test_a_generated_page_is_what_the_code_says(name: str) -> None:
    assert (REFERENCE / name).read_text(encoding="utf-8") == GENERATOR.PAGES[name](), "run: .venv/bin/python docs/generate.py"


def test_there_is_no_page_that_nobody_keeps() -> None:
    assert {path.name for path in REFERENCE.glob("*.md")} == {*GENERATOR.PAGES, "events.md"}


# ---- events.md: by hand


def documented_events() -> dict[str, set[str]]:
    """Event -> its fields, from the rows of the tables."""
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|.*\| ([^|]*) \|$", (REFERENCE / "events.md").read_text(), re.MULTILINE)
    assert len(rows) == len(dict(rows)), "an event stands twice"
    return {name: set(re.findall(r"`([a-z_]+)`", fields)) for name, fields in rows}


def emitted_fields() -> dict[str, set[str]]:
    """Event -> the fields that the code writes out by name, in `emit(…, Event.NAME, field=…, **fields)` and `fields = {…}`."""
    found: dict[str, set[str]] = defaultdict(set)
    for function in functions():
        calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
        for call in calls:
            if not (isinstance(call.func, ast.Name) and call.func.id == "emit"):
                continue
            for argument in call.args:
                if isinstance(argument, ast.Attribute) and ast.unparse(argument.value) == "Event":
                    found[Event[argument.attr]] |= {keyword.arg for keyword in call.keywords if keyword.arg}
                    if any(keyword.arg is None for keyword in call.keywords):
                        found[Event[argument.attr]] |= keys_of_fields(function)
    return dict(found)


def keys_of_fields(function: ast.AST) -> set[str]:
    """The keys of every `fields = {…}` and `fields |= {…}` in it."""
    dicts = [
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and isinstance(node.value, ast.Dict)
    ]
    return {key.value for made in dicts for key in made.keys if isinstance(key, ast.Constant)}


def functions() -> Iterator[ast.AST]:
    for folder in CODE:
        for path in (ROOT / folder).rglob("*.py"):
            yield from (n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.FunctionDef))


def written_events() -> set[str]:
    """Events that anything but their declaration mentions."""
    text = "".join(
        path.read_text(encoding="utf-8") for folder in CODE for path in (ROOT / folder).rglob("*.py") if path.name != "events.py"
    )
    return {event.value for event in Event if re.search(rf"\bEvent\.{event.name}\b", text)}


def test_an_event_is_called_reserved_exactly_when_nothing_writes_it() -> None:
    reserved = re.search(r"^## Reserved names\n\n(.*)\Z", (REFERENCE / "events.md").read_text(), re.MULTILINE | re.DOTALL)
    names = set(re.findall(r"^- `([a-z_.]+)`", reserved[1], re.MULTILINE)) if reserved else set()
    assert names == {event.value for event in Event} - written_events()


def test_every_event_has_its_row_and_no_row_is_left_over() -> None:
    assert set(documented_events()) == written_events()


def test_every_field_that_the_code_writes_is_in_its_events_row() -> None:
    documented = documented_events()
    missing = {event: sorted(fields - documented[event]) for event, fields in emitted_fields().items()}
    assert {event: fields for event, fields in missing.items() if fields} == {}


def test_the_check_of_fields_finds_them() -> None:
    fields = emitted_fields()
    assert "term" in fields[Event.LEADER_ELECTED]
    assert "incarnation" in fields[Event.ACTOR_READY]  # by way of **fields


# ---- commands


def test_every_command_and_option_says_what_it_does() -> None:
    silent = []
    for path, command in GENERATOR.commands(GENERATOR.typer.main.get_command(GENERATOR.make_app())):
        assert command.help, path
        for parameter in command.params:
            named = parameter.metavar or getattr(parameter, "is_flag", False) or "--help" in parameter.opts
            if not parameter.help or not named:
                silent.append(f"{path} {parameter.name}")
    assert silent == []
