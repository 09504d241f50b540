"""The command `uninstall`."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated

import typer

from claude_sessions_cli import as_text, options, render
from claude_sessions_cli.errors import SessionsError

app = options.new_app()


@app.command()
def uninstall(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed; remove nothing.")] = False,
    data: Annotated[bool, typer.Option("--data", help="Also delete settings, state and the private database.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Remove hooks, timers and completion.

    Stops the private server; its data stay without --data. The program itself is removed by what installed it.
    """
    from claude_sessions_cli import removal

    removals = list(removal.remove_set_up(os.environ, dry_run=dry_run))
    if data:
        removals += removal.remove_data(os.environ, dry_run=dry_run)
    output = render.Output("uninstall", json, quiet)
    found = {"dry_run": dry_run, "removals": [asdict(one) for one in removals]}
    number = sum(one.left for one in removals)
    if not (number and json):
        output.result(found, lambda: as_text.removals_text(removals, dry_run))
    if number:
        things = f"{number} thing{'' if number == 1 else 's'}"
        raise SessionsError(f"{things} could not be removed", "remove what is left by hand", found)
