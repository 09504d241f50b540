"""The commands `schema apply`, `schema check` and `schema print`."""

from __future__ import annotations

from typing import Annotated

import typer

from claude_sessions_cli import invocation, options, render, views
from claude_sessions_cli.errors import SchemaMismatch

app = options.new_app("Set up the table and check it.")


@app.command("apply")
def apply_(
    grant: Annotated[
        str | None, typer.Option("--grant", metavar="ROLE", help="Also let this role use the table.")
    ] = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Create what is missing of the table. Safe to repeat, and beside the running system."""
    from claude_sessions_cli.operations import schema

    output = render.Output("schema apply", json, quiet)
    with invocation.open_database(invocation.load_settings(dsn), output) as database:
        applied = schema.apply(database, grant=grant)
    output.result(views.applied_data(applied), lambda: views.applied_text(applied))


@app.command()
def check(dsn: options.Dsn = None, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Compare the live table with what is shipped. Exit 7 where something is missing or changed."""
    from claude_sessions_cli.operations import schema

    output = render.Output("schema check", json, quiet)
    with invocation.open_database(invocation.load_settings(dsn), output) as database:
        differences = schema.check(database)
    lines = views.difference_lines(differences)
    data = views.difference_data(differences)
    wrong = sum(found.difference != "extra" for found in differences)
    if wrong:
        if not json:
            output.result(data, lambda: "\n".join(lines))
        raise SchemaMismatch(
            f"the table is not as shipped: {wrong} missing or changed",
            "create what is missing: claude-sessions schema apply; what is changed it leaves alone",
            data,
        )
    output.result(data, lambda: "\n".join([*lines, "the table is as shipped"]))


@app.command("print")
def print_() -> None:
    """Print the DDL, for psql or a migration tool of your own."""
    from claude_sessions_cli.operations import schema

    text = "\n".join(path.read_text(encoding="utf-8") for path in schema.ddl_files())
    render.Output("schema print").result({}, lambda: text)
