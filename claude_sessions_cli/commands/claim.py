"""The command `claim`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from claude_sessions_cli import invocation, options, prompt_sync
from claude_sessions_cli.errors import UsageError
from claude_sessions_cli.names import check_note, check_work_item

if TYPE_CHECKING:
    from claude_sessions_cli.operations.claim import ClaimResult

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
    any_: Annotated[bool, typer.Option("--any", help="Claim the first free one of several items.")] = False,
    track: options.Track = None,
    switch: Annotated[bool, typer.Option("--switch", help="Give back the item held now, and claim this one.")] = False,
    wait: options.Wait = None,
    force: Annotated[bool, typer.Option("--force", help="Take it from a live holder; needs --reason.")] = False,
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why, for the holder.")] = None,
    fence: Annotated[
        int | None, typer.Option("--fence", metavar="N", help="With --force: only if this term still lasts.")
    ] = None,
    note: Annotated[str | None, typer.Option("--note", metavar="TEXT", help="What for; others see it.")] = None,
    session: options.SessionId = None,
    pid: options.Pid = None,
    tty: options.Tty = None,
    stale_after: options.StaleAfter = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Claim a work item for this session.

    Repeating a claim refreshes it. Exit 3 if a live session holds the item; a holder that fell silent, or whose process
    is gone, loses it.
    """
    options.check_track(track)
    if len(sd) > 1 and not any_:
        raise UsageError("a session holds one work item at a time", "claim the first free one: add --any")
    if force and not (reason and reason.strip()):
        raise UsageError("--force needs --reason", "write why, for the holder: --reason TEXT")
    if not force and (reason is not None or fence is not None):
        raise UsageError(f"{'--reason' if fence is None else '--fence'} needs --force", "add --force --reason TEXT")
    if note is not None:
        note = check_note(note)
    settings = invocation.load_settings(dsn, stale_after)
    caller = invocation.find_caller(settings, session=session, pid=pid, tty=tty)

    from claude_sessions_cli import as_json, as_text, render
    from claude_sessions_cli.operations import claim as operation
    from claude_sessions_cli.operations.tombstones import describe

    for item in sd:
        check_work_item(item)
    output = render.Output("claim", json, quiet)
    deadline = invocation.deadline_after(wait)
    with invocation.open_database(settings, output, deadline) as database:

        def claim_one(item: str) -> ClaimResult:
            return operation.claim(
                database,
                caller,
                item,
                track=track,
                switch=switch,
                force_reason=reason,
                force_fence=fence,
                note=note,
                several=len(sd) > 1 or deadline is not None,
            )

        result = invocation.claim_or_wait(database, caller, sd, deadline, claim_one, output)
    prompt_sync.update(caller, result.session.session, database)
    if result.lost_before:
        output.loss(f"before this, the session {describe(result.lost_before)}")
    output.result(as_json.claim_data(result), lambda: as_text.claim_text(result))
