"""The command `park`."""

from __future__ import annotations

from typing import Annotated

import typer

from claude_sessions_cli import invocation, options

app = options.new_app()


@app.command()
def park(
    how_long: Annotated[
        float, typer.Argument(metavar="DURATION", parser=options.duration, help="For how long, 45m at most.")
    ],
    session: options.SessionId = None,
    pid: options.Pid = None,
    tty: options.Tty = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Declare silence: nobody takes this session's claim before the time is over, though it sends no heartbeat."""
    settings = invocation.load_settings(dsn)
    caller = invocation.find_caller(settings, session=session, pid=pid, tty=tty)

    from claude_sessions_cli import render, views
    from claude_sessions_cli.operations import leases
    from claude_sessions_cli.times import utc

    output = render.Output("park", json, quiet)
    with invocation.open_database(settings, output) as database, invocation.loss_remembered(caller):
        parked = leases.park(database, caller, how_long)
    invocation.remember(caller, parked.session)
    until = parked.session.parked_until
    output.result(
        {"session": views.session_data(parked), "parked_until": until},
        lambda: f"parked {parked.session.sd_id} until {utc(until) if until else '-'}",
    )
