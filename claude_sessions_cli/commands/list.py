"""The command `list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from claude_sessions_cli import invocation, options
from claude_sessions_cli.errors import UsageError
from claude_sessions_cli.model import STATUSES, TRACKS
from claude_sessions_cli.names import check_work_item

if TYPE_CHECKING:
    from claude_sessions_cli.table import Table

app = options.new_app()
WATCH_EVERY_S = 2.0


@app.command("list")
def list_(
    sd: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SD]...",
            help="Only the holders of these work items.",
            autocompletion=options.complete_held_items,
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Include sessions that have ended.")] = False,
    status: Annotated[
        list[str] | None, typer.Option("--status", metavar="|".join(STATUSES), help="Only this status; repeatable.")
    ] = None,
    track: Annotated[
        list[str] | None, typer.Option("--track", metavar="|".join(TRACKS), help="Only this track; repeatable.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", metavar="NAME", help="Only sessions on the host NAME.")] = None,
    here: Annotated[bool, typer.Option("--here", help="Only sessions on the command's own host.")] = False,
    codebase: Annotated[str | None, typer.Option("--codebase", metavar="NAME", help="Only this codebase.")] = None,
    mine: Annotated[bool, typer.Option("--mine", help="Only this session.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, max=options.MAX_LIMIT, metavar="N", help="At most N sessions.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until Ctrl-C.")] = False,
    interval: Annotated[
        float | None,
        typer.Option("--interval", parser=options.duration, metavar="DURATION", help="How often [2s]."),
    ] = None,
    session: options.SessionId = None,
    stale_after: options.StaleAfter = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show who holds what, and whether it lives.

    YOURS is this session; DEAD has a process that is gone; PARKED has declared its silence; LAPSED may be taken by
    anyone; LIVE has a live process or a fresh heartbeat; QUIET is the rest. A narrow terminal shows fewer columns, and
    ids as prefixes, which other commands accept if they are unique.
    """
    options.check_words("--status", status or (), STATUSES)
    options.check_track(*(track or ()))
    if host is not None and here:
        raise UsageError("--host cannot be combined with --here")
    settings = invocation.load_settings(dsn, stale_after)
    caller = invocation.find_caller(settings, session=session, required=mine)

    from claude_sessions_cli import as_json, render, table
    from claude_sessions_cli.operations import list as operation

    filters = operation.Filters(
        sd_ids=[check_work_item(item) for item in sd or ()],
        all_statuses=all_,
        statuses=status or (),
        tracks=track or (),
        hostname=caller.identity.host.hostname if here else host,
        boot_id=caller.identity.host.boot_id if here else None,
        codebase=codebase,
        session_id=caller.session_id if mine else None,
        limit=limit,
    )
    output = render.Output("list", json, quiet)
    with invocation.open_database(settings, output) as database:

        def look() -> tuple[dict[str, Any], Table]:
            found = operation.list_sessions(database, caller, filters)
            return as_json.listing_data(found), table.rows(table.LIST, found.sessions)

        if watch:
            output.watch(look, interval or WATCH_EVERY_S)
            return
        data, rows = look()
    output.table(data, rows, "no sessions")
    if (more := data["total"] - len(rows) + 1) > 0:
        output.note(f"{more} more")
