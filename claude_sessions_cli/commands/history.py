"""The command `history`."""

from __future__ import annotations

from typing import Annotated

import typer

from claude_sessions_cli import invocation, options
from claude_sessions_cli.names import check_name

app = options.new_app()


@app.command()
def history(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[SD|SESSION]",
            help="A work item or a session [this session].",
            autocompletion=options.complete_known_names,
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=options.MAX_LIMIT, metavar="N", help="At most the latest N.")
    ] = 100,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show who held an item, and how it ended.

    For a session: its terms, with times, and who ended each, from which host.
    """
    settings = invocation.load_settings(dsn)
    if name is None:
        name = invocation.find_caller(settings).session_id
    check_name(name)

    from claude_sessions_cli import as_json, as_text, render
    from claude_sessions_cli.operations import history as operation

    output = render.Output("history", json, quiet)
    with invocation.open_database(settings, output) as database:
        found = operation.read(database, name, limit=limit)
    output.result(as_json.history_data(found), lambda: as_text.history_text(found))
