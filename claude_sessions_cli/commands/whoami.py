"""The command `whoami`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from claude_sessions_cli import as_json, as_text, identity, invocation, options, render
from claude_sessions_cli.errors import NoIdentity, SessionsError, Unreachable
from claude_sessions_cli.settings import Asked

if TYPE_CHECKING:
    from claude_sessions_cli.identity import Identity
    from claude_sessions_cli.operations.whoami import Standings
    from claude_sessions_cli.render import Output

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
    found, asked = _ask(who, dsn, output)
    output.result(as_json.whoami_data(who, found, asked), lambda: as_text.whoami_text(who, explain, found, asked))


def _ask(who: Identity, dsn: str | None, output: Output) -> tuple[Standings | None, Asked]:
    """Return what the database says of the session, and which database it is."""
    name = source = None
    try:
        settings = invocation.load_settings(dsn)
        source = settings.dsn_source
        if settings.dsn is None:
            from claude_sessions_cli.embedded import server

            name = f"the private server in {server.status().data_dir}"
            if not server.status().running:
                raise Unreachable(f"{name} is not running")

        from claude_sessions_cli.operations.caller import Caller
        from claude_sessions_cli.operations.whoami import whoami as operation

        with invocation.open_database(settings, output) as database:
            name = name or database.description
            return operation(database, Caller(who, settings)), Asked(name, source, None)
    except SessionsError as error:
        return None, Asked(name, source, error.message)
