"""The command `version`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from claude_sessions_cli import __version__, options

app = options.new_app()


@app.command()
def version(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what the program runs on, too.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Print the version.

    With --verbose: Python, psycopg and libpq, the Postgres programs of the extra `embedded`, the platform, and where
    the SQL is read from. Asks no database.
    """
    from claude_sessions_cli import render

    output = render.Output("version", json, quiet)
    if not (verbose or json):
        output.result({}, lambda: [f"{render.PROGRAM} {__version__}"])
        return

    # Late: psycopg takes longer to import than all else.
    from claude_sessions_cli import as_text
    from claude_sessions_cli.operations.version import versions

    found = versions()
    columns = min(render.columns_of(), render.USUAL_COLUMNS)
    output.result(asdict(found), lambda: as_text.versions_text(found, columns))
