"""The command `claim`."""

from __future__ import annotations

from typing import Annotated

import typer

from claude_sessions_cli import options
from claude_sessions_cli.commands import invocation
from claude_sessions_cli.errors import UsageError
from claude_sessions_cli.model import TRACKS

app = options.new_app()


@app.command()
def claim(
    sd: Annotated[str, typer.Argument(metavar="SD", help="The work item, such as SD-AUTH-001.")],
    track: Annotated[
        str | None, typer.Option("--track", metavar="|".join(TRACKS), help="The track that the work belongs to.")
    ] = None,
    switch: Annotated[bool, typer.Option("--switch", help="Give back the item held now, and take this one.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Take it from a live holder. Needs --reason.")] = False,
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why it is taken by force.")] = None,
    session: options.SessionId = None,
    pid: options.Pid = None,
    tty: options.Tty = None,
    stale_after: options.StaleAfter = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Take a work item for this session, so that no other session works on it.

    The same claim again refreshes it. Exit 3 where a live session holds the item; one that has fallen silent, or whose
    process is gone, loses it.
    """
    if track is not None and track not in TRACKS:
        raise UsageError(f"--track is not a track: {track[:40]!r}", f"a track is one of {', '.join(TRACKS)}")
    if force and not (reason and reason.strip()):
        raise UsageError("--force needs --reason TEXT: the holder will be told why it lost its claim")
    if reason is not None and not force:
        raise UsageError("--reason goes with --force")
    settings = invocation.load_settings(dsn, stale_after)
    caller = invocation.find_caller(settings, session=session, pid=pid, tty=tty)

    from claude_sessions_cli import render, sessions

    sessions.check_work_item(sd)
    output = render.Output("claim", json, quiet)
    with invocation.open_database(settings, output) as database:
        result = sessions.claim(database, caller, sd, track=track, switch=switch, force_reason=reason)
    if result.lost_before and result.lost_before.sd_id != sd:
        output.note(f"before this, the session {render.tombstone_text(result.lost_before)}")
    output.result(render.claim_data(result), lambda: render.claim_text(result))
