"""The command `heartbeat`."""

from __future__ import annotations

from typing import Annotated

import typer

from claude_sessions_cli import options
from claude_sessions_cli.commands import invocation

app = options.new_app()


@app.command()
def heartbeat(
    register: Annotated[
        bool, typer.Option("--register", help="Register the session where it is unknown or has ended.")
    ] = False,
    session: options.SessionId = None,
    pid: options.Pid = None,
    tty: options.Tty = None,
    stale_after: options.StaleAfter = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Prove that this session lives; what it holds stays as it is.

    Exit 4 where the session is not registered, or has lost its claim: to whom, when and why. A session that lost its
    item to silence alone gets it back, under a new fence, while nobody else has taken it.
    """
    settings = invocation.load_settings(dsn, stale_after)
    caller = invocation.find_caller(settings, session=session, pid=pid, tty=tty)

    from claude_sessions_cli import render, sessions, views

    output = render.Output("heartbeat", json, quiet)
    with invocation.open_database(settings, output) as database:
        result = sessions.heartbeat(database, caller, register=register)
    if result.outcome == "lost" and result.tombstone:
        lost = sessions.lost_to(result.tombstone)
        lost.data = views.heartbeat_data(result)
        raise lost
    output.result(views.heartbeat_data(result), lambda: views.heartbeat_text(result))
