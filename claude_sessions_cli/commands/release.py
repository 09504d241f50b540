"""The command `release`."""

from __future__ import annotations

from typing import Annotated

import typer

from claude_sessions_cli import invocation, options, prompt_sync
from claude_sessions_cli.errors import NotHeld
from claude_sessions_cli.names import check_session_id, check_work_item
from claude_sessions_cli.text import command_line

app = options.new_app()


@app.command()
def release(
    sd: Annotated[
        str | None,
        typer.Argument(
            metavar="[SD]",
            help="The work item [the one that is held].",
            autocompletion=options.complete_held_items,
        ),
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="End the session as well.")] = False,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Why: completed, manual, or any text.")
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(
            "--session",
            metavar="ID-PREFIX",
            help="Release another session's claim.",
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

    Exit 0 if nothing is held, 4 if the session holds another item, or another session holds this one. Exit 4 if it
    has lost its claim and holds nothing, until claims or releases have reported the loss twice.
    """
    invocation.limit_background_call(within)
    settings = invocation.load_settings(dsn)
    if end and pid is not None and session is None:
        caller = invocation.find_ending(settings, pid, tty)
    else:
        caller = invocation.find_caller(settings, pid=pid, tty=tty, required=session is None)
    if session is not None:
        check_session_id(session, "--session")

    from claude_sessions_cli import as_json, as_text, render
    from claude_sessions_cli.operations import release as operation
    from claude_sessions_cli.operations.tombstones import describe, held_instead

    if sd is not None:
        check_work_item(sd)
    output = render.Output("release", json, quiet)
    other = None if session == caller.identity.session_id else session
    with invocation.open_database(settings, output, starts=within is None) as database:
        if other is None:
            result = operation.release(database, caller, sd, end=end, reason=reason)
        else:
            result = operation.release_other(database, caller, other, sd, end=end, reason=reason)
    if other is None and result.session:
        prompt_sync.update(caller, result.session.session, database)
    elif result.session:
        prompt_sync.correct(caller, [result.session])
    if result.tombstone and result.sd_id is None:
        instead = held_instead(result.tombstone, result.session.session) if result.session else ""
        raise NotHeld(
            f"this session {describe(result.tombstone)}{instead}",
            f"claim it again: {command_line('claim', result.tombstone.sd_id)}",
            as_json.release_data(result),
        )
    if result.tombstone:
        output.loss(f"before this, the session {describe(result.tombstone)}")
    output.result(as_json.release_data(result), lambda: as_text.release_text(result))
