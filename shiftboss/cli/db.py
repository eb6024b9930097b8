"""`shiftboss db`: the schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from shiftboss.cli import options
from shiftboss.cli.exits import DONE, NOTHING
from shiftboss.cli.output import print_json, print_table
from shiftboss.errors import OptionError

if TYPE_CHECKING:
    from shiftboss.store.base import MigrationPlan

app = typer.Typer(help="Create, upgrade and check the database schema.", no_args_is_help=True)


@app.command()
def migrate(
    plan: Annotated[bool, typer.Option("--plan", help="Only list what would be done.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Only print the SQL that would be run.")] = False,
    env: options.Env = None,
    config: options.Config = None,
    set_: options.Set = None,
    json: options.Json = False,
) -> int:
    """Bring the schema up to date. Safe to repeat, and when several do it at once."""
    if plan and sql:
        raise typer.BadParameter("--plan and --sql exclude each other")
    with options.unchecked(options.load(env, config, set_)) as store:
        steps = store.migration_plan() if plan or sql else store.migrate()
    if json:
        print_json(_as_data(steps))
    elif sql:
        typer.echo("\n".join(f"-- {version:04d} {name}\n{text}" for version, name, text in steps.steps))
    else:
        verb = "would run" if plan else "ran"
        nothing = f"nothing to do: the schema is at version {steps.current}"
        print_table(("version", "migration", ""), [(version, name, verb) for version, name, _ in steps.steps], empty=nothing)
    return DONE


@app.command()
def check(env: options.Env = None, config: options.Config = None, set_: options.Set = None, json: options.Json = False) -> int:
    """Say whether the database answers and its schema fits: exit 0; 1 when it is to be migrated; 75 when it is of no use."""
    with options.unchecked(options.load(env, config, set_)) as store:
        steps = store.migration_plan()
        if not steps.steps:
            store.check_schema()
    if json:
        print_json(_as_data(steps))
    elif steps.steps:
        typer.echo(f"the schema is at version {steps.current} of {steps.target}; run `shiftboss db migrate`")
    else:
        typer.echo(f"the schema is at version {steps.current}, as it should be")
    return NOTHING if steps.steps else DONE


@app.command()
def roles(
    worker: Annotated[
        list[str] | None, typer.Option(metavar="ROLE", help="May run a service and operate it: tasks, queues. May be repeated.")
    ] = None,
    producer: Annotated[list[str] | None, typer.Option(metavar="ROLE", help="May enqueue, and nothing else.")] = None,
    reader: Annotated[
        list[str] | None, typer.Option(metavar="ROLE", help="May look at everything but arguments, results, meta and progress.")
    ] = None,
    print_: Annotated[bool, typer.Option("--print", help="Only print the SQL that would be run.")] = False,
    env: options.Env = None,
    config: options.Config = None,
    set_: options.Set = None,
) -> int:
    """Give PostgreSQL roles exactly the rights that they need. As the owner of the tables; safe to repeat.

    The roles must exist. Run it again after `db migrate`.
    """
    wanted = {"worker": worker or [], "producer": producer or [], "reader": reader or []}
    if not any(wanted.values()):
        raise typer.BadParameter("name at least one role, like --worker shiftboss_worker --producer app --reader grafana")
    url = options.load(env, config, set_).settings.database_url
    if url.startswith("sqlite"):
        raise OptionError("an SQLite file has no roles: whoever may write it may do everything; see its owner and mode")
    from shiftboss.store.postgres.roles import grant_roles

    sql = grant_roles(url, wanted, execute=not print_)
    if print_:
        typer.echo(sql)
    else:
        rows = [(role, kind) for kind, names in wanted.items() for role in names]
        print_table(("role", "may do what this needs"), rows, empty="")
    return DONE


def _as_data(plan: MigrationPlan) -> dict[str, object]:
    steps = [{"version": version, "name": name, "sql": sql} for version, name, sql in plan.steps]
    return {"current": plan.current, "target": plan.target, "steps": steps}
