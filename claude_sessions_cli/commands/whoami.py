"""The command `whoami`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from claude_sessions_cli import identity, options, render, views
from claude_sessions_cli.errors import NoIdentity

app = options.new_app()


@app.command()
def whoami(
    explain: Annotated[bool, typer.Option("--explain", help="Show every rule, its value, and which won.")] = False,
    session: options.SessionId = None,
    pid: options.Pid = None,
    tty: options.Tty = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show which session this command belongs to, and how that was found. Exit 5 where nothing says so."""
    who = identity.detect(os.environ, session=session, pid=pid, tty=tty)
    output = render.Output("whoami", json, quiet)
    try:
        identity.require(who)
    except NoIdentity as error:
        error.data = views.whoami_data(who)
        if explain and not json:
            output.result(error.data, lambda: views.whoami_text(who, explain))
        raise
    output.result(views.whoami_data(who), lambda: views.whoami_text(who, explain))
