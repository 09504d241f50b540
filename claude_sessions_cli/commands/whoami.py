"""The command `whoami`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from claude_sessions_cli import as_json, as_text, identity, invocation, options, render
from claude_sessions_cli.errors import NoIdentity

app = options.new_app()


@app.command()
def whoami(
    explain: Annotated[bool, typer.Option("--explain", help="Show every rule, its value, and which won.")] = False,
    session: options.SessionId = None,
    pid: options.Pid = None,
    tty: options.Tty = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show this session, and what it holds.

    Exit 5 if no rule finds one. Without a database it shows the session alone, and why the database was not asked.
    """
    who = identity.detect(os.environ, session=session, pid=pid, tty=tty)
    output = render.Output("whoami", json, quiet)
    try:
        identity.require(who)
    except NoIdentity as error:
        error.data = as_json.whoami_data(who)
        if explain and not json:
            output.result(error.data, lambda: as_text.whoami_text(who, explain))
        raise
    who, found, asked, _ = invocation.ask_standings(who, dsn, output)
    output.result(as_json.whoami_data(who, found, asked), lambda: as_text.whoami_text(who, explain, found, asked))
