"""The command `history`."""

from __future__ import annotations

from typing import Annotated

import typer

from claude_sessions_cli import invocation, options
from claude_sessions_cli.errors import UsageError

app = options.new_app()


@app.command()
def history(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[SD|SESSION]",
            help="A work item or a session; without it, this session.",
            autocompletion=options.complete_known_names,
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="The latest N only.")] = 100,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show who held a work item, or what a session held: from when to when, ended how, by whom, from where."""
    settings = invocation.load_settings(dsn)
    if name is None:
        name = invocation.find_caller(settings).session_id
    if not name or not name.isprintable() or len(name) > 256:
        raise UsageError("not the name of a work item or a session")

    from claude_sessions_cli import render, views
    from claude_sessions_cli.operations import history as operation

    output = render.Output("history", json, quiet)
    with invocation.open_database(settings, output) as database:
        found = operation.read(database, name, limit=limit)
    output.result(views.history_data(found), lambda: views.history_text(found))
