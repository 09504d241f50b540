"""The command `claim`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from claude_sessions_cli import invocation, options
from claude_sessions_cli.errors import UsageError

if TYPE_CHECKING:
    from claude_sessions_cli.model import ClaimResult

app = options.new_app()


@app.command()
def claim(
    sd: Annotated[
        list[str],
        typer.Argument(
            metavar="SD...",
            help="The work item, such as SD-AUTH-001.",
            autocompletion=options.complete_known_items,
        ),
    ],
    any_: Annotated[bool, typer.Option("--any", help="Take the first free one of several items.")] = False,
    track: options.Track = None,
    switch: Annotated[bool, typer.Option("--switch", help="Give back the item held now, and take this one.")] = False,
    wait: options.Wait = None,
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
    options.check_track(track)
    if len(sd) > 1 and not any_:
        raise UsageError("several work items need --any: a session holds one at a time")
    if force and not (reason and reason.strip()):
        raise UsageError("--force needs --reason TEXT: the holder will be told why it lost its claim")
    if reason is not None and not force:
        raise UsageError("--reason goes with --force")
    settings = invocation.load_settings(dsn, stale_after)
    caller = invocation.find_caller(settings, session=session, pid=pid, tty=tty)

    from claude_sessions_cli import render, views
    from claude_sessions_cli.operations import sessions

    for item in sd:
        sessions.check_work_item(item)
    output = render.Output("claim", json, quiet)
    with invocation.open_database(settings, output) as database:

        def claim_one(item: str) -> ClaimResult:
            return sessions.claim(database, caller, item, track=track, switch=switch, force_reason=reason)

        result = invocation.claim_or_wait(database, caller, sd, wait, claim_one, output)
    invocation.remember(caller, result.session.session)
    if result.lost_before:
        output.note(f"before this, the session {result.lost_before.story}")
    output.result(views.claim_data(result), lambda: views.claim_text(result))
