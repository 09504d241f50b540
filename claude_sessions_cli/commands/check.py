"""The command `check`."""

from __future__ import annotations

from typing import Annotated

import typer

from claude_sessions_cli import invocation, options

app = options.new_app()


@app.command()
def check(
    sd: Annotated[
        str | None,
        typer.Argument(
            metavar="[SD]", help="The work item; without it, any.", autocompletion=options.complete_held_items
        ),
    ] = None,
    fence: Annotated[int | None, typer.Option("--fence", metavar="N", help="The fence that must be current.")] = None,
    session: options.SessionId = None,
    pid: options.Pid = None,
    tty: options.Tty = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Tell whether this session holds the work item: exit 0 if so, 4 if not. For scripts and hooks; never writes."""
    settings = invocation.load_settings(dsn)
    caller = invocation.find_caller(settings, session=session, pid=pid, tty=tty)

    from claude_sessions_cli import render, views
    from claude_sessions_cli.operations import leases

    output = render.Output("check", json, quiet)
    with invocation.open_database(settings, output) as database, invocation.loss_remembered(caller):
        held = leases.check(database, caller, sd, fence=fence)
    invocation.remember(caller, held.session)
    output.result(
        {"session": views.session_data(held), "fence": held.session.fence},
        lambda: f"{held.session.sd_id} is yours, fence {held.session.fence}",
    )
