"""The command `release`."""

from __future__ import annotations

from typing import Annotated

import typer

from claude_sessions_cli import invocation, options
from claude_sessions_cli.errors import NotHeld
from claude_sessions_cli.identity import check_session_id

app = options.new_app()


@app.command()
def release(
    sd: Annotated[
        str | None,
        typer.Argument(
            metavar="[SD]",
            help="The work item; without it, whatever is held.",
            autocompletion=options.complete_held_items,
        ),
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="End the session as well.")] = False,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Why: completed, manual, or any other word.")
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(
            "--session",
            metavar="ID-PREFIX",
            help="Release this session's claim: its id, or its beginning.",
            autocompletion=options.complete_session_ids,
        ),
    ] = None,
    pid: options.Pid = None,
    tty: options.Tty = None,
    within: options.Within = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Give this session's claim back.

    Nothing held is fine (exit 0); an item that another session holds is exit 4. A session that lost its claim is told
    so once, with exit 4.
    """
    invocation.give_up_after(within)
    settings = invocation.load_settings(dsn)
    if end and pid is not None and session is None:
        caller = invocation.find_ending(settings, pid, tty)
    else:
        caller = invocation.find_caller(settings, pid=pid, tty=tty, required=session is None)
    if session is not None:
        check_session_id(session, "--session")

    from claude_sessions_cli import render, views
    from claude_sessions_cli.operations import sessions

    if sd is not None:
        sessions.check_work_item(sd)
    output = render.Output("release", json, quiet)
    with invocation.open_database(settings, output) as database:
        if session is None or session == caller.identity.session_id:
            result = sessions.release(database, caller, sd, end=end, reason=reason)
        else:
            result = sessions.release_other(database, caller, session, sd, end=end, reason=reason)
    own = session is None or session == caller.identity.session_id
    if own and result.session:
        invocation.remember(caller, result.session.session)
    if result.tombstone:
        raise NotHeld(f"this session {result.tombstone.story}", data=views.release_data(result))
    output.result(views.release_data(result), lambda: views.release_text(result))
